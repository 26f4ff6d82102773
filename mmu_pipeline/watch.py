"""One run -> all who look at it: the bars on the terminal, the log, the metrics and the journal that its page is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from mmu_pipeline.journal import Journal
from mmu_pipeline.metrics import served
from mmu_pipeline.outcome_log import outcomes_logged
from mmu_pipeline.progress import Tally, shown
from mmu_pipeline.stages.build import Outcome

Told = TypeVar("Told")


@dataclass(frozen=True)
class Watch:
    """What a run tells while it goes on."""

    note: Callable[[Outcome], None]
    """To be called once with each unit that is finished, reused or set aside."""
    show: Callable[[Tally], None]
    """To be called with the present tally of a stage, as often as you like."""


@contextmanager
def watching(recipe: str, journal: Journal, *, quiet: bool = False, metrics: str | None = None) -> Iterator[Watch]:
    """Open all views of one run; `metrics` is the address of its metrics, None for none. Raises BadInput as `served` does."""
    with shown(quiet) as bars, served(recipe, metrics) as (count, gauge):
        yield Watch(all_of(journal.add, outcomes_logged(recipe), count), all_of(bars, gauge))


def all_of(*calls: Callable[[Told], None]) -> Callable[[Told], None]:
    """A function that calls several, one after the other."""

    def tell(what: Told) -> None:
        for call in calls:
            call(what)

    return tell

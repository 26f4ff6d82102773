"""What each stage has done -> what a person sees of it: live bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmu_pipeline.stages.build import Deal, Outcome, Unit
from mmu_pipeline.tables import size

LINE_EVERY_S = 10.0
"""Time between two plain lines of one stage."""


@dataclass(frozen=True)
class Tally:
    """Units of one stage and what became of them."""

    stage: str
    units: int
    done: int = 0
    reused: int = 0
    set_aside: int = 0
    running: int = 0
    """Units out on workers at this moment."""
    rows: int = 0
    """Rows out, of the units done or reused."""
    bytes: int = 0
    """Size of their outputs."""
    seconds: float = 0.0
    """How long the stage took, once it is over."""

    @property
    def finished(self) -> int:
        return self.done + self.reused + self.set_aside

    def plus(self, outcome: Outcome) -> Tally:
        """With one more outcome."""
        whole = outcome.status != "set_aside"
        return replace(
            self,
            **{outcome.status: getattr(self, outcome.status) + 1},
            rows=self.rows + outcome.receipt.rows_out * whole,
            bytes=self.bytes + sum(outcome.receipt.outputs.values()) * whole,
        )


def sentence(tally: Tally) -> str:
    """One line about a stage: `match    120/3072 units, 1,204,331 rows, 310 MB, 2 set aside`."""
    parts = [f"{tally.stage:<8} {tally.finished}/{tally.units} units"]
    if tally.rows:
        parts += [f"{tally.rows:,} rows", size(tally.bytes)]
    if tally.reused:
        parts.append(f"{tally.reused} reused")
    if tally.running:
        parts.append(f"{tally.running} running")
    if tally.set_aside:
        parts.append(f"{tally.set_aside} set aside")
    return ", ".join(parts)


def counted(deal: Deal, stage: str, show: Callable[[Tally], None]) -> Deal:
    """`deal`, which shows the tally of a stage as its outcomes come."""

    def counting(run: Callable[[Unit, Any], Outcome], job: Any, units: Sequence[Unit]) -> Iterator[Outcome]:
        tally = Tally(stage, len(units))
        show(tally)
        for outcome in deal(run, job, units):
            tally = tally.plus(outcome)
            show(tally)
            yield outcome

    return counting


@contextmanager
def shown(quiet: bool = False) -> Iterator[Callable[[Tally], None]]:
    """A function that shows the present tally of a stage on stderr; call it as often as you like."""
    console = Console(stderr=True)
    if quiet:
        yield lambda tally: None
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _live(bars)
    else:
        yield _plain()


def _plain() -> Callable[[Tally], None]:
    printed: dict[str, float] = {}

    def show(tally: Tally) -> None:
        now = time.monotonic()
        whole = tally.finished == tally.units
        if now - printed.setdefault(tally.stage, now) >= LINE_EVERY_S or (whole and printed[tally.stage] != float("inf")):
            printed[tally.stage] = float("inf") if whole else now
            print(sentence(tally), file=sys.stderr, flush=True)

    return show


class _Facts(ProgressColumn):
    def render(self, task: Task) -> Text:
        tally: Tally = task.fields["tally"]
        text = Text(f"{tally.finished}/{tally.units}")
        if tally.rows:
            text.append(f"  {tally.rows:,} rows  {size(tally.bytes)}")
        if tally.reused:
            text.append(f"  {tally.reused} reused", "dim")
        if tally.running:
            text.append(f"  {tally.running} running", "cyan")
        if (task.speed or 0) and tally.rows and not task.finished:
            text.append(f"  {_rate(task.fields['first'], tally, task.elapsed or 0.0)}", "dim")
        if tally.set_aside:
            text.append(f"  {tally.set_aside} set aside", "yellow")
        return text


def _rate(first: Tally, tally: Tally, seconds: float) -> str:
    """Rows and bytes a second since the stage was first shown: what was reused is in that first tally."""
    if not seconds:
        return ""
    return f"{(tally.rows - first.rows) / seconds:,.0f} rows/s  {size((tally.bytes - first.bytes) / seconds)}/s"


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<8}"), BarColumn(24), _Facts(), TimeRemainingColumn(elapsed_when_finished=True))
    return Progress(*columns, console=console, refresh_per_second=5)


def _live(bars: Progress) -> Callable[[Tally], None]:
    rows: dict[str, int] = {}

    def show(tally: Tally) -> None:
        if tally.stage not in rows:
            rows[tally.stage] = int(bars.add_task(tally.stage, total=tally.units, tally=tally, first=tally))
        bars.update(rows[tally.stage], completed=tally.finished, tally=tally)  # type: ignore[arg-type]

    return show

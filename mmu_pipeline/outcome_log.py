"""What became of units and of stages -> log records."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mmu_pipeline.log import LOGGER, facts_of
from mmu_pipeline.progress import Tally
from mmu_pipeline.stages.build import Outcome


def outcomes_logged(recipe: str) -> Callable[[Outcome], None]:
    """A function that logs what became of a unit: set aside as a warning, the rest at level DEBUG."""

    def note(outcome: Outcome) -> None:
        unit, receipt = outcome.unit, outcome.receipt
        aside = outcome.status == "set_aside" or receipt.status != "done"
        facts = facts_of(recipe, unit) | {
            "status": outcome.status, "rows": receipt.rows_out, "seconds": receipt.seconds, "worker": receipt.worker,
            "attempts": outcome.attempts, "reason": receipt.reason or None,
        }  # fmt: skip
        text = f"{unit.stage} {unit.name}: {outcome.status.replace('_', ' ')}"
        if receipt.reason:
            text += f": {receipt.reason}"
        LOGGER.log(logging.WARNING if aside else logging.DEBUG, "%s", text, extra=facts)

    return note


def log_stage(recipe: str, tally: Tally) -> None:
    """Log that a stage is over."""
    facts = {
        "recipe": recipe, "stage": tally.stage, "units": tally.units, "done": tally.done, "reused": tally.reused,
        "set_aside": tally.set_aside, "rows": tally.rows, "bytes": tally.bytes, "seconds": tally.seconds,
    }  # fmt: skip
    LOGGER.info(
        "%s: %d units, %d done, %d reused, %d set aside, %d rows, %.1f s", tally.stage, tally.units, tally.done, tally.reused,
        tally.set_aside, tally.rows, tally.seconds, extra=facts,
    )  # fmt: skip

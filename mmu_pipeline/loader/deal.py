"""Positions of an epoch -> batches of each rank: as many on every rank, each position in one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import Int

Last = Literal["share", "drop", "pad", "repeat"]
LAST = ("share", "drop", "pad", "repeat")


@dataclass(frozen=True)
class Deal:
    """How the positions `start..samples` of an epoch go to ranks: step by step, to each rank the next `batch_size`.

    After any step what was dealt is a prefix of the epoch, whatever the number of ranks: to go on with other ranks or
    another batch size, deal again from there.
    """

    samples: int
    batch_size: int
    """Samples in the batch of one rank."""
    world: int = 1
    last: Last = "share"
    """What becomes of an end that does not fill a batch on every rank. share: it is dealt evenly in smaller batches (of
    the last two steps, if there would be fewer samples than ranks). drop: left out. pad: filled up from the epoch's
    first positions, flagged. repeat: the same, not flagged."""
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world < 1:
            raise BadInput("a batch and a world hold at least one", batch_size=self.batch_size, world=self.world)
        if self.last not in LAST:
            raise BadInput(f"unknown way to end an epoch {self.last!r}", hint=", ".join(LAST))
        if not 0 <= self.start <= self.samples:
            raise BadInput("the epoch does not have the position to start from", start=self.start, samples=self.samples)

    @property
    def steps(self) -> int:
        """Batches of every rank."""
        full, rest = divmod(self.samples - self.start, self.batch_size * self.world)
        return full + (rest > 0 and self.last != "drop")

    def bounds(self, step: int) -> Int:
        """Where the batch of each rank begins, and where the last one ends: shape (world + 1,). May pass `samples`."""
        shared = self._shared_steps
        if step < self.steps - shared:
            return self.start + (step * self.world + np.arange(self.world + 1)) * self.batch_size
        begin = self.start + (self.steps - shared) * self.world * self.batch_size
        slots = np.arange(self.world + 1) + (step - self.steps + shared) * self.world
        return begin + (self.samples - begin) * slots // (shared * self.world)

    def positions(self, step: int, rank: int) -> Int:
        """Positions of one batch. Those from `samples` on are repeats that fill it: modulo `samples` they are positions."""
        begin, end = self.bounds(step)[rank : rank + 2]
        return np.arange(begin, end)

    def dealt(self, steps: int) -> int:
        """Positions of the epoch that have been dealt after so many steps."""
        return self.start if steps == 0 else min(int(self.bounds(steps - 1)[-1]), self.samples)

    @property
    def _shared_steps(self) -> int:
        """Steps at the end that are dealt in smaller batches."""
        rest = (self.samples - self.start) % (self.batch_size * self.world)
        if self.last != "share" or rest == 0:
            return 0
        return 2 if rest < self.world and self.steps > 1 else 1


@dataclass(frozen=True)
class Progress:
    """How far a run has come, valid for any number of ranks."""

    epoch: int = 0
    dealt: int = 0
    """Positions of the epoch that have been dealt."""

    def after(self, deal: Deal, steps: int) -> Progress:
        """Where a run is after so many steps of a deal: in the next epoch, if they were all."""
        return Progress(self.epoch + 1) if steps >= deal.steps else replace(self, dealt=deal.dealt(steps))

    def state(self, **identity: Any) -> dict[str, Any]:
        """As plain values, with what they are valid for."""
        return {"epoch": self.epoch, "dealt": self.dealt, **identity}


def progress_of(state: Mapping[str, Any], **identity: Any) -> Progress:
    """The progress that `Progress.state` gave. Raises BadInput if it belongs to another order of samples."""
    if differs := sorted(name for name, value in identity.items() if state.get(name) != value):
        raise BadInput(
            "the state belongs to another order of samples",
            **{name: f"{state.get(name)!r}, here {identity[name]!r}" for name in differs},
            hint="load the same samples with the same seed and shuffle; ranks and batch size may differ",
        )
    return Progress(int(state["epoch"]), int(state["dealt"]))

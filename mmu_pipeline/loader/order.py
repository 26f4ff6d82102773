"""Seed, epoch and position -> row of a dataset: a pure function, so that any point of any epoch is found at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader.permutation import key_of, permuted
from mmu_pipeline.sky import Int

Shuffle = Literal["global", "block"] | None


class Order(Protocol):
    """In which order the rows of a dataset are visited. One epoch has `samples` positions, counted from 0."""

    @property
    def samples(self) -> int: ...

    def rows(self, epoch: int, positions: Int) -> Int:
        """The row at each position of an epoch, shape (n,)."""
        ...


@dataclass(frozen=True)
class InSequence:
    """Row after row, every epoch alike."""

    samples: int

    def rows(self, epoch: int, positions: Int) -> Int:
        return positions


@dataclass(frozen=True)
class GlobalShuffle:
    """Every row once, in an order drawn anew each epoch from all orders that a key can tell apart."""

    samples: int
    seed: int = 0

    def rows(self, epoch: int, positions: Int) -> Int:
        return permuted(positions, self.samples, key_of(self.seed, epoch, "rows"))


@dataclass(frozen=True)
class BlockShuffle:
    """Every row once: blocks of neighbouring rows are shuffled, then the rows of each `window` blocks among themselves.

    What lies together is read together, and no more than `block * window` samples are in play at a time. Where blocks
    begin is drawn anew each epoch.
    """

    samples: int
    seed: int = 0
    block: int = 256
    window: int = 32

    def __post_init__(self) -> None:
        if self.block < 1 or self.window < 1:
            raise BadInput("a block and a window hold at least one", block=self.block, window=self.window)

    def rows(self, epoch: int, positions: Int) -> Int:
        span = self.block * self.window
        full, within = self.samples // span * span, np.empty_like(positions)
        for begin, size, chosen in (
            (positions // span * span, span, positions < full),
            (np.int64(full), self.samples - full, positions >= full),
        ):
            starts = np.broadcast_to(begin, positions.shape)[chosen]
            keys = starts.astype(np.uint64) + np.uint64(key_of(self.seed, epoch, "window") >> 1)
            within[chosen] = starts + permuted(positions[chosen] - starts, size, keys)
        blocks = self.samples // self.block
        block = within // self.block
        whole = block < blocks
        block[whole] = permuted(block[whole], blocks, key_of(self.seed, epoch, "blocks"))
        first = key_of(self.seed, epoch, "first") % max(self.samples, 1)
        return (block * self.block + within % self.block + first) % max(self.samples, 1)


def order_of(shuffle: Shuffle, samples: int, seed: int, block: int = 256, window: int = 32) -> Order:
    """The order by its name. Raises BadInput for an unknown one."""
    match shuffle:
        case None:
            return InSequence(samples)
        case "global":
            return GlobalShuffle(samples, seed)
        case "block":
            return BlockShuffle(samples, seed, block, window)
    raise BadInput(f"unknown shuffle {shuffle!r}", hint="global, block or None")

"""Groups of rows and their weights -> an order that draws from each in proportion: several sets, or strata of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader.dataset import ShardDataset
from mmu_pipeline.loader.permutation import UInt, key_of, permuted, scattered
from mmu_pipeline.sky import Int
from mmu_pipeline.storage import digest

CYCLE = 4096
"""Positions in which every group has its share, to the nearest whole number; within a cycle their order is drawn anew."""


@dataclass(frozen=True)
class Mixture:
    """An order of drawing from groups of rows, each by its weight. It goes on from epoch to epoch.

    Without `replacement` a group is gone through, shuffled, before any row of it comes again, across epochs; with it,
    every draw is from all its rows.
    """

    groups: tuple[Int, ...]
    """Rows of each group."""
    weights: tuple[float, ...]
    samples: int
    """Positions of an epoch: a number of one's own choice, since groups are used up at different times."""
    seed: int = 0
    replacement: bool = False

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.weights) or not self.groups:
            raise BadInput("as many weights as groups are needed", groups=len(self.groups), weights=len(self.weights))
        for number, (group, weight) in enumerate(zip(self.groups, self.weights, strict=True)):
            if not (np.isfinite(weight) and weight >= 0) or (weight > 0 and not len(group)):
                raise BadInput("a weight is not a number from 0 up, or its group is empty", group=number, weight=weight)
        if not sum(self.weights) > 0:
            raise BadInput("all weights are 0", weights=self.weights)

    def __repr__(self) -> str:
        rows = digest(b"".join(np.asarray(group, np.int64).tobytes() for group in self.groups))
        return f"Mixture({rows}, {self.weights}, {self.samples}, {self.seed}, {self.replacement})"

    def rows(self, epoch: int, positions: Int) -> Int:
        cycle, place = np.divmod(positions + epoch * self.samples, CYCLE)
        found = np.empty(len(positions), np.int64)
        for one in np.unique(cycle).tolist():
            chosen = cycle == one
            group, number = self._cycle(one)
            found[chosen] = self._drawn(group[place[chosen]], number[place[chosen]])
        return found

    @cached_property
    def shares(self) -> Int:
        """Positions of each group in a cycle: the largest remainders are rounded up."""
        exact = np.array(self.weights) / sum(self.weights) * CYCLE
        counts = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: CYCLE - counts.sum()]] += 1
        return counts

    def _cycle(self, cycle: int) -> tuple[Int, Int]:
        """Group of each position of a cycle, and which draw from it, counted from the beginning of all."""
        ordered = np.repeat(np.arange(len(self.groups)), self.shares)
        group = ordered[permuted(np.arange(CYCLE), CYCLE, key_of(self.seed, cycle, "cycle"))]
        within = np.arange(CYCLE) - np.repeat(np.cumsum(self.shares) - self.shares, self.shares)
        number = np.empty(CYCLE, np.int64)
        number[np.argsort(group, kind="stable")] = cycle * self.shares[ordered] + within
        return group, number

    def _drawn(self, group: Int, number: Int) -> Int:
        """The rows of these draws from these groups."""
        found = np.empty(len(group), np.int64)
        for one in np.unique(group).tolist():
            rows, draws = self.groups[one], number[group == one]
            if self.replacement:
                keys = draws.astype(np.uint64) + np.uint64(key_of(self.seed, one, "draw") >> 1)
                taken = (_bits(keys) % np.uint64(len(rows))).astype(np.int64)
            else:
                turn, place = np.divmod(draws, len(rows))
                keys = turn.astype(np.uint64) + np.uint64(key_of(self.seed, one, "turn") >> 1)
                taken = permuted(place, len(rows), keys)
            found[group == one] = rows[taken]
        return found


def _bits(keys: UInt) -> UInt:
    """64 bits that look random, from each key."""
    return (scattered(keys, 0) << np.uint64(32)) | scattered(keys, 1)


def mixed(
    datasets: Sequence[ShardDataset],
    weights: Sequence[float] | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    replacement: bool = False,
) -> tuple[ShardDataset, Mixture]:
    """Several sets as one dataset, and the order that draws from each by its weight (by default alike).

    `samples` is the length of an epoch, by default that of all sets together. Give both to a loader:
    `ShardLoader(dataset, 64, order=order)`. Raises BadInput unless all sets give the same members and columns.
    """
    ends = np.cumsum([len(dataset) for dataset in datasets])
    groups = tuple(np.arange(end - len(dataset), end) for end, dataset in zip(ends, datasets, strict=True))
    chosen = tuple(weights) if weights is not None else (1.0,) * len(groups)
    return ShardDataset.joined(datasets), Mixture(groups, chosen, samples or int(ends[-1]), seed, replacement)


def strata(
    dataset: ShardDataset,
    column: str,
    weights: Mapping[object, float] | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    replacement: bool = False,
) -> Mixture:
    """The order that draws from each value of a column of the index by its weight (by default alike); null is a value too.

    Values that `weights` does not name are not drawn. Raises BadInput for a value that no row has.
    """
    coded = dataset.table([column])[column].combine_chunks().dictionary_encode(null_encoding="encode")
    codes, values = coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()
    if weights is not None and (unknown := [value for value in weights if value not in values]):
        raise BadInput(f"no row has the value {unknown[0]!r}", column=column, hint=f"values: {values[:20]}")
    named = weights if weights is not None else dict.fromkeys(values, 1.0)
    groups = tuple(np.flatnonzero(codes == values.index(value)) for value in named)
    return Mixture(groups, tuple(named.values()), samples or len(dataset), seed, replacement)

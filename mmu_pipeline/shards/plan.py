"""Split, training order and size of every sample -> which shard it goes to, where in it, and what each shard is copied from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmu_pipeline.catalog import ShardRule
from mmu_pipeline.shards.splits import SPLITS, Codes
from mmu_pipeline.shards.tar import Ranges
from mmu_pipeline.sky import Bool, Int

NOT_DEALT = -1
"""Instead of a split's code: the sample goes into no shard."""


@dataclass(frozen=True)
class PieceSizes:
    """What planning needs of one piece: three arrays of shape (n,), in the piece's order."""

    split: Codes
    """Code into SPLITS, or NOT_DEALT."""
    order: npt.NDArray[np.uint64]
    """Place in training order, see `samples.training_order`."""
    nbytes: Int
    """Bytes in the piece: samples lie one after the other from its start."""
    digest: npt.NDArray[np.uint64] | None = None
    """Of each sample. Planning does not need it: it is handed on to who copies them."""


@dataclass(frozen=True)
class ShardPlan:
    """Where every sample goes. Samples are numbered over all pieces, piece after piece; about 16 bytes a sample."""

    names: tuple[str, ...]
    """File name of each shard: `train-000000.tar`, or `train-000000_512.tar` with the rule's `count_in_name`."""
    splits: tuple[str, ...]
    """Split of each shard."""
    bounds: Int
    """Shard k holds the samples `by_shard[bounds[k]:bounds[k + 1]]`, in training order, repeats at its end."""
    by_shard: Int
    first: Int
    """First sample of each piece, and the number of all: shape (pieces + 1,)."""
    start: Int
    """Where each sample would start if all pieces lay one after the other, and their end: shape (samples + 1,)."""
    repeats: Int
    """Places in `by_shard` of samples that stand there a second time, to make the shards' counts a multiple."""

    def piece(self, number: int) -> slice:
        """The samples of one piece."""
        return slice(int(self.first[number]), int(self.first[number + 1]))

    def samples(self, shard: int) -> Int:
        """The samples of one shard, in its order."""
        return self.by_shard[self.bounds[shard] : self.bounds[shard + 1]]

    def is_repeat(self, shard: int) -> Bool:
        """Whether each sample of a shard stands in the set before."""
        return np.isin(np.arange(self.bounds[shard], self.bounds[shard + 1]), self.repeats)

    def ranges(self, shard: int) -> Ranges:
        """What a shard is copied from."""
        rows = self.samples(shard)
        piece = np.searchsorted(self.first, rows, side="right") - 1
        return Ranges(piece, self.start[rows] - self.start[self.first[piece]], self.start[rows + 1] - self.start[rows])


def without(pieces: Sequence[PieceSizes], samples: Sequence[int]) -> list[PieceSizes]:
    """The same pieces with some samples, numbered over all pieces, not to be dealt out."""
    chosen, first, kept = np.array(samples, np.int64), 0, []
    for piece in pieces:
        split = piece.split.copy()
        split[chosen[(chosen >= first) & (chosen < first + len(split))] - first] = NOT_DEALT
        kept.append(replace(piece, split=split))
        first += len(split)
    return kept


def plan_shards(pieces: Sequence[PieceSizes], rule: ShardRule, strata: Int | None = None) -> ShardPlan:
    """Deal all samples of a set into shards of one split each, whose numbers of samples differ by at most `multiple_of`.

    Pieces in sky order give the same plan whoever made them. The number of shards of a split follows from
    `samples_per_shard`, else from `target_bytes`. With `strata`, a number for each sample, samples are dealt in turn along
    these numbers, so that every shard gets its share of each.
    """
    first = np.cumsum([0, *(len(piece.nbytes) for piece in pieces)], dtype=np.int64)
    split = np.concatenate([np.zeros(0, np.int8), *(piece.split for piece in pieces)])
    order = np.concatenate([np.zeros(0, np.uint64), *(piece.order for piece in pieces)])
    nbytes = np.concatenate([np.zeros(0, np.int64), *(piece.nbytes for piece in pieces)])
    by_split = np.lexsort((order, split))
    limits = np.searchsorted(split[by_split], np.arange(len(SPLITS) + 1))
    names: list[str] = []
    splits: list[str] = []
    sizes, by_shard, repeats, placed = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for code, name in enumerate(SPLITS):
        rows = by_split[limits[code] : limits[code + 1]]
        counts = _counts(len(rows), int(nbytes[rows].sum()), rule)
        padding = int(counts.sum()) - len(rows)
        if strata is not None and len(counts):
            rows = _in_turn(rows, order, strata, np.append(counts[:-1], counts[-1] - padding))
        by_shard += [rows, np.resize(rows, padding)]
        sizes.append(counts)
        placed += len(rows) + padding
        repeats.append(np.arange(placed - padding, placed))
        ends = [f"_{count}" if rule.count_in_name else "" for count in counts.tolist()]
        names += [f"{name}-{number:06d}{end}.tar" for number, end in enumerate(ends)]
        splits += [name] * len(counts)
    rows, again = np.concatenate(by_shard), np.concatenate(repeats)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    start = np.cumsum(np.concatenate([np.zeros(1, np.int64), nbytes]))
    return ShardPlan(tuple(names), tuple(splits), bounds, rows, first, start, again)


def _counts(samples: int, nbytes: int, rule: ShardRule) -> Int:
    """Samples of each shard of a split, repeats included."""
    unit = rule.multiple_of if samples > 1 else 1
    units = -(-samples // unit)
    wanted, share = (samples, rule.samples_per_shard) if rule.samples_per_shard else (nbytes, int(rule.target_bytes))
    shards = -(-wanted // share)
    fitting = -(-shards // rule.world_size) * rule.world_size
    shards = fitting if fitting <= units else min(shards, units)
    return np.diff(np.arange(shards + 1) * units // max(shards, 1)) * unit


def _in_turn(rows: Int, order: npt.NDArray[np.uint64], strata: Int, counts: Int) -> Int:
    """The samples of a split, shard after shard of `counts` samples, each shard with an even share of every stratum."""
    shard = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.lexsort((shard, (within + 0.5) / counts[shard]))
    dealt = rows[np.lexsort((order[rows], strata[rows]))]
    return np.asarray(dealt[np.lexsort((order[dealt], shard[turn]))], np.int64)


def tied(order: npt.NDArray[np.uint64]) -> Int:
    """Samples that share their place in training order with another."""
    ascending = np.sort(order)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    return np.flatnonzero(np.isin(order, repeated)) if len(repeated) else np.zeros(0, np.int64)

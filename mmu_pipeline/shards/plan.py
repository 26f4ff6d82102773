"""Split, training order and size of every sample -> which shard it goes to, where in it, and what each shard is copied from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmu_pipeline.catalog import ShardRule
from mmu_pipeline.shards.splits import SPLITS, Codes
from mmu_pipeline.shards.tar import Ranges
from mmu_pipeline.sky import Int


@dataclass(frozen=True)
class PieceSizes:
    """What planning needs of one piece: three arrays of shape (n,), in the piece's order."""

    split: Codes
    """Code into SPLITS."""
    order: npt.NDArray[np.uint64]
    """Place in training order, see `samples.training_order`."""
    nbytes: Int
    """Bytes in the piece: samples lie one after the other from its start."""


@dataclass(frozen=True)
class ShardPlan:
    """Where every sample goes. Samples are numbered over all pieces, piece after piece; about 28 bytes a sample."""

    names: tuple[str, ...]
    """File name of each shard: `train-000000.tar`."""
    splits: tuple[str, ...]
    """Split of each shard."""
    bounds: Int
    """Shard k holds the samples `by_shard[bounds[k]:bounds[k + 1]]`, in training order."""
    by_shard: Int
    first: Int
    """First sample of each piece, and the number of all: shape (pieces + 1,)."""
    start: Int
    """Where each sample would start if all pieces lay one after the other, and their end: shape (samples + 1,)."""
    shard: npt.NDArray[np.int32]
    """Shard of each sample."""
    offset: Int
    """Where each sample starts in its shard."""
    ties: Int
    """Samples that share their place in training order with another: only they can share a key."""

    def piece(self, number: int) -> slice:
        """The samples of one piece."""
        return slice(int(self.first[number]), int(self.first[number + 1]))

    def samples(self, shard: int) -> Int:
        """The samples of one shard, in its order."""
        return self.by_shard[self.bounds[shard] : self.bounds[shard + 1]]

    def ranges(self, shard: int) -> Ranges:
        """What a shard is copied from."""
        rows = self.samples(shard)
        piece = np.searchsorted(self.first, rows, side="right") - 1
        return Ranges(piece, self.start[rows] - self.start[self.first[piece]], self.start[rows + 1] - self.start[rows])

    def sample_offsets(self, shard: int) -> Int:
        """Where each sample of a shard starts, and where the last one ends."""
        rows = self.samples(shard)
        return np.cumsum(np.concatenate([np.zeros(1, np.int64), self.start[rows + 1] - self.start[rows]]))


def plan_shards(pieces: Sequence[PieceSizes], rule: ShardRule) -> ShardPlan:
    """Deal all samples of a set into shards of one split each, whose numbers of samples differ by at most one.

    Pieces in sky order give the same plan whoever made them. The number of shards of a split follows from
    `samples_per_shard`, else from `target_bytes`.
    """
    first = np.cumsum([0, *(len(piece.nbytes) for piece in pieces)], dtype=np.int64)
    split = np.concatenate([np.zeros(0, np.int8), *(piece.split for piece in pieces)])
    order = np.concatenate([np.zeros(0, np.uint64), *(piece.order for piece in pieces)])
    nbytes = np.concatenate([np.zeros(0, np.int64), *(piece.nbytes for piece in pieces)])
    by_shard = np.lexsort((order, split))
    names: list[str] = []
    splits: list[str] = []
    bounds = [np.zeros(1, np.int64)]
    for code, name in enumerate(SPLITS):
        begin, end = np.searchsorted(split[by_shard], [code, code + 1])
        share = rule.samples_per_shard or int(rule.target_bytes)
        wanted = (end - begin) if rule.samples_per_shard else nbytes[by_shard[begin:end]].sum()
        count = min(-(-int(wanted) // share), int(end - begin))
        bounds.append(begin + np.arange(1, count + 1) * (end - begin) // max(count, 1))
        names += [f"{name}-{number:06d}.tar" for number in range(count)]
        splits += [name] * count
    edges = np.concatenate(bounds)
    shard, offset = np.empty(len(nbytes), np.int32), np.empty(len(nbytes), np.int64)
    shard[by_shard] = np.repeat(np.arange(len(names), dtype=np.int32), np.diff(edges))
    place = np.cumsum(nbytes[by_shard]) - nbytes[by_shard]
    offset[by_shard] = place - np.repeat(place[edges[:-1]], np.diff(edges))
    start = np.cumsum(np.concatenate([np.zeros(1, np.int64), nbytes]))
    return ShardPlan(tuple(names), tuple(splits), edges, by_shard, first, start, shard, offset, _ties(order))


def _ties(order: npt.NDArray[np.uint64]) -> Int:
    ascending = np.sort(order)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    return np.flatnonzero(np.isin(order, repeated)) if len(repeated) else np.zeros(0, np.int64)

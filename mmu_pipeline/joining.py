"""Two sets of keys to pairs: every row of one with every row of the other that has the same key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.sky import Int

PAIRS_AT_ONCE = 1 << 21
"""About how many pairs are held before the pick among them."""
MOST_PAIRS = 1 << 24
"""Pairs that one key may have: 4,096 rows on either side."""


class TooCommon(ValueError):
    """A key that stands in so many rows of both sides that it tells no object."""

    def __init__(self, row: int, counts: tuple[int, int]) -> None:
        self.row, self.counts = row, counts
        super().__init__(f"{counts[0]} x {counts[1]} rows have one key")


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type in which keys of two columns are compared: whole numbers as such, with text as their decimal text.

    So 7 is "7", but not "007".
    """
    if one == other:
        return one
    signed = [pa.types.is_integer(type_) and type_ != pa.uint64() for type_ in (one, other)]
    return pa.int64() if all(signed) else pa.string()


def key_codes(one: Sequence[pa.ChunkedArray], other: Sequence[pa.ChunkedArray]) -> tuple[Int, Int]:
    """A number for each row, shape (n,) and (m,), the same where keys are the same; -1 where a part of the key is null.

    Each side is a list of the columns of its key, in an order that pairs them.
    """
    split = len(one[0])
    codes = np.zeros(split + len(other[0]), np.int64)
    null = np.zeros(len(codes), bool)
    for left, right in zip(one, other, strict=True):
        type_ = common_type(left.type, right.type)
        both = pa.chunked_array([*pc.cast(left, type_).chunks, *pc.cast(right, type_).chunks], type_).combine_chunks()
        part = both.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
        null |= part < 0
        codes = np.unique(codes * (part.max(initial=0) + 2) + part + 1, return_inverse=True)[1]
    codes[null] = -1
    return codes[:split], codes[split:]


def equal_pairs(one: Int, other: Int, at_once: int = PAIRS_AT_ONCE) -> Iterator[tuple[Int, Int]]:
    """Every (row of one, row of other) with the same code, in parts of about `at_once` pairs; -1 equals nothing.

    All pairs of a code are in one part. Raises TooCommon where a code alone has more than MOST_PAIRS.
    """
    rows = np.argsort(one, kind="stable")
    rows = rows[one[rows] >= 0]
    theirs = np.argsort(other, kind="stable")
    first, last = (np.searchsorted(other[theirs], one[rows], side) for side in ("left", "right"))
    rows, first, counts = (values[last > first] for values in (rows, first, last - first))
    starts = np.flatnonzero(np.diff(one[rows], prepend=-1))
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    reached = np.cumsum(counts)[ends - 1]
    sizes = np.diff(reached, prepend=0)
    if sizes.max(initial=0) > MOST_PAIRS:
        group = int(sizes.argmax())
        raise TooCommon(int(rows[starts[group]]), (int(ends[group] - starts[group]), int(counts[starts[group]])))
    group = 0
    while group < len(starts):
        stop = max(group + 1, int(np.searchsorted(reached, reached[group] - sizes[group] + at_once, "right")))
        part = slice(starts[group], ends[stop - 1])
        here = counts[part]
        step = np.arange(here.sum()) - np.repeat(np.cumsum(here) - here, here)
        yield np.repeat(rows[part], here), theirs[np.repeat(first[part], here) + step]
        group = stop

"""Chunks as they lie in an HDF5 file to the rows that they hold: inflated by ISA-L, two to three times as fast as by zlib."""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array
from mmu_pipeline.readers.hdf5_dataset import DEFLATE, SHUFFLE, Stored
from mmu_pipeline.sky import Int

PIPELINES = ((DEFLATE,), (SHUFFLE, DEFLATE))


def holds_whole_rows(stored: Stored) -> bool:
    """Whether a dataset's chunks are compressed runs of whole rows, which this module can read."""
    return (
        stored.chunks is not None
        and stored.filters in PIPELINES
        and stored.chunks[1:] == stored.shape[1:]
        and stored.dtype.kind in "biuf"
        and stored.dtype.itemsize in (1, 2, 4, 8)
    )


def read_rows(stored: Stored, rows: Int, into: Array) -> bool:
    """Put rows, sorted and distinct, into an array of shape (len(rows), *shape[1:]), each chunk inflated once.

    False, with the array in any state, where a chunk was never written or passed other filters: HDF5 must read it.
    Raises BrokenSource where one cannot be inflated, or not to the size of a chunk.
    """
    if not len(rows):
        return True
    length = stored.rows_per_chunk
    beyond_first = (0,) * (len(stored.shape) - 1)
    of_chunk = rows // length
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(of_chunk)) + 1).tolist(), len(rows)]):
        first = int(of_chunk[start]) * length
        try:
            skipped, content = stored.id.read_direct_chunk((first, *beyond_first))
        except (OSError, RuntimeError, ValueError):
            return False
        if skipped:
            return False
        block = _inflated(stored, content, length, first)
        into[start:stop] = block if stop - start == len(block) else block[rows[start:stop] - first]
    return True


def _inflated(stored: Stored, content: bytes, length: int, first: int) -> Array:
    """A chunk's rows, in the byte order in which they are stored."""
    size = length * stored.row_bytes
    engine = isal_zlib.decompressobj()
    try:
        plain = engine.decompress(content, size + 1)  # and not a byte more, whatever the chunk would become
    except zlib.error as error:
        raise BrokenSource("a chunk cannot be inflated", dataset=stored.name, row=first, reason=str(error),
                           hint="fetch the file again") from error  # fmt: skip
    if len(plain) != size or not engine.eof:
        raise BrokenSource("a chunk is not of its size", dataset=stored.name, row=first, bytes=len(plain), expected=size,
                           hint="fetch the file again")  # fmt: skip
    values: npt.NDArray[Any] = np.frombuffer(plain, np.uint8)
    if stored.filters[0] == SHUFFLE and stored.dtype.itemsize > 1:
        values = unshuffled(values, stored.dtype.itemsize)
    return values.view(stored.dtype).reshape(length, *stored.shape[1:])


def unshuffled(values: npt.NDArray[np.uint8], itemsize: int) -> Array:
    """Elements whose first bytes stand together, then their second bytes, and so on, each with its bytes side by side again."""
    planes = values.reshape(itemsize, -1)
    word = np.dtype(f"<u{itemsize}")
    whole: npt.NDArray[Any] = planes[0].astype(word)
    part = np.empty_like(whole)
    for place in range(1, itemsize):
        np.left_shift(planes[place], word.type(8 * place), out=part, dtype=word, casting="unsafe")
        np.bitwise_or(whole, part, out=whole)
    return whole

"""HDF5 files of any origin, here or at a distance, to all or chosen rows of their datasets, read by runs of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import hdf5_ahead
from mmu_pipeline.readers.bounded import check_held, check_parts
from mmu_pipeline.readers.hdf5_chunks import holds_whole_rows, read_rows
from mmu_pipeline.readers.hdf5_dataset import Stored, blaming_hdf5
from mmu_pipeline.sky import Int

SLAB_BYTES = 32 * 1024**2
"""Rows read at a time; one row may be larger."""


@contextmanager
def opened(path: Path | RangedFile) -> Iterator[h5py.File]:
    """An HDF5 file for reading, without locks. Raises BrokenSource if it is not one or is cut short."""
    with blaming_hdf5("not a readable HDF5 file"):
        file = h5py.File(_at_a_distance(path)) if isinstance(path, RangedFile) else h5py.File(path, "r", locking=False)
    with file:
        yield file


def _at_a_distance(source: RangedFile) -> h5py.h5f.FileID:
    """A file behind a network, opened so that HDF5 reads rows exactly as they were announced."""
    hdf5_ahead.watch(source)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, source)
    access.set_sieve_buf_size(1)
    return h5py.h5f.open(source.name.encode(), h5py.h5f.ACC_RDONLY, access)


def whole(stored: Stored) -> Array:
    """All of a dataset in native byte order. Raises BrokenSource on damaged data."""
    if stored.shape and holds_whole_rows(stored):
        check_held(stored.shape[0] * stored.row_bytes, "a dataset", dataset=stored.name)
        return rows_of(stored, np.arange(stored.shape[0]))
    check_held(math.prod(stored.shape) * stored.dtype.itemsize, "a dataset", dataset=stored.name)
    with blaming_hdf5("a dataset cannot be read", dataset=stored.name):
        if stored.dtype.kind not in "biufS":
            return np.asarray(h5py.Dataset(stored.id)[()])
        found = np.empty(stored.shape, stored.dtype.newbyteorder("="))
        stored.id.read(h5py.h5s.ALL, h5py.h5s.ALL, found)
        return found


def rows_of(stored: Stored, rows: Int) -> Array:
    """Rows of a dataset by number, in any order, repeats allowed: shape (len(rows), *shape[1:]), native byte order.

    Neighbouring rows are read together, as many at a time as fit `SLAB_BYTES`. Raises BrokenSource on damaged data and
    on rows that are not there.
    """
    back = None
    if len(rows) and (np.diff(rows) <= 0).any():
        rows, back = np.unique(rows, return_inverse=True)
    check_held(len(rows) * stored.row_bytes, "so many rows", rows=len(rows), dataset=stored.name)
    if rows.size and (rows[0] < 0 or rows[-1] >= stored.shape[0]):
        raise BrokenSource("no such row", dataset=stored.name, row=int(rows[-1]), rows=stored.shape[0])
    found = np.empty((rows.size, *stored.shape[1:]), stored.dtype.newbyteorder("="))
    with blaming_hdf5("rows cannot be read", dataset=stored.name):
        if not (holds_whole_rows(stored) and read_rows(stored, rows, found)):
            for start, stop in _slabs(rows, stored):
                _read_slab(stored, rows[start:stop], found[start:stop])
    return found if back is None else found[back]


def _read_slab(stored: Stored, rows: Int, into: Array) -> None:
    """Read the span of some rows, sorted and distinct, and keep those."""
    first, count = int(rows[0]), int(rows[-1] - rows[0]) + 1
    if stored.dtype.kind not in "biufS":
        into[:] = h5py.Dataset(stored.id)[first : first + count][rows - first]
        return
    slab = into if count == len(rows) else np.empty((count, *stored.shape[1:]), into.dtype)
    space = stored.id.get_space()
    space.select_hyperslab((first, *(0 for _ in stored.shape[1:])), slab.shape)
    stored.id.read(h5py.h5s.create_simple(slab.shape), space, slab)
    if slab is not into:
        into[:] = slab[rows - first]


def _slabs(rows: Int, stored: Stored) -> Iterator[tuple[int, int]]:
    """Ranges of sorted rows that are read in one go: no gap wider than a chunk, no more bytes than a slab, cut between chunks."""
    length = stored.rows_per_chunk
    widest = max(1, SLAB_BYTES // stored.row_bytes // length) * length
    edges = np.flatnonzero((np.diff(rows) > length) | (np.diff(rows // widest) > 0)) + 1
    cuts = [0, *edges.tolist(), len(rows)] if len(rows) else [0]
    yield from pairwise(cuts)


def table(group: h5py.Group, name: str, column: str) -> h5py.Dataset:
    """A dataset of compound elements. Raises BrokenSource if there is none, or if its data are not in this very file."""
    link = group.get(name, getlink=True)
    found = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.dtype.names is None or len(found.shape) != 1:
        raise BrokenSource("a declared table is missing", column=column, expected=name, group=group.name)
    if found.is_virtual or found.external:
        raise BrokenSource("a table whose data lie in another file is refused", column=column, dataset=found.name)
    check_parts(found.shape, found.chunks, found.dtype.itemsize, column=column, dataset=found.name)
    return found


def table_column(source: h5py.Dataset, column: str, rows: slice = slice(None)) -> Array:
    """A column of a table, all rows or some, in native byte order; read a slab at a time, the other columns are not kept.

    Raises BrokenSource on damaged data.
    """
    if column not in source.dtype.names:
        hint = f"the table has: {', '.join(source.dtype.names[:20])}"
        raise BrokenSource("a declared column is missing", column=column, dataset=source.name, hint=hint)
    start, stop, _ = rows.indices(source.shape[0])
    step = max(1, SLAB_BYTES // max(1, source.dtype.itemsize))
    if start >= stop and rows != slice(None):
        raise BrokenSource("no such row", dataset=source.name, row=start, rows=source.shape[0])
    kind = source.dtype[column]
    check_held((stop - start) * kind.itemsize, "a column", column=column, dataset=source.name)
    found = np.empty((stop - start, *kind.shape), kind.base.newbyteorder("="))
    with blaming_hdf5("a table cannot be read", dataset=source.name, column=column):
        for at in range(start, stop, step):
            found[at - start : min(at + step, stop) - start] = source.fields(column)[at : min(at + step, stop)]
    return found

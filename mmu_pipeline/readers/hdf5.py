"""HDF5 files of any origin to checked datasets and chosen rows: names in any case, plain storage only, read by runs of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import hdf5_ahead
from mmu_pipeline.sky import Int

FILTERS = frozenset(range(1, 7)) | {32000}
"""Filters that HDF5 and h5py bring themselves: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf."""
SLAB_BYTES = 32 * 1024**2
"""Rows read at a time; one row may be larger."""


@contextmanager
def opened(path: Path | RangedFile) -> Iterator[h5py.File]:
    """An HDF5 file for reading, without locks. Raises BrokenSource if it is not one or is cut short."""
    with _blaming_hdf5("not a readable HDF5 file"):
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


@contextmanager
def _blaming_hdf5(what: str, **where: Any) -> Iterator[None]:
    """Turn what h5py raises on damaged files into BrokenSource; errors of the operating system pass."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource(what, **where, reason=str(error).strip("'\""), hint="fetch the file again") from error


def dataset(file: h5py.File, names: Sequence[str], column: str) -> h5py.Dataset:
    """The dataset under the first of `names` that the file has; upper and lower case are the same if no name is exact.

    Raises BrokenSource if there is none, or if it is not plain data in this very file: a soft or external link, virtual or
    external storage, a filter that needs a plug-in, or elements that are neither numbers nor text.
    """
    name = stored_name(file, names)
    if name is None:
        hint = f"the file has: {', '.join(list(file)[:20])}"
        raise BrokenSource("a declared dataset is missing", column=column, expected=" or ".join(names), hint=hint)
    with _blaming_hdf5("a dataset cannot be opened", column=column, dataset=name):
        link = file.get(name, getlink=True)
        found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise BrokenSource("not a dataset of this file: links and groups are refused", column=column, dataset=name)
    if found.is_virtual or found.external:
        raise BrokenSource("a dataset whose data lie in another file is refused", column=column, dataset=name)
    plist = found.id.get_create_plist()
    filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    if filters - FILTERS:
        raise BrokenSource("a filter that needs a plug-in is refused", column=column, dataset=name, filter=min(filters - FILTERS))
    if not _is_plain(found.dtype):
        raise BrokenSource("neither numbers nor text", column=column, dataset=name, dtype=found.dtype)
    return found


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether elements are numbers, text, or rows of numbers of their own lengths."""
    rows = h5py.check_vlen_dtype(dtype)
    if isinstance(rows, np.dtype):
        return rows.kind in "biuf"
    return dtype.kind in "biufS" or h5py.check_string_dtype(dtype) is not None


def stored_name(group: h5py.Group, names: Sequence[str]) -> str | None:
    """The first of `names` that is there, or the only one that differs in case alone; None where there is none."""
    with _blaming_hdf5("the list of datasets cannot be read"):
        exact = next((name for name in names if name in group), None)
        if exact is not None:
            return exact
        folded = {name.lower() for name in names}
        same = [name for name in group if name.lower() in folded]
    return same[0] if len(same) == 1 else None


def whole(source: h5py.Dataset) -> Array:
    """All of a dataset in native byte order. Raises BrokenSource on damaged data."""
    with _blaming_hdf5("a dataset cannot be read", dataset=source.name):
        return _native(source[()])


def rows_of(source: h5py.Dataset, rows: Int) -> Array:
    """Rows of a dataset by number, in any order, repeats allowed: shape (len(rows), *source.shape[1:]), native byte order.

    Neighbouring rows are read together, as many at a time as fit `SLAB_BYTES`. Raises BrokenSource on damaged data and
    on rows that are not there.
    """
    unique, back = np.unique(rows, return_inverse=True)
    if unique.size and (unique[0] < 0 or unique[-1] >= source.shape[0]):
        raise BrokenSource("no such row", dataset=source.name, row=int(unique[-1]), rows=source.shape[0])
    found = np.empty((unique.size, *source.shape[1:]), source.dtype.newbyteorder("="))
    with _blaming_hdf5("rows cannot be read", dataset=source.name):
        for start, stop in _slabs(unique, source):
            first = int(unique[start])
            slab = source[first : int(unique[stop - 1]) + 1]
            found[start:stop] = slab if len(slab) == stop - start else slab[unique[start:stop] - first]
    return found if np.array_equal(back, np.arange(unique.size)) else found[back]


def _slabs(unique: Int, source: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Ranges of `unique` whose rows are read in one go: no gap wider than a chunk, no more bytes than a slab."""
    row_bytes = max(1, int(np.prod(source.shape[1:], dtype=np.int64)) * source.dtype.itemsize)
    widest = max(1, SLAB_BYTES // row_bytes)
    gap = source.chunks[0] if source.chunks else 1
    start = 0
    for stop in range(1, len(unique) + 1):
        if stop == len(unique) or unique[stop] - unique[stop - 1] > gap or unique[stop] - unique[start] >= widest:
            yield start, stop
            start = stop


def _native(values: Any) -> Array:
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def table(group: h5py.Group, name: str, column: str) -> h5py.Dataset:
    """A dataset of compound elements. Raises BrokenSource if there is none, or if its data are not in this very file."""
    link = group.get(name, getlink=True)
    found = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.dtype.names is None or len(found.shape) != 1:
        raise BrokenSource("a declared table is missing", column=column, expected=name, group=group.name)
    if found.is_virtual or found.external:
        raise BrokenSource("a table whose data lie in another file is refused", column=column, dataset=found.name)
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
    found = np.empty((stop - start, *kind.shape), kind.base.newbyteorder("="))
    with _blaming_hdf5("a table cannot be read", dataset=source.name, column=column):
        for at in range(start, stop, step):
            found[at - start : min(at + step, stop) - start] = source.fields(column)[at : min(at + step, stop)]
    return found

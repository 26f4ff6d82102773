"""Names in an HDF5 file to a dataset that may be read: plain numbers or text, stored in this very file, names in any case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers.bounded import check_parts

DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
FILTERS = frozenset(range(1, 7)) | {32000}
"""Filters that HDF5 and h5py bring themselves: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf."""


@dataclass(frozen=True)
class Stored:
    """A dataset that was checked, and how it lies in its file."""

    name: str
    id: h5py.h5d.DatasetID
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """As it is stored, byte order and all."""
    chunks: tuple[int, ...] | None
    filters: tuple[int, ...]
    """Numbers of the filters that its chunks passed, in order."""
    lies_elsewhere: bool
    """Whether its data are in other files."""

    @property
    def rows_per_chunk(self) -> int:
        """1 where it is not in chunks."""
        return self.chunks[0] if self.chunks else 1

    @property
    def row_bytes(self) -> int:
        return max(1, int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize)


@contextmanager
def blaming_hdf5(what: str, **where: Any) -> Iterator[None]:
    """Turn what h5py raises on damaged files into BrokenSource; errors of the operating system pass."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource(what, **where, reason=str(error).strip("'\""), hint="fetch the file again") from error


def dataset(group: h5py.Group, names: Sequence[str], column: str) -> Stored:
    """The dataset under the first of `names` that a group has; upper and lower case are the same if no name is exact.

    Raises BrokenSource if there is none, or if it is not plain data in this very file: a soft or external link, virtual or
    external storage, a filter that needs a plug-in, or elements that are neither numbers nor text.
    """
    name = stored_name(group, names)
    if name is None:
        hint = f"the file has: {', '.join(list(group)[:20])}"
        raise BrokenSource("a declared dataset is missing", column=column, expected=" or ".join(names), hint=hint)
    path = name.encode()
    with blaming_hdf5("a dataset cannot be opened", column=column, dataset=name):
        plain = group.id.links.get_info(path).type == h5py.h5l.TYPE_HARD
        found = h5py.h5o.open(group.id, path) if plain else None
        stored = described(name, found) if isinstance(found, h5py.h5d.DatasetID) else None
    if stored is None:
        raise BrokenSource("not a dataset of this file: links and groups are refused", column=column, dataset=name)
    if stored.lies_elsewhere:
        raise BrokenSource("a dataset whose data lie in another file is refused", column=column, dataset=name)
    if unknown := set(stored.filters) - FILTERS:
        raise BrokenSource("a filter that needs a plug-in is refused", column=column, dataset=name, filter=min(unknown))
    check_parts(stored.shape, stored.chunks, stored.dtype.itemsize, column=column, dataset=name)
    if not _is_plain(stored.dtype):
        raise BrokenSource("neither numbers nor text", column=column, dataset=name, dtype=stored.dtype)
    return stored


def described(name: str, dataset: h5py.h5d.DatasetID) -> Stored:
    """How a dataset lies in its file; nothing is checked."""
    if dataset.get_offset() is not None:  # in one piece of this file: such a dataset has no chunks and no filters
        return Stored(name, dataset, dataset.shape, dataset.dtype, None, (), lies_elsewhere=False)
    creation = dataset.get_create_plist()
    layout = creation.get_layout()
    filters = tuple(creation.get_filter(number)[0] for number in range(creation.get_nfilters()))
    chunks = creation.get_chunk() if layout == h5py.h5d.CHUNKED else None
    elsewhere = layout == h5py.h5d.VIRTUAL or creation.get_external_count() > 0
    return Stored(name, dataset, dataset.shape, dataset.dtype, chunks, filters, elsewhere)


def stored_name(group: h5py.Group, names: Sequence[str]) -> str | None:
    """The first of `names` that is there, or the only one that differs in case alone; None where there is none."""
    with blaming_hdf5("the list of datasets cannot be read"):
        links = group.id.links
        exact = next((name for name in names if _is_inside(links, name) and links.exists(name.encode())), None)
        if exact is not None:
            return exact
        folded = {name.lower() for name in names}
        same = [name for name in group if name.lower() in folded]
    return same[0] if len(same) == 1 else None


def _is_inside(links: Any, path: str) -> bool:
    """Whether the groups on the way to a name are of this very file, so that looking for it opens no other."""
    *parents, _ = path.strip("/").split("/")
    ways = ("/".join(parents[: depth + 1]).encode() for depth in range(len(parents)))
    return all(links.exists(way) and links.get_info(way).type == h5py.h5l.TYPE_HARD for way in ways)


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether elements are numbers, text, or rows of numbers of their own lengths."""
    if dtype.kind in "biufS":
        return True
    rows = h5py.check_vlen_dtype(dtype)
    return rows.kind in "biuf" if isinstance(rows, np.dtype) else h5py.check_string_dtype(dtype) is not None

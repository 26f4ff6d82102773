"""Datasets and rows that will be read of a remote HDF5 file to the byte ranges that hold them, so that all are fetched at once.

The pieces of such a file point to each other, and HDF5 asks for one after the other, a round trip each. This module only says
ahead what it will ask for (HDF5 File Format Specification 3.0: III.A.1 B-trees, III.C symbol tables); it is HDF5 that reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import h5py
import numpy as np

from mmu_pipeline.ranges import RangedFile, ranges_of
from mmu_pipeline.readers.hdf5_dataset import Stored
from mmu_pipeline.sky import Int

NODE_HEADER = 24
GROUP_KEY, GROUP_CHILD = 8, 328
"""Bytes of a key of a group's B-tree, and of the symbol table node that its leaves point to, as HDF5 sizes them by default."""
CHUNK_ENTRIES = 64
"""Children of a node of a chunk index, as HDF5 sizes it by default."""
OBJECT_HEADER = 1024
"""Bytes that hold most object headers."""


def watch(source: RangedFile) -> None:
    """Have the children of every B-tree node that HDF5 reads fetched together."""

    def seen(start: int, content: memoryview) -> None:
        if bytes(content[:4]) == b"TREE" and (children := _children(content)) is not None:
            source.announce(children, keep=True)

    source.seen = seen


def _children(node: memoryview) -> Int | None:
    """Ranges of the nodes that a B-tree node points to; None where they are not of the usual size, or are data."""
    kind, level, used = struct.unpack_from("<BBH", node, 4)
    if kind == 0:
        key, size = GROUP_KEY, GROUP_CHILD if level == 0 else len(node)
    else:
        key, rest = divmod(len(node) - NODE_HEADER - 8 * CHUNK_ENTRIES, CHUNK_ENTRIES + 1)
        if rest or level == 0:
            return None
        size = len(node)
    step = key + 8
    if NODE_HEADER + used * step > len(node):
        return None
    entries = np.frombuffer(node, np.uint8, used * step, NODE_HEADER).reshape(used, step)
    return ranges_of(entries[:, key:].copy().view("<u8")[:, 0].astype(np.int64), size)


def announce_headers(file: h5py.File, source: RangedFile, names: Iterable[str]) -> None:
    """Fetch the headers of some datasets, those that are there."""
    links = file.id.links
    paths = [name.encode() for name in names]
    infos = [links.get_info(path) for path in paths if links.exists(path)]
    addresses = [info.u for info in infos if info.type == h5py.h5l.TYPE_HARD]
    if addresses:
        source.announce(ranges_of(addresses, OBJECT_HEADER), keep=True)


def stored_ranges(stored: Stored, source: RangedFile, rows: Int | None) -> Int:
    """Byte ranges (n, 2) of all or chosen rows of a dataset. Text of varying length lies elsewhere: of it, the pointers."""
    if not stored.shape or not stored.shape[0]:
        return np.empty((0, 2), np.int64)
    if stored.chunks is not None:
        first, ranges = _chunks(stored, stored.chunks[0], source)
        return ranges if rows is None else ranges[np.isin(first, rows // stored.chunks[0])]
    start = stored.id.get_offset()
    if start is None:  # compact, in its header, or never written
        return np.empty((0, 2), np.int64)
    row_bytes = stored.id.get_storage_size() // stored.shape[0]
    if rows is None:
        return ranges_of(start, row_bytes * stored.shape[0])
    return ranges_of(start + np.unique(rows) * row_bytes, row_bytes)


def _chunks(stored: Stored, length: int, source: RangedFile) -> tuple[Int, Int]:
    """For each chunk, its place along the first axis, counted in chunks, and its byte range."""
    key = f"chunks of {stored.name}"
    if key not in source.learned:
        found: list[tuple[int, int, int]] = []
        stored.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset[0], chunk.byte_offset, chunk.size)))
        table = np.array(found, np.int64).reshape(-1, 3)
        source.learned[key] = table[:, 0] // length, ranges_of(table[:, 1], table[:, 2])
    first, ranges = source.learned[key]
    return first, ranges


def together(ranges: Sequence[Int]) -> Int:
    return np.concatenate([np.empty((0, 2), np.int64), *ranges])

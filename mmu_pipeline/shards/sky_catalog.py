"""The index of a set -> a HATS catalog beside it, which LSDB opens: the same rows, in files of one part of the sky each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.shards.index import INDEX_PATH, ROW_GROUP, layout
from mmu_pipeline.sky import Cell, Int, pixels_at
from mmu_pipeline.storage import Root, partition_path

CATALOG = "index"
"""Folder of the catalog in the folder of a set."""
METADATA = tuple(
    f"{CATALOG}/{name}"
    for name in ("hats.properties", "properties", "partition_info.csv", "dataset/_metadata", "dataset/_common_metadata")
)
"""Files of the catalog beside its partitions, in the folder of a set."""
MOST_ROWS = 1_000_000
"""Rows of a partition, unless the sky is denser than that at the deepest order."""
DEEPEST = 6
LEFT_OUT = ("digest", "member_offset", "member_nbytes")
"""Columns that only readers of bytes need: those take the index itself."""


def write_catalog(root: Root, folder: str, name: str) -> list[Partition]:
    """Write the catalog of the set in `folder`, a row group of its index at a time. Gives its partitions."""
    with root.fs.open(root.path(f"{folder}/{INDEX_PATH}"), "rb") as file:
        index = pq.ParquetFile(file)
        cells, ends = partitions_of(_counts(index))
        schema = pa.schema([field for field in index.schema_arrow if field.name not in LEFT_OUT])
        tables = _cut(index, schema.names, ends)
        paths = [partition_path(f"{folder}/{CATALOG}", cell) for cell in cells]
        for path, rows in zip(paths, np.diff(ends, prepend=0).tolist(), strict=True):
            with ExitStack() as stack:
                writer = pq.ParquetWriter(stack.enter_context(root.writing(path)), schema, **layout(schema))
                stack.enter_context(writer)
                while rows:
                    table = next(tables)
                    writer.write_table(table, row_group_size=ROW_GROUP)
                    rows -= len(table)
    counts = np.diff(ends, prepend=0).tolist()
    found = [Partition(cell, path, rows, root.digest_of(path)) for cell, path, rows in zip(cells, paths, counts, strict=True)]
    write_metadata(root, f"{folder}/{CATALOG}", name, found)
    return found


def partitions_of(counts: Int) -> tuple[list[Cell], Int]:
    """Cells that hold at most MOST_ROWS each, as large as can be, in sky order, and the row after the last of each.

    `counts` are the rows in each pixel of the deepest order, shape (12 * 4**DEEPEST,).
    """
    cells: list[Cell] = []
    ends = np.cumsum(counts)
    taken = np.zeros(len(counts), np.bool_)
    for order in range(DEEPEST + 1):
        size = 4 ** (DEEPEST - order)
        rows = counts.reshape(-1, size).sum(axis=1)
        free = ~taken.reshape(-1, size).any(axis=1)
        fits = free & (rows > 0) & ((rows <= MOST_ROWS) | (order == DEEPEST))
        taken |= np.repeat(fits, size)
        cells += [Cell(order, int(pixel)) for pixel in np.flatnonzero(fits)]
    cells.sort(key=lambda cell: cell.range)
    last = [((cell.pixel + 1) << 2 * (DEEPEST - cell.order)) - 1 for cell in cells]
    return cells, np.asarray(ends[last], np.int64)


def _counts(index: pq.ParquetFile) -> Int:
    counts = np.zeros(12 * 4**DEEPEST, np.int64)
    for batch in index.iter_batches(columns=["_healpix_29"]):
        counts += np.bincount(pixels_at(batch["_healpix_29"].to_numpy(), DEEPEST), minlength=len(counts))
    return counts


def _cut(index: pq.ParquetFile, columns: list[str], ends: Int) -> Iterator[pa.Table]:
    """The rows of an index, a row group at a time, none across an end."""
    row = 0
    for group in range(index.num_row_groups):
        table = index.read_row_group(group, columns=columns)
        inside = ends[(ends > row) & (ends < row + len(table))] - row
        for first, last in zip([0, *inside], [*inside, len(table)], strict=True):
            yield table.slice(first, last - first)
        row += len(table)

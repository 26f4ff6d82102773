"""Columns and row groups that will be read of a Parquet file to the byte ranges that hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mmu_pipeline.ranges import RangedFile, ranges_of
from mmu_pipeline.sky import Int


def open_parquet(path: Path | RangedFile) -> pq.ParquetFile:
    """A Parquet file; the footer of one at a distance is read once, however often it is opened."""
    if not isinstance(path, RangedFile):
        return pq.ParquetFile(path)
    file = pq.ParquetFile(path, metadata=path.learned.get("footer"))
    path.learned["footer"] = file.metadata
    return file


def column_ranges(metadata: pq.FileMetaData, paths: Collection[str], groups: Iterable[int]) -> Int:
    """Byte ranges (n, 2) of some columns, named by their paths in the schema, in some row groups.

    A row group is read as a whole: pyarrow does not read single pages of it.
    """
    starts, lengths = [], []
    for number in groups:
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            if column.path_in_schema in paths:
                first = column.dictionary_page_offset if column.has_dictionary_page else None
                starts.append(column.data_page_offset if first is None else min(first, column.data_page_offset))
                lengths.append(column.total_compressed_size)
    return ranges_of(np.array(starts, np.int64), np.array(lengths, np.int64))

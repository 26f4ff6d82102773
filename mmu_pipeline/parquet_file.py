"""Tables, whole or as they come -> a Parquet file whose bytes follow from their rows alone."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 100_000
"""Rows of a Parquet file that are read together."""


def parquet_options(table: pa.Table) -> dict[str, Any]:
    """How a table is written, judged by its first rows: a dictionary costs much and gives nothing where no value comes again."""
    sample = table.slice(0, 1000)
    again = [name for name in table.column_names if _repeats(sample[name])]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": again, "write_page_index": True}


class RowWriter:
    """Tables to full row groups of a Parquet file."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.rows = 0
        self._file = file
        self._waiting = schema.empty_table()
        self._parquet: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Take the next rows."""
        self.rows += len(table)
        self._waiting = pa.concat_tables([self._waiting, table])
        while len(self._waiting) > ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if len(self._waiting) or self._parquet is None:
            self._flush()
        if self._parquet is not None:
            self._parquet.close()

    def _flush(self) -> None:
        group = self._waiting.slice(0, ROW_GROUP)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._file, group.schema, **parquet_options(group))
        self._parquet.write_table(group)
        self._waiting = self._waiting.slice(ROW_GROUP)


def _repeats(values: pa.ChunkedArray) -> bool:
    if pa.types.is_nested(values.type):
        return True
    return bool(4 * pc.count_distinct(values).as_py() <= len(values))

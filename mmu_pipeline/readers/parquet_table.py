"""Flat Parquet files to an object table: the columns that are needed, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, text_table
from mmu_pipeline.readers.arrow_table import object_rows, source_types
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.sky import Int


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The objects of one file, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    with blaming(path):
        try:
            file = pq.ParquetFile(path)
            types = source_types(survey, form, file.schema_arrow.names)
            batches = list(file.iter_batches(columns=list(types)))
        except pa.ArrowInvalid as error:
            raise BrokenSource("not a readable Parquet file", reason=str(error), hint="fetch the file again") from error
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([file.schema_arrow.field(name) for name in types]))
        return object_rows(survey, form, batches or [empty])


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """A table has no arrays: raises BrokenSource if any member is asked for."""
    return text_table.read_arrays(survey, form, path, rows, object_ids, members)

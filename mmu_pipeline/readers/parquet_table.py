"""Parquet files to an object table and the JPEG files in their rows: needed columns only, and of chosen rows their row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import ObjectRows
from mmu_pipeline.readers.arrow_table import ids_of, object_rows, source_types
from mmu_pipeline.readers.bounded import check_columns
from mmu_pipeline.readers.identity import check_ids, id_sources
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.readers.parquet_ahead import column_ranges, open_parquet
from mmu_pipeline.readers.pictures import encoded
from mmu_pipeline.sky import Int


def read_objects(survey: Survey, form: str, path: Path | RangedFile) -> ObjectRows:
    """The objects of one file, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    with blaming(path), _opened(path) as file:
        types = source_types(survey, form, file.schema_arrow.names)
        check_columns(file.metadata, types)
        if isinstance(path, RangedFile):
            path.announce(_ranges(file, survey, form))
        batches = list(file.iter_batches(columns=list(types)))
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([file.schema_arrow.field(name) for name in types]))
        return object_rows(survey, form, batches or [empty])


def read_arrays(
    survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """The pictures of chosen rows, byte by byte. Raises BrokenSource for any other member: such a table has no arrays."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    with blaming(path), _opened(path) as file:
        for field in members:
            if not field.is_encoded or not field.is_carried(form):
                raise BrokenSource("this form of the survey does not carry the field", column=field.name)
        if not members:
            return {}
        if len(rows) and not 0 <= rows.min() <= rows.max() < file.metadata.num_rows:
            raise BrokenSource("no such row", row=int(rows.max()), rows=file.metadata.num_rows)
        names = {field.name: _leaf(file, field.source_names(form), field.name) for field in members}
        wanted = [*id_sources(declared), *names.values()]
        check_columns(file.metadata, wanted)
        if isinstance(path, RangedFile):
            path.announce(_ranges(file, survey, form, rows, members))
        groups = _groups(file, rows)
        table = file.read_row_groups(list(groups), columns=wanted)
        place = pa.array(np.searchsorted(_rows_of(file, groups), rows))
        table = table.take(place).combine_chunks()
        ids = [name for batch in table.to_batches() for name in ids_of(survey, form, batch, 0)]
        check_ids(rows, ids, object_ids)
        return {field.name: encoded(field, _inside(table, names[field.name])) for field in members}


def ranges(survey: Survey, form: str, source: RangedFile, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    """Byte ranges (n, 2) that `read_objects` reads, or `read_arrays` for some rows, beside the footer. Raises BrokenSource."""
    with blaming(source), _opened(source) as file:
        return _ranges(file, survey, form, rows, members)


def _ranges(file: Any, survey: Survey, form: str, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    if rows is None:
        paths = set(source_types(survey, form, file.schema_arrow.names))
        return column_ranges(file.metadata, paths, range(file.metadata.num_row_groups))
    paths = {*id_sources(survey.forms[form]), *(_leaf(file, field.source_names(form), field.name) for field in members)}
    return column_ranges(file.metadata, paths, _groups(file, rows))


@contextmanager
def _opened(path: Path | RangedFile) -> Iterator[Any]:
    try:
        with open_parquet(path) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise BrokenSource("not a readable Parquet file", reason=str(error), hint="fetch the file again") from error


def _leaf(file: Any, names: Sequence[str], column: str) -> str:
    """The first of some dotted names that the file has."""
    leaves = [file.schema.column(at).path for at in range(len(file.schema))]
    found = next((name for name in names if name in leaves), None)
    if found is None:
        hint = f"the file has: {', '.join(leaves[:20])}"
        raise BrokenSource("a declared column is missing", column=column, expected=" or ".join(names), hint=hint)
    return found


def _groups(file: Any, rows: Int) -> list[int]:
    """Row groups that hold some rows, in order."""
    sizes = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
    return [int(group) for group in np.unique(np.searchsorted(np.cumsum(sizes), rows, side="right"))]


def _rows_of(file: Any, groups: Sequence[int]) -> Int:
    """Numbers of the rows that some row groups hold, in order."""
    ends = np.cumsum([0, *(file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups))])
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(ends[at], ends[at + 1]) for at in groups)])


def _inside(table: pa.Table, name: str) -> list[Any]:
    top, *below = name.split(".")
    column = table[top].combine_chunks()
    for part in below:
        column = column.field(part)
    return column.to_pylist()  # type: ignore[no-any-return]

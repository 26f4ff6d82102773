"""Parquet partitions of a HATS catalog: nested columns to rows and arrays, only the columns and row groups that are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, normalise
from mmu_pipeline.readers.planes import has_planes, in_order_of_bands
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.sky import Int

NO_ID = "no object id"
LIST_LEVELS = {"list", "element", "item", "array"}
"""What Parquet writers put between the names of a nested column."""
SIDE_BY_SIDE = re.compile(r"(.*)\{(.*)\}(.*)")


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The objects of one partition, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), _opened(path) as file:
        ids = normalise.object_ids(declared, {name: _column(file, (name,), name) for name in normalise.id_sources(declared)})
        position = {
            name: normalise.numbers_of(_column(file, names, name), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        sources = {field.name: _field(file, field, form, declared.planes) for field in survey.columns if field.is_carried(form)}
        rows = np.arange(len(ids), dtype=np.int64)
        columns = normalise.columns(survey, form, sources, len(ids))
        table = pa.table({"object_id": pa.array(ids, pa.string()), **position, "source_row": rows, **columns})
    nameless = [row for row, object_id in enumerate(ids) if not object_id]
    named = table.take(np.setdiff1d(rows, nameless)) if nameless else table
    return ObjectRows(named, tuple(Skipped(row, "", NO_ID) for row in nameless))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen rows; of the file, the row groups and nested columns that hold them are read. Raises BrokenSource."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    if not len(rows):
        return {field.name: [] for field in members}
    with normalise.blaming(path), _opened(path) as file:
        ids = {name: _column(file, (name,), name, rows) for name in normalise.id_sources(declared)}
        normalise.check_ids(rows, normalise.object_ids(declared, ids), object_ids)
        needed = needed_members(survey, form, members)
        sources = {field.name: _field(file, field, form, declared.planes, rows) for field in needed}
        arrays = finished(survey, form, sources)
        return {field.name: arrays[field.name] for field in members}


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource("not a readable Parquet file", reason=str(error), hint="fetch the file again") from error
    with file:
        try:
            yield file
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BrokenSource("the file cannot be read", reason=str(error), hint="fetch the file again") from error


def _field(file: pq.ParquetFile, field: Field, form: str, planes: Sequence[str], rows: Int | None = None) -> Array:
    """All or chosen rows of a field: (n, ...), or n arrays. FLUX_{G,R} is FLUX_G and FLUX_R side by side."""
    names = field.source_names(form)
    if not names and form in field.constant:
        return np.full(file.metadata.num_rows if rows is None else len(rows), field.constant[form])
    if not names:
        raise BrokenSource("this form of the survey does not carry the field", column=field.name)
    if side_by_side := SIDE_BY_SIDE.fullmatch(names[0]):
        columns = [f"{side_by_side[1]}{part}{side_by_side[3]}" for part in side_by_side[2].split(",")]
        return np.stack([_column(file, (name,), field.name, rows) for name in columns], axis=-1)
    values = _column(file, names, field.name, rows)
    if planes and has_planes(field):
        values = in_order_of_bands(field, values, _column(file, planes, field.name, rows))
    return values


def _column(file: pq.ParquetFile, names: Sequence[str], column: str, rows: Int | None = None) -> Array:
    """All or chosen rows of the first of some dotted names that the file has. Raises BrokenSource."""
    leaves = {_dotted(file.schema.column(at).path): file.schema.column(at).path for at in range(len(file.schema))}
    name = _present(leaves, names)
    if name is None:
        known = ", ".join(sorted(leaves)[:20])
        raise BrokenSource(
            "a declared column is missing", column=column, expected=" or ".join(names), hint=f"the file has: {known}"
        )
    paths = [path for dotted, path in leaves.items() if dotted == name or dotted.startswith(f"{name}.")]
    if len(paths) > 1:
        raise BrokenSource("a group of columns where one is declared", column=column, found=name)
    top, *below = name.split(".")
    array: Any = _rows(file, paths, column, rows)[top].combine_chunks()
    return _numpy(_inside(array, below), column)


def _dotted(path: str) -> str:
    first, *below = path.split(".")
    return ".".join([first, *(part for part in below if part not in LIST_LEVELS)])


def _present(leaves: dict[str, str], names: Sequence[str]) -> str | None:
    exact = next((name for name in names if any(leaf == name or leaf.startswith(f"{name}.") for leaf in leaves)), None)
    if exact is not None:
        return exact
    same = [leaf for leaf in leaves if leaf.lower() in {name.lower() for name in names}]
    return same[0] if len(same) == 1 else None


def _rows(file: pq.ParquetFile, paths: list[str], column: str, rows: Int | None) -> pa.Table:
    """Some columns: of all rows, or of chosen ones in their order, reading the row groups that hold them."""
    if rows is None:
        return file.read(columns=paths)
    metadata = file.metadata
    ends = np.cumsum([metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)], dtype=np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= metadata.num_rows):
        raise BrokenSource("no such row", column=column, row=int(rows.max()), rows=metadata.num_rows)
    group_of = np.searchsorted(ends, rows, side="right")
    groups = np.unique(group_of)
    if not groups.size:
        return file.schema_arrow.empty_table().select([paths[0].split(".")[0]])
    sizes = np.diff(np.concatenate([[0], ends]))
    read_from = np.concatenate([[0], np.cumsum(sizes[groups])])[:-1]
    place = rows - (ends - sizes)[group_of] + read_from[np.searchsorted(groups, group_of)]
    return file.read_row_groups(groups.tolist(), columns=paths).take(pa.array(place))


def _inside(array: Any, below: Sequence[str]) -> Any:
    """The child of nested columns, under lists as under structs: list<struct<a, b>> gives list<a>."""
    if isinstance(array, pa.ExtensionArray):
        return _inside(array.storage, below)
    if not below:
        return array
    if pa.types.is_struct(array.type):
        return _inside(pc.struct_field(array, [below[0]]), below[1:])
    inner = _inside(array.flatten(), below)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    return pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), inner)


def _numpy(array: Any, column: str) -> Array:
    """A column as an array of shape (n, ...), or n arrays where the lists of a row differ in length from others."""
    count, outer = len(array), None
    sizes: list[int] = []
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
        size = int(lengths[0]) if len(lengths) else 0
        if (lengths != size).any():
            if sizes:
                raise BrokenSource("arrays of rows that are not rectangular", column=column)
            outer, size = lengths, -1
        sizes.append(size)
        array = array.flatten()
    values = _flat(array)
    if outer is None:
        return values.reshape(count, *sizes)
    return of_arrays(np.split(values.reshape(-1, *sizes[1:]), np.cumsum(outer)[:-1]))


def _flat(array: Any) -> Array:
    """Numbers or text without nesting; missing numbers are NaN."""
    if pa.types.is_boolean(array.type) and array.null_count:
        array = array.cast(pa.int8())
    return np.asarray(array.to_numpy(zero_copy_only=False))

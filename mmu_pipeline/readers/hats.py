"""Parquet partitions of a HATS catalog: nested columns to rows and arrays, only the columns and row groups that are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import ObjectRows, Skipped, identity, normalise
from mmu_pipeline.readers.bounded import check_columns
from mmu_pipeline.readers.parquet_ahead import column_ranges, open_parquet
from mmu_pipeline.readers.planes import has_planes, in_order_of_bands
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.sky import Int

NO_ID = "no object id"
SIDE_BY_SIDE = re.compile(r"(.*)\{(.*)\}(.*)")


@dataclass(frozen=True)
class Partition:
    """An open file, and the names of its columns."""

    file: pq.ParquetFile
    leaves: dict[str, str]
    """Dotted name of each column -> its path in the Parquet schema."""

    def paths(self, names: Sequence[str]) -> tuple[str, list[str]] | None:
        """The first of some dotted names that is there, and the paths below it; None where there is none."""
        name = _present(self.leaves, names)
        if name is None:
            return None
        return name, [path for dotted, path in self.leaves.items() if dotted == name or dotted.startswith(f"{name}.")]

    def groups_of(self, rows: Int | None) -> Int:
        """Row groups that hold all or chosen rows."""
        ends = self.ends
        return np.arange(len(ends)) if rows is None else np.unique(np.searchsorted(ends, rows, side="right"))

    @property
    def ends(self) -> Int:
        """Row after the last of each row group."""
        metadata = self.file.metadata
        return np.cumsum([metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)], dtype=np.int64)


def read_objects(survey: Survey, form: str, path: Path | RangedFile) -> ObjectRows:
    """The objects of one partition, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), _opened(path) as file:
        if isinstance(path, RangedFile):
            path.announce(_ranges(file, survey, form))
        ids = identity.object_ids(declared, {name: _column(file, (name,), name) for name in identity.id_sources(declared)})
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
    survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen rows; of the file, the row groups and nested columns that hold them are read. Raises BrokenSource."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    if not len(rows):
        return {field.name: [] for field in members}
    with normalise.blaming(path), _opened(path) as file:
        if isinstance(path, RangedFile):
            path.announce(_ranges(file, survey, form, rows, members))
        ids = {name: _column(file, (name,), name, rows) for name in identity.id_sources(declared)}
        identity.check_ids(rows, identity.object_ids(declared, ids), object_ids)
        needed = needed_members(survey, form, members)
        sources = {field.name: _field(file, field, form, declared.planes, rows) for field in needed}
        arrays = finished(survey, form, sources)
        return {field.name: arrays[field.name] for field in members}


def ranges(survey: Survey, form: str, source: RangedFile, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    """Byte ranges (n, 2) that `read_objects` reads, or `read_arrays` for some rows, beside the footer of the file.

    Raises BrokenSource.
    """
    with normalise.blaming(source), _opened(source) as file:
        return _ranges(file, survey, form, rows, members)


def _ranges(file: Partition, survey: Survey, form: str, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    declared = survey.forms[form]
    if rows is None:
        fields, others = [field for field in survey.columns if field.is_carried(form)], [declared.ra, declared.dec]
    else:
        fields, others = needed_members(survey, form, members), []
    others += [(name,) for name in identity.id_sources(declared)]
    wanted = [*others, declared.planes, *(names for field in fields for names in _side_by_side(field.source_names(form)))]
    paths = {path for names in wanted if (found := file.paths(names)) is not None for path in found[1]}
    return column_ranges(file.file.metadata, paths, file.groups_of(rows).tolist())


def _side_by_side(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns that FLUX_{G,R} stands for, each with its only name; else one column, with its alternatives."""
    if names and (found := SIDE_BY_SIDE.fullmatch(names[0])):
        return [(f"{found[1]}{part}{found[3]}",) for part in found[2].split(",")]
    return [tuple(names)]


@contextmanager
def _opened(path: Path | RangedFile) -> Iterator[Partition]:
    try:
        file = open_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource("not a readable Parquet file", reason=str(error), hint="fetch the file again") from error
    with file:
        try:
            schema = file.schema
            paths = [schema.column(at).path for at in range(len(schema))]
            names = [name for field in file.schema_arrow for name in _leaves(field.name, field.type)]
            yield Partition(file, dict(zip(names, paths, strict=True)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BrokenSource("the file cannot be read", reason=str(error), hint="fetch the file again") from error


def _field(file: Partition, field: Field, form: str, planes: Sequence[str], rows: Int | None = None) -> Array:
    """All or chosen rows of a field: (n, ...), or n arrays. FLUX_{G,R} is FLUX_G and FLUX_R side by side."""
    names = field.source_names(form)
    if not names and form in field.constant:
        return np.full(file.file.metadata.num_rows if rows is None else len(rows), field.constant[form])
    if not names:
        raise BrokenSource("this form of the survey does not carry the field", column=field.name)
    if SIDE_BY_SIDE.fullmatch(names[0]):
        return np.stack([_column(file, one, field.name, rows) for one in _side_by_side(names)], axis=-1)
    values = _column(file, names, field.name, rows)
    if planes and has_planes(field):
        values = in_order_of_bands(field, values, _column(file, planes, field.name, rows))
    return values


def _column(file: Partition, names: Sequence[str], column: str, rows: Int | None = None) -> Array:
    """All or chosen rows of the first of some dotted names that the file has. Raises BrokenSource."""
    found = file.paths(names)
    if found is None:
        known = ", ".join(sorted(file.leaves)[:20])
        raise BrokenSource(
            "a declared column is missing", column=column, expected=" or ".join(names), hint=f"the file has: {known}"
        )
    name, paths = found
    if len(paths) > 1:
        raise BrokenSource("a group of columns where one is declared", column=column, found=name)
    top, *below = name.split(".")
    array: Any = _rows(file, paths, column, rows)[top].combine_chunks()
    return _numpy(_inside(array, below), column)


def _leaves(name: str, kind: Any) -> Iterator[str]:
    """Dotted names of the columns below one, in the order of the Parquet schema, without the levels that lists add."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(name, kind.storage_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{name}.key", kind.key_type)
        yield from _leaves(f"{name}.value", kind.item_type)
    elif pa.types.is_nested(kind):
        yield from _leaves(name, kind.value_type)
    else:
        yield name


def _present(leaves: dict[str, str], names: Sequence[str]) -> str | None:
    exact = next((name for name in names if any(leaf == name or leaf.startswith(f"{name}.") for leaf in leaves)), None)
    if exact is not None:
        return exact
    same = [leaf for leaf in leaves if leaf.lower() in {name.lower() for name in names}]
    return same[0] if len(same) == 1 else None


def _rows(file: Partition, paths: list[str], column: str, rows: Int | None) -> pa.Table:
    """Some columns: of all rows, or of chosen ones in their order, reading the row groups that hold them."""
    check_columns(file.file.metadata, paths)
    if rows is None:
        return file.file.read(columns=paths)
    ends = file.ends
    if rows.size and (rows.min() < 0 or rows.max() >= file.file.metadata.num_rows):
        raise BrokenSource("no such row", column=column, row=int(rows.max()), rows=file.file.metadata.num_rows)
    groups = file.groups_of(rows)
    if not groups.size:
        return file.file.schema_arrow.empty_table().select([paths[0].split(".")[0]])
    group_of = np.searchsorted(ends, rows, side="right")
    sizes = np.diff(np.concatenate([[0], ends]))
    read_from = np.concatenate([[0], np.cumsum(sizes[groups])])[:-1]
    place = rows - (ends - sizes)[group_of] + read_from[np.searchsorted(groups, group_of)]
    return file.file.read_row_groups(groups.tolist(), columns=paths).take(pa.array(place))


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

"""HDF5 of the Multimodal Universe v1 with a group per object: its datasets to a row, columns of its tables to arrays.

A field's source is a dataset of the group, `z`; a column of a table, `spaxels.flux`; one row of it, `spaxels.lambda[0]`; the row
with a label, `maps.array[stellar_vel]`; or a row per band of the field, `maps.array[emline_gflux_{band}]`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import ObjectRows, Skipped, hdf5, hdf5_ahead, identity, normalise
from mmu_pipeline.readers.hdf5_dataset import dataset, described
from mmu_pipeline.readers.mmu_v1 import NO_ID
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.readers.text import as_text
from mmu_pipeline.sky import Int

SOURCE = re.compile(r"(?:(?P<table>\w+)\.)?(?P<column>\w+)(?:\[(?P<row>.+)\])?")
LABEL = "label"
"""Column of a table that names its rows."""


def read_objects(survey: Survey, form: str, path: Path | RangedFile) -> ObjectRows:
    """The objects of one file, a row per group, in order of their names. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    carried = [field for field in survey.columns if field.is_carried(form)]
    with normalise.blaming(path), hdf5.opened(path) as file:
        groups = [_group(file, name) for name in sorted(file)]
        ids = [_id(declared, group) for group in groups]
        position = {
            name: normalise.numbers_of(_stacked([_value(group, names, name) for group in groups]), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        sources = {field.name: _stacked([_field(group, field, form) for group in groups]) for field in carried}
        table = pa.table(
            {
                "object_id": pa.array(ids, pa.string()),
                **position,
                "source_row": np.arange(len(ids), dtype=np.int64),
                **normalise.columns(survey, form, sources if groups else {}, len(ids)),
            }
        )
    named = pa.array([row for row, object_id in enumerate(ids) if object_id], pa.int64())
    return ObjectRows(table.take(named), tuple(Skipped(row, "", NO_ID) for row, object_id in enumerate(ids) if not object_id))


def read_arrays(
    survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of the objects of chosen groups, without the elements that only fill them. Raises BrokenSource."""
    declared, needed = survey.forms[form], needed_members(survey, form, members)
    with normalise.blaming(path), hdf5.opened(path) as file:
        names = sorted(file)
        found: dict[str, list[Array]] = {field.name: [] for field in needed}
        for row, object_id in zip(np.asarray(rows).tolist(), object_ids, strict=True):
            if not 0 <= row < len(names):
                raise BrokenSource("no such row", row=row, rows=len(names))
            group = _group(file, names[row])
            identity.check_ids(np.array([row]), [_id(declared, group)], [object_id])
            one = {field.name: _source(group, field, form) for field in needed}
            for name, arrays in finished(survey, form, one).items():
                found[name] += arrays
    return {field.name: found[field.name] for field in members}


def ranges(survey: Survey, form: str, source: RangedFile, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    """Byte ranges (n, 2) that `read_arrays` reads of some rows; `read_objects` reads little beside the directory of the file.

    Raises BrokenSource.
    """
    names = [name for field in needed_members(survey, form, members) for name in field.source_names(form)]
    parts = {found["table"] or found["column"] for name in names if (found := SOURCE.fullmatch(name))}
    with normalise.blaming(source), hdf5.opened(source) as file:
        groups = [] if rows is None else [_group(file, name) for name in np.array(sorted(file))[np.unique(rows)].tolist()]
        datasets = [group[part] for group in groups for part in sorted(parts & set(group))]
        stored = [described(one.name, one.id) for one in datasets if isinstance(one, h5py.Dataset)]
        return hdf5_ahead.together([hdf5_ahead.stored_ranges(one, source, None) for one in stored])


def _group(file: h5py.File, name: str) -> h5py.Group:
    found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Group):
        raise BrokenSource("not a group of this file: each object has one", dataset=name)
    return found


def _id(form: Form, group: h5py.Group) -> str:
    return identity.object_ids(form, {name: _value(group, (name,), name) for name in identity.id_sources(form)})[0]


def _value(group: h5py.Group, names: Sequence[str], column: str) -> Array:
    """A dataset of the group as an array of one row."""
    return hdf5.whole(dataset(group, names, column))[np.newaxis]


def _stacked(values: Sequence[Array]) -> Array:
    return np.concatenate(values) if values else np.zeros(0)


def _source(group: h5py.Group, field: Field, form: str) -> Array:
    """A member of one object, as a block of one row, or as one array of its own length."""
    values = _field(group, field, form)
    return of_arrays([values[0]]) if field.is_ragged else values


def _field(group: h5py.Group, field: Field, form: str) -> Array:
    """The first of a field's sources that the group has, shape (1, ...). Raises BrokenSource."""
    sources = [found for name in field.source_names(form) if (found := SOURCE.fullmatch(name))]
    if not sources:
        raise BrokenSource("this form of the survey does not carry the field", column=field.name)
    plain = [found["column"] for found in sources if found["table"] is None]
    if plain:
        return _value(group, plain, field.name)
    for found in sources:
        table = hdf5.table(group, found["table"], field.name)
        if found["column"] in table.dtype.names:
            return _of_table(table, found, field)[np.newaxis]
    expected = " or ".join(field.source_names(form))
    raise BrokenSource("a declared column is missing", column=field.name, expected=expected, group=group.name)


def _of_table(table: h5py.Dataset, found: re.Match[str], field: Field) -> Array:
    """A column of a table, or those of its rows that a source names."""
    column, row = found["column"], found["row"]
    if row is None:
        return hdf5.table_column(table, column)
    if row.isdecimal():
        return hdf5.table_column(table, column, slice(int(row), int(row) + 1)).squeeze(0)
    labels = {label: at for at, label in enumerate(as_text(hdf5.table_column(table, LABEL)))}
    wanted = [row.replace("{band}", band) for band in field.bands] if "{band}" in row else [row]
    for label in wanted:
        if label not in labels:
            raise BrokenSource("a table lacks a row", column=field.name, table=table.name, label=label)
    rows = [hdf5.table_column(table, column, slice(labels[label], labels[label] + 1)) for label in wanted]
    return np.concatenate(rows) if "{band}" in row else rows[0].reshape(rows[0].shape[1:])

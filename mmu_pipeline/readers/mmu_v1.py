"""HDF5 of the Multimodal Universe v1, a table per cell or one object per file: datasets to rows, chosen rows to arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import ObjectRows, Skipped, hdf5, hdf5_ahead, identity, normalise
from mmu_pipeline.readers.hdf5_dataset import Stored, dataset, stored_name
from mmu_pipeline.readers.planes import has_planes, in_order_of_bands
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

NO_ID = "no object id"
INDEXED = re.compile(r"(.+)\[([-:,\d\s]+)\]")


@dataclass(frozen=True)
class Rows:
    """A file as rows. In a file of one object the ids are datasets without dimensions, and each dataset is its only row."""

    file: h5py.File
    single: bool
    count: int

    def take(self, names: Sequence[str], column: str, rows: Int | None = None) -> Array:
        """All or chosen rows of the first of `names` that is there; of each row the part that "name[:, 0]" says.

        Raises BrokenSource.
        """
        if not names:
            raise BrokenSource("this form of the survey does not carry the field", column=column)
        split = [INDEXED.fullmatch(name) for name in names]
        source = dataset(self.file, _bare(names), column)
        values = self._rows_of(source, column, rows)
        index = next((found[2] for found in split if found and found[1].lower() == source.name.lower()), None)
        return values if index is None else _indexed(values, index, column)

    def id_sources(self, form: Form, rows: Int | None = None) -> dict[str, Array]:
        """What the ids of all or chosen rows are made of. Raises BrokenSource."""
        if form.object_id == identity.ROW_NUMBER:
            return {form.object_id: np.arange(self.count) if rows is None else rows}
        return {name: self.take((name,), name, rows) for name in identity.id_sources(form)}

    def field(self, field: Field, form: str, planes: Sequence[str] = (), rows: Int | None = None) -> Array:
        """All or chosen rows of a field, with its axes and planes in the declared order. Raises BrokenSource."""
        if form in field.constant and not field.source_names(form):
            return np.full(self.count if rows is None else len(rows), field.constant[form])
        values = self.take(field.source_names(form), field.name, rows)
        if form in field.axes:
            if values.ndim != len(field.shape) + 1:
                raise BrokenSource("not the declared shape", column=field.name, shape=values.shape[1:], declared=field.shape)
            values = np.ascontiguousarray(values.transpose(0, *(1 + axis for axis in field.axes[form])))
        if planes and has_planes(field):
            values = in_order_of_bands(field, values, self.take(planes, field.name, rows))
        return values

    def _rows_of(self, source: Stored, column: str, rows: Int | None) -> Array:
        if self.single:
            values = hdf5.whole(source)[np.newaxis]
            if rows is not None and rows.any():
                raise BrokenSource("no such row: the file holds one object", column=column, row=int(rows.max()))
            return values if rows is None else np.repeat(values, len(rows), axis=0)
        if not source.shape:
            raise BrokenSource("one value where one per row is expected", column=column, dataset=source.name)
        return hdf5.whole(source) if rows is None else hdf5.rows_of(source, rows)


def read_objects(survey: Survey, form: str, path: Path | RangedFile) -> ObjectRows:
    """The objects of one file, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), hdf5.opened(path) as file:
        if isinstance(path, RangedFile):
            path.announce(_ranges(file, path, survey, form))
        found = _rows(file, declared)
        ids = identity.id_column(declared, found.id_sources(declared))
        position = {
            name: normalise.numbers_of(found.take(names, name), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = [field for field in survey.columns if field.is_carried(form)]
        sources = {field.name: found.field(field, form, declared.planes) for field in carried}
        for name, values in {**position, **sources}.items():
            if len(values) != len(ids):
                raise BrokenSource("not one value per id", column=name, rows=len(values), ids=len(ids))
        table = pa.table(
            {
                "object_id": ids,
                **position,
                "source_row": np.arange(len(ids), dtype=np.int64),
                **normalise.columns(survey, form, sources, len(ids)),
            }
        )
    nameless = np.flatnonzero(pc.equal(ids, "")).tolist()
    if nameless:
        table = table.take(np.setdiff1d(np.arange(len(ids)), nameless))
    return ObjectRows(table, tuple(Skipped(row, "", NO_ID) for row in nameless))


def read_arrays(
    survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen rows, padding removed, light curves flattened over bands and sorted. Raises BrokenSource."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    needed = needed_members(survey, form, members)
    with normalise.blaming(path):
        with hdf5.opened(path) as file:
            if isinstance(path, RangedFile):
                path.announce(_ranges(file, path, survey, form, rows, members))
            found = _rows(file, declared)
            identity.check_ids(rows, identity.object_ids(declared, found.id_sources(declared, rows)), object_ids)
            sources = {field.name: found.field(field, form, declared.planes, rows) for field in needed}
        arrays = finished(survey, form, sources)
        return {field.name: arrays[field.name] for field in members}


def ranges(survey: Survey, form: str, source: RangedFile, rows: Int | None = None, members: Sequence[Field] = ()) -> Int:
    """Byte ranges (n, 2) that `read_objects` reads, or `read_arrays` for some rows, beside the directory of the file.

    Raises BrokenSource.
    """
    with normalise.blaming(source), hdf5.opened(source) as file:
        return _ranges(file, source, survey, form, rows, members)


def _ranges(
    file: h5py.File, source: RangedFile, survey: Survey, form: str, rows: Int | None = None, members: Sequence[Field] = ()
) -> Int:
    declared = survey.forms[form]
    if rows is None:
        fields, others = [field for field in survey.columns if field.is_carried(form)], [declared.ra, declared.dec]
    else:
        fields, others = needed_members(survey, form, members), []
    others += [(name,) for name in identity.id_sources(declared) if name != identity.ROW_NUMBER]
    wanted = [_bare(names) for names in (*others, declared.planes, *(field.source_names(form) for field in fields)) if names]
    hdf5_ahead.announce_headers(file, source, [name for names in wanted for name in names])
    single = _rows(file, declared).single
    present = {name for names in wanted if (name := stored_name(file, names)) is not None}
    datasets = [dataset(file, (name,), name) for name in sorted(present)]
    return hdf5_ahead.together([hdf5_ahead.stored_ranges(found, source, None if single else rows) for found in datasets])


def _bare(names: Sequence[str]) -> list[str]:
    """Names of datasets without what they say of the part of a row."""
    return [found[1] if (found := INDEXED.fullmatch(name)) else name for name in names]


def _rows(file: h5py.File, form: Form) -> Rows:
    names = form.ra if form.object_id == identity.ROW_NUMBER else identity.id_sources(form)[:1]
    shape = dataset(file, names, names[0]).shape
    return Rows(file, single=shape == (), count=shape[0] if shape else 1)


def _indexed(values: Array, index: str, column: str) -> Array:
    """The part of each row that an index such as ":, 0" says."""
    try:
        cut = [
            slice(*(int(end) if end else None for end in part.strip().split(":"))) if ":" in part else int(part)
            for part in index.split(",")
        ]
        return np.asarray(values[(slice(None), *cut)])
    except (ValueError, IndexError) as error:
        raise BrokenSource("a row has no such part", column=column, part=f"[{index}]", shape=values.shape[1:]) from error

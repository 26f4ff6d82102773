"""HDF5 of the Multimodal Universe v1, a table per cell or one object per file: datasets to rows, chosen rows to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, hdf5, normalise
from mmu_pipeline.readers.ragged import frames_of, unpadded
from mmu_pipeline.sky import Int

NO_ID = "no object id"


@dataclass(frozen=True)
class Rows:
    """A file as rows. In a file of one object the ids are datasets without dimensions, and each dataset is its only row."""

    file: h5py.File
    single: bool

    def take(self, names: Sequence[str], column: str, rows: Int | None = None) -> Array:
        """All or chosen rows of the first of `names` that is there. Raises BrokenSource."""
        if not names:
            raise BrokenSource("this form of the survey does not carry the field", column=column)
        source = hdf5.dataset(self.file, names, column)
        if self.single:
            values = hdf5.whole(source)[np.newaxis]
            if rows is not None and rows.any():
                raise BrokenSource("no such row: the file holds one object", column=column, row=int(rows.max()))
            return values if rows is None else np.repeat(values, len(rows), axis=0)
        if not source.shape:
            raise BrokenSource("one value where one per row is expected", column=column, dataset=source.name)
        return hdf5.whole(source) if rows is None else hdf5.rows_of(source, rows)


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The objects of one file, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), hdf5.opened(path) as file:
        found = _rows(file, declared)
        ids = normalise.object_ids(declared, {name: found.take((name,), name) for name in normalise.id_sources(declared)})
        position = {
            name: normalise.numbers_of(found.take(names, name), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = [(field.name, field.source_names(form)) for field in survey.columns]
        sources = {name: found.take(names, name) for name, names in carried if names}
        for name, values in {**position, **sources}.items():
            if len(values) != len(ids):
                raise BrokenSource("not one value per id", column=name, rows=len(values), ids=len(ids))
        table = pa.table(
            {
                "object_id": pa.array(ids, pa.string()),
                **position,
                "source_row": np.arange(len(ids), dtype=np.int64),
                **normalise.columns(survey, form, sources, len(ids)),
            }
        )
    nameless = [row for row, object_id in enumerate(ids) if not object_id]
    named = np.setdiff1d(np.arange(len(ids)), nameless)
    return ObjectRows(table.take(named) if nameless else table, tuple(Skipped(row, "", NO_ID) for row in nameless))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen rows, padding removed, light curves flattened over bands and sorted. Raises BrokenSource."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    needed = _needed(survey, form, members)
    with normalise.blaming(path):
        with hdf5.opened(path) as file:
            found = _rows(file, declared)
            ids = {name: found.take((name,), name, rows) for name in normalise.id_sources(declared)}
            _check_ids(rows, normalise.object_ids(declared, ids), object_ids)
            sources = {field.name: found.take(field.source_names(form), field.name, rows) for field in needed}
        for field in needed:
            if not field.is_ragged and sources[field.name].shape[1:] != field.shape:
                shape = sources[field.name].shape[1:]
                raise BrokenSource("not the declared shape", column=field.name, shape=shape, declared=field.shape)
        frames_of(needed, sources)
        typed = {field.name: normalise.member(field, form, sources[field.name]) for field in needed if not field.is_band_code}
        blocks = normalise.reconcile(survey, typed)
        arrays = {name: list(block) for name, block in blocks.items() if not survey.field(name).is_ragged}
        arrays |= unpadded(survey, declared, sources, blocks)
        return {field.name: arrays[field.name] for field in members}


def _needed(survey: Survey, form: str, members: Sequence[Field]) -> list[Field]:
    """The members that are asked for, and those that it takes to mask, unpad and sort them, in declared order."""
    asked = {field.name for field in members}
    names = normalise.with_companions(survey, asked)
    if any(field.is_ragged for field in members):
        padding = survey.forms[form].padding
        names |= {*survey.order_by, *([padding.field] if padding else [])}
    return [field for field in survey.members if field.name in asked or (field.name in names and field.source_names(form))]


def _rows(file: h5py.File, form: Form) -> Rows:
    first = normalise.id_sources(form)[0]
    return Rows(file, single=hdf5.dataset(file, (first,), first).shape == ())


def _check_ids(rows: Int, found: Sequence[str], expected: Sequence[str]) -> None:
    for row, here, wanted in zip(rows.tolist(), found, expected, strict=True):
        if here != wanted:
            raise BrokenSource("the row holds another object", row=row, object_id=here, expected=wanted)

"""A table of objects in csv and tables of all their observations beside it to an object table and light curves of chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.companions import find_companion
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.readers.text_table import batches, check_rows, column_names, read_objects
from mmu_pipeline.sky import Int

__all__ = ["read_arrays", "read_objects"]


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Light curves of chosen objects, of length 0 where there is no observation. Raises BrokenSource.

    Companions hold the observations of all objects; they are read through, a batch at a time, once per call.
    """
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    needed = needed_members(survey, form, members)
    with blaming(path):
        check_rows(survey, form, path, rows, object_ids)
        files = _observation_files(declared, path)
    parts = []
    for file in files:
        with blaming(file):
            parts.append(_observations(survey, form, file, object_ids, needed))
    table = pa.concat_tables(parts)
    order = pc.index_in(table[declared.object_id], pa.array(list(dict.fromkeys(object_ids)))).to_numpy()
    by_object = np.argsort(order, kind="stable")
    ends = np.searchsorted(order[by_object], np.arange(len(set(object_ids)) + 1))
    place = {object_id: at for at, object_id in enumerate(dict.fromkeys(object_ids))}
    sources = {}
    for field in needed:
        values = table[field.name].to_numpy()[by_object]
        sources[field.name] = of_arrays([values[ends[place[one]] : ends[place[one] + 1]] for one in object_ids])
    with blaming(path):
        arrays = finished(survey, form, sources)
    return {field.name: arrays[field.name] for field in members}


def _observation_files(form: Form, path: Path) -> list[Path]:
    found = [file for role in form.companions if (file := find_companion(form, role, path)) is not None]
    if not found:
        raise BrokenSource("no file of observations lies beside the table", looked_for=", ".join(form.companions))
    return found


def _observations(survey: Survey, form: str, file: Path, object_ids: Sequence[str], fields: Sequence[Field]) -> pa.Table:
    """Rows of some objects, in file order, with a column per field."""
    declared = survey.forms[form]
    names = column_names(declared, file)
    found = {}
    for field in fields:
        name = next((name for name in field.source_names(form) if name in names), None)
        if name is None:
            expected = " or ".join(field.source_names(form))
            raise BrokenSource("a declared column is missing", column=field.name, expected=expected)
        found[field.name] = name
    types = {name: pa.float64() for name in found.values()}
    types |= {found[field.name]: pa.string() for field in fields if field.is_band_code}
    wanted = pa.array(sorted(set(object_ids)), pa.string())
    kept = [
        batch.filter(pc.is_in(batch[declared.object_id], wanted))
        for batch in batches(declared, file, {**types, declared.object_id: pa.string()})
    ]
    table = pa.Table.from_batches(kept)
    return pa.table({declared.object_id: table[declared.object_id], **{name: table[source] for name, source in found.items()}})

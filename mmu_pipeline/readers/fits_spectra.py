"""FITS files of one spectrum each, of any survey: the addresses that a form declares to a row and its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, identity, normalise
from mmu_pipeline.readers.fits_address import Files, Unlisted, opened, read
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

NO_ID = "no object id"
NOT_LISTED = "not in the catalog of its survey"


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The one object of a file. Skipped without an id, or if the catalog that gives its position has no row of it.

    Raises BrokenSource naming the column.
    """
    declared = survey.forms[form]
    with normalise.blaming(path), opened(declared, path) as files:
        object_id = _object_id(files)
        skipped = (Skipped(0, object_id, NO_ID if not object_id else NOT_LISTED),)
        try:
            position = {
                name: normalise.numbers_of(read(files, names, name, object_id).reshape(-1)[:1], name).astype(np.float64)
                for name, names in (("ra", declared.ra), ("dec", declared.dec))
            }
            carried = [field for field in survey.columns if field.source_names(form)]
            sources = {field.name: read(files, field.source_names(form), field.name, object_id)[np.newaxis] for field in carried}
        except Unlisted:
            position, sources, object_id = {name: np.zeros(1) for name in ("ra", "dec")}, {}, ""
        table = pa.table(
            {
                "object_id": pa.array([object_id], pa.string()),
                **position,
                "source_row": pa.array([0], pa.int64()),
                **normalise.columns(survey, form, sources, 1),
            }
        )
    return ObjectRows(table) if object_id else ObjectRows(table.slice(0, 0), skipped)


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of the one object, for each of `rows` (all 0). Raises BrokenSource."""
    with normalise.blaming(path), opened(survey.forms[form], path) as files:
        object_id = _object_id(files)
        identity.check_only_row(rows, object_id, object_ids)
        needed = needed_members(survey, form, members)
        sources = {field.name: read(files, field.source_names(form), field.name, object_id)[np.newaxis] for field in needed}
        arrays = finished(survey, form, sources)
        return {field.name: arrays[field.name] * len(rows) for field in members}


def _object_id(files: Files) -> str:
    sources = {name: read(files, (name,), name).reshape(-1)[:1] for name in identity.id_sources(files.form)}
    return identity.object_ids(files.form, sources)[0]

"""FITS light curves, a file per star and quarter or sector, to a row and its arrays; pieces of one star are joined."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped
from mmu_pipeline.readers.arrow_table import NO_ID
from mmu_pipeline.readers.bounded import check_images
from mmu_pipeline.readers.fits_table import column_of
from mmu_pipeline.readers.identity import check_only_row, id_sources, object_ids
from mmu_pipeline.readers.normalise import blaming, columns, numbers_of
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.sky import Int

FURTHER_PIECE = "a further piece of an object, joined to its first"


def parts(form: Form, path: Path) -> list[Path]:
    """The files of the object that a file belongs to, in order of their names; the file alone where a form has no parts."""
    own = re.fullmatch(form.parts, path.name) if form.parts else None
    if form.parts is None or own is None:
        return [path]
    others = ((re.fullmatch(form.parts, other.name), other) for other in path.parent.iterdir())
    return sorted((other for found, other in others if found and found[1] == own[1]), key=lambda other: other.name)


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The object of one file, from its headers; skipped where it is not the first piece. Keys that are missing are null."""
    declared = survey.forms[form]
    with blaming(path), _opened(path) as hdus:
        object_id = _object_id(declared, hdus)
        position = {
            axis: numbers_of(_header(hdus, names, axis), axis).astype(np.float64)
            for axis, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        sources = {
            field.name: np.array([value])
            for field in survey.columns
            if (value := _key(hdus, field.source_names(form))) is not None
        }
        table = pa.table(
            {
                "object_id": pa.array([object_id], pa.string()),
                **position,
                "source_row": pa.array([0], pa.int64()),
                **columns(survey, form, sources, 1),
            }
        )
    further = parts(declared, path)[0].name != path.name
    reason = FURTHER_PIECE if further else NO_ID if not object_id else None
    return ObjectRows(table.slice(0, 0), (Skipped(0, object_id, reason),)) if reason else ObjectRows(table)


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """The light curve of the object, all its pieces, in the survey's order, for each of `rows` (all 0). Raises BrokenSource."""
    declared, needed = survey.forms[form], needed_members(survey, form, members)
    pieces: dict[str, list[Array]] = {field.name: [] for field in needed}
    for part in parts(declared, path):
        with blaming(part), _opened(part) as hdus:
            found = _object_id(declared, hdus)
            check_only_row(rows, found, object_ids)
            for field in needed:
                pieces[field.name].append(_observations(hdus, field, form))
    with blaming(path):
        arrays = finished(survey, form, {name: of_arrays([np.concatenate(found)]) for name, found in pieces.items()})
    return {field.name: arrays[field.name] * len(rows) for field in members}


def _opened(path: Path) -> Any:
    try:
        hdus = fits.open(path, memmap=False)
        check_images(hdus)
        if len(hdus) > 1 and isinstance(hdus[1], fits.BinTableHDU):
            return hdus
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource("not a readable FITS file", reason=str(error), hint="fetch the file again") from error
    hdus.close()
    raise BrokenSource("the file has no table of a light curve")


def _key(hdus: Any, names: Sequence[str]) -> Any:
    """Value of the first of some header keys, of the file or of its table; None where there is none."""
    headers = [hdu.header for hdu in hdus[:2]]
    values = (header[name] for name in names for header in headers if name in header)
    return next((value for value in values if not isinstance(value, fits.card.Undefined)), None)


def _header(hdus: Any, names: Sequence[str], column: str) -> Array:
    value = _key(hdus, names)
    if value is None:
        raise BrokenSource("a required header key is missing", column=column, expected=" or ".join(names))
    return np.array([value])


def _object_id(form: Form, hdus: Any) -> str:
    return object_ids(form, {name: _header(hdus, (name,), name) for name in id_sources(form)})[0]


def _observations(hdus: Any, field: Field, form: str) -> Array:
    """A column of the table, or a header key once per row of it."""
    table, names = hdus[1].data, field.source_names(form)
    if not any(name.lower() in {present.lower() for present in table.columns.names} for name in names):
        value = _key(hdus, names)
        if value is not None:
            return np.full(len(table), value)
    return column_of(table, names, field.name)

"""MaNGA cubes (LOGCUBE): spectra of the spaxels with data, and reconstructed images in the frame that the MMU's form has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, identity, normalise
from mmu_pipeline.readers.fits_address import Files, opened, read
from mmu_pipeline.readers.planes import has_planes
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

NO_ID = "no object id"
PLACES = {"column": 1, "row": 0}
"""What a field may name as its source beside an extension: where a spaxel lies in the images. Extensions with {band} in their
name are one for each band of the field."""


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The galaxy of a file. Columns, id and position are addresses of header keys. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), opened(declared, path) as files:
        object_id = _object_id(files)
        position = {
            name: normalise.numbers_of(read(files, names, name).reshape(1), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = [field for field in survey.columns if field.source_names(form)]
        sources = {field.name: read(files, field.source_names(form), field.name).reshape(1) for field in carried}
        columns = normalise.columns(survey, form, sources, 1)
        table = pa.table({"object_id": [object_id], **position, "source_row": pa.array([0], pa.int64()), **columns})
    return ObjectRows(table) if object_id else ObjectRows(table.slice(0, 0), (Skipped(0, "", NO_ID),))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of the galaxy, for each of `rows` (all 0). Raises BrokenSource naming the column."""
    with normalise.blaming(path), opened(survey.forms[form], path) as files:
        identity.check_only_row(rows, _object_id(files), object_ids)
        needed = needed_members(survey, form, members)
        arrays = finished(survey, form, {field.name: _values(files, field, form)[np.newaxis] for field in needed})
        return {field.name: arrays[field.name] * len(rows) for field in members}


def _values(files: Files, field: Field, form: str) -> npt.NDArray[Any]:
    """One member of a galaxy: cubes (spaxels, wavelengths), row by row; images (bands, size, size), the cube in their middle."""
    (name, *_), column = field.source_names(form) or ("",), field.name
    if not name:
        raise BrokenSource("this form of the survey does not carry the field", column=column)
    if has_planes(field):
        size = int(field.shape[-1])
        return np.stack([_framed(read(files, (name.format(band=band.upper()),), column), size, column) for band in field.bands])
    if name in PLACES:
        height, width = read(files, ("FLUX",), column).shape[1:]
        place: npt.NDArray[Any] = np.indices((height, width))[PLACES[name]]
        return place.reshape(-1) + margin(width, FRAME)
    values = read(files, (name,), column)
    if values.ndim == 3:
        return np.moveaxis(values, 0, -1).reshape(-1, values.shape[0])
    return values


FRAME = 96
"""Pixels on a side of the frame in which spaxels are counted."""


def margin(size: int, frame: int) -> int:
    """Pixels before the first of a cube in the middle of a frame."""
    return (frame - size) // 2


def _framed(image: Array, frame: int, column: str) -> npt.NDArray[Any]:
    if image.ndim != 2 or max(image.shape) > frame:
        raise BrokenSource("not an image that fits the declared shape", column=column, shape=image.shape, declared=frame)
    before = [margin(size, frame) for size in image.shape]
    return np.pad(image, [(first, frame - size - first) for first, size in zip(before, image.shape, strict=True)])


def _object_id(files: Files) -> str:
    sources = {name: read(files, (name,), name).reshape(1) for name in identity.id_sources(files.form)}
    return identity.object_ids(files.form, sources)[0]

"""DESI coadds: the B, R and Z cameras of each target, joined by inverse variance, with their redshifts and catalog."""

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
from mmu_pipeline.readers.fits_address import Files, opened, read, read_rows
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Float, Int

CAMERAS = ("B", "R", "Z")
QUANTITIES = ("wavelength", "flux", "ivar", "mask", "lsf_sigma")
"""What a member may name as its source here."""
NO_ID = "no object id"
UNWEIGHTED = 1e-200
"""Weight of a pixel of unknown inverse variance, so that its line spread function is still told."""
TARGET = "TARGETID"


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The targets of one coadd, in the order of its FIBERMAP.

    Columns of its redrock file and of the catalog of the release are joined by TARGETID, of the latter only rows of the
    coadd's survey and program; null where there is none. Raises BrokenSource naming the column.
    """
    declared = survey.forms[form]
    with normalise.blaming(path), opened(declared, path) as files:
        ids = _object_ids(files)
        position = {
            name: normalise.numbers_of(_column(files, names, name), name).astype(np.float64)
            for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = [field for field in survey.columns if field.source_names(form)]
        sources = {field.name: _column(files, field.source_names(form), field.name) for field in carried}
        rows = np.arange(len(ids), dtype=np.int64)
        columns = normalise.columns(survey, form, sources, len(ids))
        table = pa.table({"object_id": pa.array(ids, pa.string()), **position, "source_row": rows, **columns})
    nameless = [row for row, object_id in enumerate(ids) if not object_id]
    return ObjectRows(table.take(np.setdiff1d(rows, nameless)), tuple(Skipped(row, "", NO_ID) for row in nameless))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen targets, shape (pixels,), on the grid that the cameras share. Raises BrokenSource."""
    rows = np.asarray(rows, np.int64)
    if not len(rows):
        return {field.name: [] for field in members}
    with normalise.blaming(path), opened(survey.forms[form], path) as files:
        ids = _object_ids(files)
        if rows.min() < 0 or rows.max() >= len(ids):
            raise BrokenSource("no such row", row=int(rows.max()), rows=len(ids))
        identity.check_ids(rows, [ids[row] for row in rows], object_ids)
        needed = needed_members(survey, form, members)
        names = {field.name: field.source_names(form)[0] for field in needed}
        for name, source in names.items():
            if source not in QUANTITIES:
                hint = f"known: {', '.join(QUANTITIES)}"
                raise BrokenSource("a coadd has no such array", column=name, expected=source, hint=hint)
        joined = join_cameras({camera: _camera(files, camera, rows, "lsf_sigma" in names.values()) for camera in CAMERAS})
        arrays = finished(survey, form, {name: joined[source] for name, source in names.items()})
        return {field.name: arrays[field.name] for field in members}


def join_cameras(cameras: dict[str, dict[str, npt.NDArray[Any]]]) -> dict[str, Array]:
    """Spectra of some targets from each camera to one spectrum each, on the union of their grids.

    Per camera: wavelength (pixels,), flux, ivar, mask (bits), variance of the line spread function, each (n, pixels). Where
    cameras overlap flux is the mean weighted by inverse variance, inverse variances add up, and a pixel is bad only if it
    is in each of them; so does desispec.coadd_cameras. Raises BrokenSource where the grids do not fit together.
    """
    parts = list(cameras.values())
    step = float(parts[0]["wavelength"][1] - parts[0]["wavelength"][0])
    first = min(float(part["wavelength"][0]) for part in parts)
    places = [np.rint((part["wavelength"] - first) / step).astype(np.int64) for part in parts]
    for part, place in zip(parts, places, strict=True):
        if np.abs(part["wavelength"] - first - step * place).max() > 0.01 * step:
            raise BrokenSource("the cameras do not share a grid", column="wavelength", start=first, step=step)
    count, length = len(parts[0]["flux"]), 1 + max(int(place[-1]) for place in places)
    sums = {name: np.zeros((count, length)) for name in ("ivar", "weighted", "only", "bits", "width", "cameras")}
    for part, place in zip(parts, places, strict=True):
        ivar = part["ivar"].astype(np.float64)
        sums["ivar"][:, place] += ivar
        sums["weighted"][:, place] += ivar * part["flux"]
        sums["only"][:, place] += part["flux"]
        sums["bits"][:, place] += part["mask"] != 0
        sums["cameras"][:, place] += 1
        sums["width"][:, place] += part["variance"] * np.where(ivar > 0, ivar, UNWEIGHTED)
    known = sums["ivar"] > 0
    total = np.where(known, sums["ivar"], 1.0)
    weights = np.where(known, sums["ivar"], UNWEIGHTED * np.maximum(sums["cameras"], 1))
    flux = np.where(sums["cameras"] == 1, sums["only"], np.where(known, sums["weighted"] / total, 0.0))
    return {
        "wavelength": np.tile(first + step * np.arange(length), (count, 1)),
        "flux": flux,
        "ivar": sums["ivar"],
        "mask": (sums["bits"] == sums["cameras"]) | ~known,
        "lsf_sigma": np.sqrt(np.maximum(sums["width"] / weights, 0.0)),
    }


def _camera(files: Files, camera: str, rows: Int, with_resolution: bool) -> dict[str, npt.NDArray[Any]]:
    """Arrays of chosen targets from one camera. Raises BrokenSource."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "wavelength": np.asarray(_image(files, f"{camera}_WAVELENGTH"), np.float64),
        **{name: _image(files, f"{camera}_{name.upper()}", rows) for name in ("flux", "ivar", "mask")},
    }
    length = len(arrays["wavelength"])
    arrays["variance"] = (
        _variance(_image(files, f"{camera}_RESOLUTION", rows)) if with_resolution else np.zeros((len(rows), length))
    )
    for name, values in arrays.items():
        if values.shape[-1] != length:
            what = "not as long as the wavelengths"
            raise BrokenSource(what, column=f"{camera}_{name.upper()}", shape=values.shape, expected=length)
    return arrays


def _variance(resolution: Array) -> Float:
    """Second moment in pixels of each column of a resolution matrix given by diagonals: (n, diagonals, pixels) -> (n, pixels).

    Diagonal i has the offset diagonals // 2 - i, as scipy.sparse.dia_matrix has it; 0 where a column is empty.
    """
    diagonals = resolution.astype(np.float64)
    offset = diagonals.shape[1] // 2 - np.arange(diagonals.shape[1])[:, np.newaxis]
    total = diagonals.sum(axis=1)
    safe = np.where(total > 0, total, 1.0)
    mean = (diagonals * offset).sum(axis=1) / safe
    return np.asarray(np.where(total > 0, (diagonals * offset**2).sum(axis=1) / safe - mean**2, 0.0))


def _image(files: Files, name: str, rows: Int | None = None) -> Array:
    hdus = files.hdus(None)
    if name not in hdus:
        raise BrokenSource(
            "a declared extension is missing", column=name, hint=f"the file has: {', '.join(h.name for h in hdus)}"
        )
    data = hdus[name].data
    if rows is not None and len(data) <= rows.max():
        raise BrokenSource("not one row per target", column=name, rows=len(data))
    values = np.asarray(data if rows is None else data[rows])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _column(files: Files, names: Sequence[str], column: str) -> Array:
    """One value per target: of the coadd's own tables in their order, of a companion by TARGETID (NaN or "" where absent)."""
    role = names[0].partition("/")[0] if names else ""
    if role not in files.form.companions:
        return np.atleast_1d(read(files, names, column))
    targets = np.atleast_1d(read(files, (f"FIBERMAP:{TARGET}",), TARGET))
    return read_rows(files, names[0], column, TARGET, targets)


def _object_ids(files: Files) -> list[str]:
    names = identity.id_sources(files.form)
    return identity.object_ids(files.form, {name: np.atleast_1d(read(files, (name,), name)) for name in names})

"""Spectra of some targets to a DESI coadd of three cameras, with redrock and the catalog beside it: extensions in odd order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.simulate.objects import Objects

Values = npt.NDArray[Any]
DIAGONALS = 11
STEP = 0.8
"""Angstrom."""


def cameras(length: int) -> dict[str, Values]:
    """Pixels of each camera on the common grid; neighbours share none."""
    return dict(zip("BRZ", np.array_split(np.arange(length), 3), strict=True))


def write_coadd(folder: Path, objects: Objects) -> list[Path]:
    """One coadd of all targets, a redrock file and a catalog in another order. Widths are those of kernels of three pixels."""
    path = folder / "coadd-main-dark-10000.fits"
    arrays = {name: np.array(values) for name, values in objects.members.items()}
    hdus: list[Any] = []
    for camera, here in reversed(cameras(arrays["flux"].shape[1]).items()):
        resolution = np.zeros((len(objects), DIAGONALS, len(here)), "f4")
        side = arrays["lsf_sigma"][:, here].astype("f8") ** 2 / 2
        resolution[:, DIAGONALS // 2 - 1], resolution[:, DIAGONALS // 2 + 1] = side, side
        resolution[:, DIAGONALS // 2] = 1 - 2 * side
        hdus += [
            fits.ImageHDU(resolution, name=f"{camera}_RESOLUTION"),
            fits.CompImageHDU(np.where(arrays["mask"][:, here], 0, 4).astype("i4"), name=f"{camera}_MASK"),
            fits.ImageHDU(arrays["flux"][:, here], name=f"{camera}_FLUX"),
            fits.ImageHDU(arrays["ivar"][:, here], name=f"{camera}_IVAR"),
            fits.ImageHDU(3600 + STEP * here, name=f"{camera}_WAVELENGTH"),
        ]
    ids = np.array([int(one) for one in objects.object_ids])
    fibermap = {"TARGETID": ids, "TARGET_RA": objects.ra, "TARGET_DEC": objects.dec, **_columns(objects, "FIBERMAP:")}
    table = fits.BinTableHDU(Table(fibermap), name="FIBERMAP")
    primary = fits.PrimaryHDU(header=fits.Header({"SURVEY": "main", "PROGRAM": "dark"}))
    fits.HDUList([primary, *hdus, table]).writeto(path)
    _write_reversed(
        path.with_name(path.name.replace("coadd", "redrock")),
        "REDSHIFTS",
        {"TARGETID": ids, **_columns(objects, "redrock/REDSHIFTS:")},
    )
    program = {"SURVEY": np.full(len(ids), b"main", "S7"), "PROGRAM": np.full(len(ids), b"dark", "S6")}
    _write_reversed(
        folder / "zall-pix-iron.fits", "ZCATALOG", {"TARGETID": ids, **program, **_columns(objects, "zcatalog/ZCATALOG:")}
    )
    return [path]


def _write_reversed(path: Path, name: str, columns: dict[str, Values]) -> None:
    table = Table({column: values[::-1] for column, values in columns.items()})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table, name=name)]).writeto(path)


def _columns(objects: Objects, prefix: str) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for field in objects.survey.columns:
        address = field.source_name("coadd") or ""
        if address.startswith(prefix):
            marker = next(iter(field.sentinels), "" if field.dtype == "string" else np.nan)
            values = [marker if value is None else value for value in objects.columns[field.name]]
            kind = "S12" if field.dtype == "string" else field.numpy_dtype
            found[address.removeprefix(prefix)] = np.array(values).astype(kind)
    return found

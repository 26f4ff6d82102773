"""Spectra of some targets to a DESI coadd of three cameras, with redrock beside it: extensions in odd order."""

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
    """One coadd of all targets and a redrock file in another order. Widths are those of kernels of three pixels."""
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
    fits.HDUList([fits.PrimaryHDU(), *hdus, table]).writeto(path)
    fit = {name: values[::-1] for name, values in {"TARGETID": ids, **_columns(objects, "redrock/REDSHIFTS:")}.items()}
    redrock = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table(fit), name="REDSHIFTS")])
    redrock.writeto(path.with_name(path.name.replace("coadd", "redrock")))
    return [path]


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

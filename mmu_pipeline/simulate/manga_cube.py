"""Galaxies to MaNGA cubes: gzipped FITS with an extension per quantity, spaxels of the corners without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from mmu_pipeline.readers.manga_cube import FRAME
from mmu_pipeline.simulate.objects import Objects

SIZE = 6
"""Spaxels on a side; real cubes have 32 to 80."""
NO_COVERAGE = 1 << 10 | 1


def spaxels(count: int) -> npt.NDArray[Any]:
    """Row and column, in the cube, of some spaxels with data: shape (2, count)."""
    return np.array(np.unravel_index(np.arange(count) * 3 + 1, (SIZE, SIZE)))


def write_cubes(folder: Path, objects: Objects) -> list[Path]:
    """A cube for each galaxy."""
    first = (FRAME - SIZE) // 2
    within = (slice(first, first + SIZE),) * 2
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        row, column = spaxels(len(arrays["x"]))
        cubes = {}
        for name, member in (("FLUX", "flux"), ("IVAR", "ivar"), ("MASK", "mask"), ("LSFPOST", "lsf_sigma")):
            empty = NO_COVERAGE if member == "mask" else 0
            values = np.where(arrays[member], 0, NO_COVERAGE).astype("i4") if member == "mask" else arrays[member]
            cubes[name] = np.full((values.shape[1], SIZE, SIZE), empty, values.dtype)
            cubes[name][:, row, column] = values.T
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(cube, name=name) for name, cube in cubes.items())]
        hdus.append(fits.ImageHDU(arrays["wavelength"].astype("f8"), name="WAVE"))
        for plane, band in enumerate("GRIZ"):
            hdus += [fits.ImageHDU(arrays[member][plane][within], name=f"{band}{kind}")
                     for member, kind in (("image", "IMG"), ("psf", "PSF"))]  # fmt: skip
        hdus[1].header.update({"PLATEIFU": object_id, "IFURA": float(objects.ra[at]), "IFUDEC": float(objects.dec[at])})
        paths.append(folder / f"manga-{object_id}-LOGCUBE.fits.gz")
        fits.HDUList(hdus).writeto(paths[-1])
    return paths

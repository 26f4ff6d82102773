"""Objects to bricks of the Legacy Surveys: a small brick of coadds around each, tile compressed, and its Tractor catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from mmu_pipeline.simulate.objects import Objects

SIZE, STAMP, SCALE = 176, 160, 0.262 / 3600
BEGIN = 7
"""First row and column of an object's stamp in its brick."""
BAD = 1 << 1


def write_bricks(folder: Path, objects: Objects) -> list[Path]:
    """A brick for each object, wider than its stamp; compression without loss, unlike the published files."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        name, number = object_id.split("-")
        centre = BEGIN + STAMP / 2 - 0.5
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [objects.ra[at], objects.dec[at]]
        wcs.wcs.crpix, wcs.wcs.cd = [centre + 1, centre + 1], [[-SCALE, 0], [0, SCALE]]
        within = (slice(BEGIN, BEGIN + STAMP),) * 2
        layers = {}
        for plane, band in enumerate("griz"):
            for kind, member in (("image", "image"), ("invvar", "image_ivar")):
                layers[f"{kind}-{band}"] = np.full((SIZE, SIZE), 7, "f4")
                layers[f"{kind}-{band}"][within] = objects.members[member][at][plane]
        layers["maskbits"] = np.zeros((SIZE, SIZE), "i4")
        layers["maskbits"][within] = np.where(objects.members["image_mask"][at], 0, BAD)
        coadds = folder / "coadd" / name[:3] / name
        coadds.mkdir(parents=True)
        for kind, data in layers.items():
            hdu = fits.CompImageHDU(data, wcs.to_header(), compression_type="GZIP_1", quantize_level=0)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(coadds / f"legacysurvey-{name}-{kind}.fits.fz")
        paths.append(folder / "tractor" / name[:3] / f"tractor-{name}.fits")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        _catalog(objects, at, name, int(number)).write(paths[-1])
    return paths


def _catalog(objects: Objects, at: int, name: str, number: int) -> Table:
    row = {"BRICKNAME": [name], "OBJID": [number], "RA": [objects.ra[at]], "DEC": [objects.dec[at]]}
    table = Table(row)
    for field in objects.survey.columns:
        source = (field.source_name("bricks") or "").upper()
        if source and source not in row:
            value = objects.columns[field.name][at]
            marker = next(iter(field.sentinels), np.nan)
            table[source] = np.array([marker if value is None else value], None if field.dtype == "string" else field.numpy_dtype)
    return table

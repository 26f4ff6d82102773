"""Stamps cut from a real brick of the Legacy Surveys, and from a small one with every trap, against astropy's own cut-outs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import brick

SURVEY = load_surveys()["legacysurvey"]
MEMBERS = [field for field in SURVEY.members if field.is_carried("bricks")]


def write_catalog(path: Path, name: str, ra: list[float], dec: list[float]) -> Path:
    table = Table()
    for field in SURVEY.columns:
        if field.source_names("bricks"):
            table[field.name.upper()] = ["x"] * len(ra) if field.dtype == "string" else np.ones(len(ra), field.dtype)
    table["BRICKNAME"], table["OBJID"] = [name] * len(ra), np.arange(len(ra), dtype="i4")
    table["TYPE"] = ["REX", "DEV", "PSF", "SER", "EXP", "DUP"][: len(ra)]
    table["RA"], table["DEC"] = ra, dec
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write(path)
    return path


def test_stamps_of_a_real_brick_are_those_of_astropy(real_data: Path, tmp_path: Path) -> None:
    folder, name = real_data / "raw/legacysurvey/brick", "0959p805"
    for path in folder.glob("*.fz"):
        os.symlink(path, tmp_path / path.name)
    with fits.open(folder / f"legacysurvey-{name}-image-g.fits.fz") as hdus:
        wcs, whole = WCS(hdus[1].header), hdus[1].data
    with fits.open(folder / f"legacysurvey-{name}-invvar-g.fits.fz") as hdus:
        weights = hdus[1].data
    seen = np.argwhere(weights > 0)
    picked = seen[[len(seen) // 9, len(seen) // 2, len(seen) * 8 // 9]] + [[0.3, -0.2], [0.45, 0.1], [-0.4, 0.25]]
    y, x = np.concatenate([picked, [[20.2, 3598.7]]]).T
    ra, dec = wcs.all_pix2world(x, y, 0)
    catalog = write_catalog(tmp_path / f"tractor-{name}.fits", name, ra.tolist(), dec.tolist())
    table = brick.read_objects(SURVEY, "bricks", catalog).table
    assert table["object_id"].to_pylist() == [f"{name}-{row}" for row in range(4)]
    assert table["type"].to_pylist() == ["REX", "DEV", "PSF", "SER"]
    rows = np.array([2, 0, 3, 1])
    arrays = brick.read_arrays(SURVEY, "bricks", catalog, rows, [f"{name}-{row}" for row in rows], MEMBERS)
    for at, row in enumerate(rows):
        for plane, expected in ((arrays["image"][at][0], whole), (arrays["image_ivar"][at][0], weights)):
            start = [int(np.floor(value - 79.5 + 0.5)) for value in (y[row], x[row])]
            assert all(abs(value - begin - 79.5) <= 0.5 for value, begin in zip((y[row], x[row]), start, strict=True))
            centre = (start[1] + 79.5, start[0] + 79.5)
            cut = Cutout2D(expected, centre, 160, mode="partial", fill_value=0.0).data
            np.testing.assert_array_equal(plane, cut)
            assert row == 3 or np.count_nonzero(plane) > 0
        assert (arrays["image"][at][1:3] == 0).all()
    assert not arrays["image_mask"][2][:, 83:].any()


SIZE, SCALE = 400, 0.262 / 3600


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Catalog of a brick of 400 x 400 pixels, in the archive's folders, whose pixels hold their own numbers."""
    name = "0001m002"
    header = WCS(naxis=2)
    header.wcs.ctype, header.wcs.crval, header.wcs.crpix = ["RA---TAN", "DEC--TAN"], [0.125, -0.25], [200.5, 200.5]
    header.wcs.cd = [[-SCALE, 0], [0, SCALE]]
    folder = tmp_path / "coadd/000" / name
    folder.mkdir(parents=True)
    numbers = np.arange(SIZE * SIZE, dtype="f4").reshape(SIZE, SIZE)
    bits = np.zeros((SIZE, SIZE), "i4")
    bits[200, 200:204] = [1 << 12, 1 << 14, 1 << 0, 1 << 1]
    layers = {f"image-{band}": numbers + plane for plane, band in enumerate("griz")}
    layers |= {f"invvar-{band}": np.full((SIZE, SIZE), 4.0, "f4") for band in "griz"} | {"maskbits": bits}
    for kind, data in layers.items():
        hdu = fits.CompImageHDU(data, header.to_header(), compression_type="GZIP_1")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / f"legacysurvey-{name}-{kind}.fits.fz")
    ra, dec = header.all_pix2world([200.1, 100.2, 5.2], [200.3, 150.4, 390.0], 0)
    return write_catalog(tmp_path / f"tractor/000/tractor-{name}.fits", name, ra.tolist(), dec.tolist())


def test_an_object_lies_in_the_middle_of_its_stamp(small: Path) -> None:
    arrays = brick.read_arrays(SURVEY, "bricks", small, np.array([0, 1]), ["0001m002-0", "0001m002-1"], MEMBERS)
    for row, (x, y) in enumerate([(200.1, 200.3), (100.2, 150.4)]):
        top, left = (int(np.floor(value - 79)) for value in (y, x))
        assert {79, 80} >= {round(x) - left, round(y) - top}
        numbers = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)[top : top + 160, left : left + 160]
        for band in range(4):
            np.testing.assert_array_equal(arrays["image"][row][band], numbers + band)
    bad = np.argwhere(~arrays["image_mask"][0]) + 121
    assert bad.tolist() == [[200, 201], [200, 203]]
    assert (arrays["image_ivar"][0][:, ~arrays["image_mask"][0]] == 0).all()


def test_a_stamp_over_the_edge_is_masked_there(small: Path) -> None:
    arrays = brick.read_arrays(SURVEY, "bricks", small, np.array([2]), ["0001m002-2"], MEMBERS)
    (mask,), (image,) = arrays["image_mask"], arrays["image"]
    assert mask[:89, 74:].all()
    assert not mask[89:].any()
    assert not mask[:, :74].any()
    assert (image[:, ~mask] == 0).all()


def test_what_is_missing_is_named(small: Path) -> None:
    with pytest.raises(BrokenSource, match="another object"):
        brick.read_arrays(SURVEY, "bricks", small, np.array([1]), ["0001m002-2"], MEMBERS)
    with pytest.raises(BrokenSource, match="does not carry"):
        brick.read_arrays(SURVEY, "bricks", small, np.array([1]), ["0001m002-1"], [SURVEY.field("rgb")])
    coadds = small.parent.parent.parent / "coadd/000/0001m002"
    whole = (coadds / "legacysurvey-0001m002-image-r.fits.fz").read_bytes()
    (coadds / "legacysurvey-0001m002-image-r.fits.fz").write_bytes(whole[:200])
    with pytest.raises(BrokenSource, match=r"coadd[\s\S]*image-r"):
        brick.read_arrays(SURVEY, "bricks", small, np.array([1]), ["0001m002-1"], MEMBERS)
    for path in coadds.glob("*image*"):
        path.unlink()
    with pytest.raises(BrokenSource, match="no coadd of the brick"):
        brick.read_arrays(SURVEY, "bricks", small, np.array([1]), ["0001m002-1"], MEMBERS)

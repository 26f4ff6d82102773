"""Chandra PHA, ARF and RMF: the real products of one detection against astropy and an unpacking of the matrix by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import chandra_pha

CHANDRA = load_surveys()["chandra"]
STEM = "acisf01575_001N001_r0085"
MEMBERS = [field for field in CHANDRA.members if field.source_names("pha")]


def everything(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    (row,) = chandra_pha.read_objects(CHANDRA, "pha", path).table.to_pylist()
    arrays = chandra_pha.read_arrays(CHANDRA, "pha", path, np.array([0]), [row["object_id"]], MEMBERS)
    return row, {name: values[0] for name, values in arrays.items()}


def test_the_real_detection(real_data: Path) -> None:
    folder = real_data / "raw/chandra/csc"
    row, arrays = everything(folder / f"{STEM}_pha3.fits.gz")
    with (
        fits.open(folder / f"{STEM}_pha3.fits.gz") as pha,
        fits.open(folder / f"{STEM}_arf3.fits.gz") as arf,
        fits.open(folder / f"{STEM}_rmf3.fits.gz") as rmf,
    ):
        source, background = pha[1], pha[4]
        assert (source.header["HDUCLAS2"], background.header["HDUCLAS2"]) == ("TOTAL", "BKG")
        assert row["object_id"] == "1575.1.0085"
        assert (row["ra"], row["dec"]) == (source.header["RA"], source.header["DEC"])
        assert (row["exposure"], row["mjd"]) == (source.header["EXPOSURE"], source.header["MJD_OBS"])
        np.testing.assert_array_equal(arrays["counts"], source.data["COUNTS"])
        assert arrays["counts"].sum() == source.header["TOTCTS"] == 855
        np.testing.assert_array_equal(arrays["background_counts"], background.data["COUNTS"])
        np.testing.assert_array_equal(arrays["energy_low"], rmf["EBOUNDS"].data["E_MIN"])
        np.testing.assert_array_equal(arrays["energy_high"], rmf["EBOUNDS"].data["E_MAX"])
        np.testing.assert_array_equal(arrays["photon_energy_low"], arf[1].data["ENERG_LO"])
        np.testing.assert_array_equal(arrays["effective_area"], arf[1].data["SPECRESP"])
        scale = (
            source.header["BACKSCAL"] / background.header["BACKSCAL"] * source.header["EXPOSURE"] / background.header["EXPOSURE"]
        )
        assert row["background_scale"] == pytest.approx(scale)
        width = (rmf["EBOUNDS"].data["E_MAX"] - rmf["EBOUNDS"].data["E_MIN"]).astype("f8")
        net = source.data["COUNTS"] - scale * background.data["COUNTS"]
        np.testing.assert_allclose(arrays["rate"], net / source.header["EXPOSURE"] / width, rtol=1e-6, atol=1e-12)
        band = (arrays["energy_low"] >= 0.5) & (arrays["energy_high"] <= 8)
        assert band.sum() == pytest.approx(514, abs=2)
        table = rmf["RSP_MATRIX"].data
        dense = np.zeros((900, 1024), "f4")
        for energy in range(900):
            values = list(table["MATRIX"][energy])
            for group in range(table["N_GRP"][energy]):
                for channel in range(table["N_CHAN"][energy][group]):
                    dense[energy, table["F_CHAN"][energy][group] - 1 + channel] = values.pop(0)
        np.testing.assert_array_equal(arrays["response"], dense)
        np.testing.assert_allclose(arrays["response"].sum(axis=1), 1, atol=0.02)
        assert (arrays["rate_err"] > 0).all()
        assert {array.dtype.str for array in arrays.values()} == {"<f4", "<i4"}


def test_products_may_lie_unpacked_and_need_their_responses(real_data: Path, tmp_path: Path) -> None:
    import gzip

    for product in ("pha3", "arf3", "rmf3"):
        packed = real_data / f"raw/chandra/csc/{STEM}_{product}.fits.gz"
        (tmp_path / f"{STEM}_{product}.fits").write_bytes(gzip.decompress(packed.read_bytes()))
    row, arrays = everything(tmp_path / f"{STEM}_pha3.fits")
    expected_row, expected = everything(real_data / f"raw/chandra/csc/{STEM}_pha3.fits.gz")
    assert row == expected_row
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    (tmp_path / f"{STEM}_rmf3.fits").unlink()
    assert chandra_pha.read_objects(CHANDRA, "pha", tmp_path / f"{STEM}_pha3.fits").table["object_id"][0].as_py() == "1575.1.0085"
    with pytest.raises(BrokenSource, match="rmf is not there"):
        everything(tmp_path / f"{STEM}_pha3.fits")


def without_background(hdus: Any) -> None:
    del hdus[4]


def without_counts(hdus: Any) -> None:
    hdus[1].columns.change_name("COUNTS", "NUMBER")
    hdus[1].header["TTYPE3"] = "NUMBER"


def without_exposure(hdus: Any) -> None:
    del hdus[1].header["EXPOSURE"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (without_background, ["spectrum of the background is missing", "column: SPECTRUM"]),
        (without_counts, ["declared column is missing", "column: counts", "COUNTS"]),
        (without_exposure, ["required header key is missing", "EXPOSURE"]),
    ],
)
def test_what_is_not_as_declared_is_named(change: Any, names: list[str], real_data: Path, tmp_path: Path) -> None:
    for product in ("arf3", "rmf3"):
        shutil.copy(real_data / f"raw/chandra/csc/{STEM}_{product}.fits.gz", tmp_path)
    path = tmp_path / f"{STEM}_pha3.fits.gz"
    with fits.open(real_data / f"raw/chandra/csc/{STEM}_pha3.fits.gz") as hdus:
        copies = fits.HDUList([hdu.copy() for hdu in hdus])
    change(copies)
    copies.writeto(path)
    with pytest.raises(BrokenSource) as caught:
        everything(path)
    for name in [str(path), *names]:
        assert name in str(caught.value)

"""FITS spectra: real files of SDSS, LAMOST, GALAH and APOGEE against astropy itself; generated ones where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, fits_spectra
from mmu_pipeline.readers.ragged import needed_members

SURVEYS = load_surveys()


def one(survey: Survey, form: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Row and arrays of the one object of a file."""
    (row,) = fits_spectra.read_objects(survey, form, path).table.to_pylist()
    members = [field for field in survey.members if field.source_names(form)]
    arrays = fits_spectra.read_arrays(survey, form, path, np.array([0, 0]), [row["object_id"]] * 2, members)
    for field in members:
        assert arrays[field.name][1] is arrays[field.name][0]
        assert arrays[field.name][0].dtype == field.numpy_dtype
    return row, {name: values[0] for name, values in arrays.items()}


def agree(values: Any, ivar: Any, mask: Any, flux: Any, weight: Any, bad: Any) -> None:
    """Flux, inverse variance and mask against those of the source, where `bad` says what the source means by bad."""
    good = ~np.asarray(bad, bool) & np.isfinite(flux) & np.isfinite(weight) & (np.asarray(weight) > 0)
    np.testing.assert_array_equal(values, np.where(np.isfinite(flux), flux, 0).astype("f4"))
    np.testing.assert_allclose(ivar, np.where(good, weight, 0), rtol=1e-6)
    if mask is not None:
        np.testing.assert_array_equal(mask, good)


def test_every_real_sdss_file(real_data: Path) -> None:
    paths = sorted((real_data / "raw/sdss").glob("spec-*.fits"))
    assert len(paths) == 9
    for path in paths:
        row, arrays = one(SURVEYS["sdss"], "spec", path)
        with fits.open(path) as hdus:
            coadd, table, header = hdus[1].data, hdus[2].data[0], hdus[0].header
            assert row["object_id"] == str(table["SPECOBJID"]).strip()
            assert (row["ra"], row["dec"]) == (table["PLUG_RA"], table["PLUG_DEC"])
            assert (row["plate"], row["mjd"], row["fiber"]) == (table["PLATE"], table["MJD"], table["FIBERID"])
            assert row["z"] == table["Z"]
            assert row["z_err"] == (table["Z_ERR"] if table["Z_ERR"] > 0 else None)
            assert row["zwarning"] == table["ZWARNING"]
            assert row["spectral_class"] == table["CLASS"].strip()
            assert row["spectro_flux"] == table["SPECTROFLUX"].tolist()
            pixel = np.rint((coadd["loglam"].astype("f8") - header["COEFF0"]) / header["COEFF1"])
            assert (np.diff(pixel) == 1).all()
            np.testing.assert_allclose(arrays["wavelength"], 10 ** (header["COEFF0"] + header["COEFF1"] * pixel), rtol=6e-8)
            np.testing.assert_array_equal(arrays["lsf_sigma"], coadd["wdisp"])
            agree(arrays["flux"], arrays["ivar"], arrays["mask"], coadd["flux"], coadd["ivar"], coadd["and_mask"] != 0)


def test_every_real_lamost_file(real_data: Path) -> None:
    paths = sorted((real_data / "raw/lamost").glob("spec-*.fits*"))
    assert len(paths) == 62
    lengths = set()
    for path in paths:
        row, arrays = one(SURVEYS["lamost"], "fits", path)
        with fits.open(path) as hdus:
            header, image = hdus[0].header, hdus[0].data
            assert row["object_id"] == str(header["OBSID"])
            assert (row["ra"], row["dec"]) == (header["RA"], header["DEC"])
            assert row["z"] == (None if header["Z"] == -9999 else header["Z"])
            assert row["snrg"] == (None if header["SNRG"] == -9999 else np.float32(header["SNRG"]))
            assert row["spectral_class"] == header["CLASS"].strip()
            np.testing.assert_array_equal(arrays["wavelength"], image[2])
            grid = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(image.shape[1]))
            np.testing.assert_allclose(arrays["wavelength"], grid, rtol=1e-6)
            agree(arrays["flux"], arrays["ivar"], arrays["mask"], image[0], image[1], image[3] != 0)
            lengths.add(image.shape[1])
    assert len(lengths) > 1


def test_lamost_files_of_later_releases_hold_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    flux, ivar = rng.normal(100, 10, 3909).astype("f4"), rng.uniform(0, 1, 3909).astype("f4")
    table = {"FLUX": flux, "IVAR": ivar, "WAVELENGTH": 10 ** (3.5682 + 1e-4 * np.arange(3909)), "ANDMASK": ivar < 0.1}
    columns = [fits.Column(name, f"3909{'J' if name == 'ANDMASK' else 'E'}", array=v[None]) for name, v in table.items()]
    primary = fits.PrimaryHDU()
    keys = {
        "OBSID": 353301001,
        "RA": 12.25,
        "DEC": -1.5,
        "Z": -9999.0,
        "Z_ERR": -9999.0,
        "CLASS": "STAR",
        "SUBCLASS": "G3",
        "MJD": 57276,
    }
    primary.header.update(keys | {f"SNR{band}": 1.5 for band in "URGIZ"})
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="COADD")]).writeto(tmp_path / "353301001.fits")
    row, arrays = one(SURVEYS["lamost"], "fits", tmp_path / "353301001.fits")
    assert (row["object_id"], row["ra"], row["z"], row["z_err"], row["mjd"]) == ("353301001", 12.25, None, None, 57276)
    np.testing.assert_array_equal(arrays["wavelength"], table["WAVELENGTH"].astype("f4"))
    agree(arrays["flux"], arrays["ivar"], arrays["mask"], flux, ivar, ivar < 0.1)


@pytest.fixture
def galah(real_data: Path, tmp_path: Path) -> Path:
    """The real spectra beside a catalog that lists all but one of them."""
    folder = tmp_path / "spectra"
    folder.mkdir()
    source = real_data / "raw/galah/mnras-cotar-data"
    for path in source.glob("*[1-4].fits"):
        (folder / path.name).symlink_to(path)
    survey = SURVEYS["galah"]
    ids = sorted({int(path.name[:15]) for path in folder.iterdir()})[:-1]
    carried = [field for field in survey.columns if (name := field.source_name("fits")) and name.startswith("catalog")]
    columns = {
        field.source_name("fits").rpartition(":")[2]: np.arange(len(ids)) + 0.5 * (field.dtype == "float32") for field in carried
    }
    table = Table({"sobject_id": ids, "ra_dr2": np.arange(len(ids)) + 10.25, "dec_dr2": np.arange(len(ids)) - 20.5, **columns})
    table[::-1].write(tmp_path / "GALAH_DR3_main_allstar_v2.fits")
    return folder


def test_every_real_galah_star(galah: Path) -> None:
    survey = SURVEYS["galah"]
    paths = sorted(galah.glob("*1.fits"))
    assert len(paths) == 6
    unlisted = fits_spectra.read_objects(survey, "fits", paths[-1])
    assert len(unlisted.table) == 0
    assert unlisted.skipped == (Skipped(0, paths[-1].name[:15], "not in the catalog of its survey"),)
    for number, path in enumerate(paths[:-1]):
        row, arrays = one(survey, "fits", path)
        assert (row["object_id"], row["ra"], row["dec"]) == (path.name[:15], number + 10.25, number - 20.5)
        assert (row["teff"], row["flag_sp"], row["age"]) == (number + 0.5, number, None)
        expected: dict[str, list[Any]] = {name: [] for name in arrays}
        for arm in "1234":
            with fits.open(path.with_name(f"{path.name[:15]}{arm}.fits")) as hdus:
                if arm == "1":
                    assert row["mjd"] == hdus[0].header["UTMJD"]
                for name, hdu in (("", 0), ("norm_", 4)):
                    header, values = hdus[hdu].header, hdus[hdu].data.astype("f8")
                    assert header["CRPIX1"] == 1
                    expected[f"{name}wavelength"].append(header["CRVAL1"] + header["CDELT1"] * np.arange(4096))
                    expected[f"{name}flux"].append(values)
                    with np.errstate(divide="ignore"):
                        expected[f"{name}ivar"].append((values * hdus[1].data.astype("f8")) ** -2.0)
        joined = {name: np.concatenate(parts) for name, parts in expected.items()}
        for name in ("wavelength", "norm_wavelength"):
            np.testing.assert_array_equal(arrays[name], joined[name])
        for name in ("", "norm_"):
            agree(arrays[f"{name}flux"], arrays[f"{name}ivar"], None, joined[f"{name}flux"], joined[f"{name}ivar"], False)


def test_a_galah_star_without_an_arm_is_refused(galah: Path) -> None:
    path = min(galah.glob("*1.fits"))
    path.with_name(path.name.replace("1.fits", "3.fits")).unlink()
    survey = SURVEYS["galah"]
    with pytest.raises(BrokenSource, match="red is not there") as caught:
        fits_spectra.read_arrays(survey, "fits", path, np.array([0]), [path.name[:15]], [survey.field("flux")])
    assert caught.value.where["file"] == path


def visit_survey() -> Survey:
    """APOGEE visits: three detectors in the rows of each image, wavelengths as an image of their own."""
    form = {"reader": "fits_spectra", "files": ["apVisit-*.fits"], "object_id": "0@OBJID", "ra": "0@RA", "dec": "0@DEC"}
    shape = {"shape": [3, 4096]}
    fields = [
        {"name": "wavelength", "dtype": "float64", "from": "4", **shape},
        {"name": "flux", "dtype": "float32", "from": "1", "ivar": "ivar", "mask": "mask", **shape},
        {"name": "ivar", "dtype": "float64", "from": "2", "power": {"v": -2}, **shape},
        {"name": "mask", "dtype": "bool", "from": "3", "true_means": "bad", **shape},
        {"name": "middle", "dtype": "float64", "from": "4[1]", "shape": ["pixel"]},
        {"name": "velocity", "dtype": "float64", "from": "0@VHELIO"},
        {"name": "telescope", "dtype": "string", "from": "11:TELESCOPE"},
    ]
    about = dict.fromkeys(("title", "release", "summary", "licence", "citation"), "t")
    return Survey.model_validate({"name": "visits", "modality": "spectrum", "forms": {"v": form}, "fields": fields, **about})


def test_every_real_apogee_visit(real_data: Path) -> None:
    paths = sorted((real_data / "raw/apogee/doppler").glob("apVisit-*.fits"))
    assert len(paths) == 2
    for path in paths:
        row, arrays = one(visit_survey(), "v", path)
        with fits.open(path) as hdus:
            header = hdus[0].header
            assert (row["object_id"], row["ra"], row["dec"]) == (header["OBJID"], header["RA"], header["DEC"])
            assert (row["velocity"], row["telescope"]) == (header["VHELIO"], "apo25m")
            np.testing.assert_array_equal(arrays["wavelength"], hdus[4].data)
            np.testing.assert_array_equal(arrays["middle"], hdus[4].data[1])
            with np.errstate(divide="ignore"):
                weight = hdus[2].data.astype("f8") ** -2.0
            agree(arrays["flux"], arrays["ivar"], arrays["mask"], hdus[1].data, weight, hdus[3].data != 0)


@pytest.mark.parametrize("visits", [1, 3])
def test_an_apogee_star_is_its_combined_spectrum(tmp_path: Path, visits: int) -> None:
    rng = np.random.default_rng(visits)
    shape = (2 if visits == 1 else visits + 2, 8575)
    flux, error, bits = rng.normal(100, 5, shape), rng.uniform(1, 2, shape), rng.integers(0, 3, shape, dtype="i4") // 2
    error[0, 7], flux[0, 9] = 0, np.nan
    primary = fits.PrimaryHDU()
    keys = {"OBJID": "2M00000002+7417074", "RA": 0.000103, "DEC": 74.285408, "VHELIO": -55.25}
    primary.header.update(keys | {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1})
    path = tmp_path / "apStar-dr17-2M00000002+7417074.fits"
    fits.HDUList([primary, *(fits.ImageHDU(values) for values in (flux, error, bits))]).writeto(path)
    row, arrays = one(SURVEYS["apogee"], "apstar", path)
    assert (row["object_id"], row["dec"], row["radial_velocity"], row["teff"]) == ("2M00000002+7417074", 74.285408, -55.25, None)
    np.testing.assert_array_equal(arrays["wavelength"], 10 ** (4.179 + 6e-6 * np.arange(8575)))
    with np.errstate(divide="ignore"):
        agree(arrays["flux"], arrays["ivar"], arrays["mask"], flux[0], error[0] ** -2.0, bits[0] != 0)


def vipers_file(path: Path) -> Path:
    rng = np.random.default_rng(4)
    columns = {"WAVES": 5500 + 7.1 * np.arange(557), "FLUXES": rng.normal(3e-18, 1e-18, 557),
               "NOISE": rng.uniform(1e-18, 2e-18, 557), "MASK": rng.integers(0, 4, 557) // 3}  # fmt: skip
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "J" if name == "MASK" else "E", array=v) for name, v in columns.items()]
    )
    table.header.update({"ID": 411161765, "RA": 331.5, "DEC": 1.25, "REDSHIFT": 0.7014, "REDFLAG": 0.7, "EXPTIME": 540.0,
                         "NORM": -99.0,
                         "MAG": 21.75})  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def test_a_vipers_galaxy_has_its_inverse_variance_right(tmp_path: Path) -> None:
    path = vipers_file(tmp_path / "VIPERS_411161765.fits")
    row, arrays = one(SURVEYS["vipers"], "fits", path)
    assert (row["object_id"], row["ra"], row["redshift"], row["norm"], row["mag"]) == ("411161765", 331.5, 0.7014, None, 21.75)
    with fits.open(path) as hdus:
        data = hdus[1].data
        np.testing.assert_allclose(arrays["flux"], data["FLUXES"] * 1e17, rtol=1e-6)
        weight = (data["NOISE"].astype("f8") * 1e17) ** -2.0
        np.testing.assert_allclose(arrays["ivar"], np.where(data["MASK"] > 0, 0, weight), rtol=1e-6)
        np.testing.assert_array_equal(arrays["mask"], data["MASK"] == 0)
        assert 10 < np.median(arrays["ivar"]) < 1000


def rewrite(path: Path, change: Any) -> None:
    with fits.open(path) as hdus:
        copies = fits.HDUList([hdu.copy() for hdu in hdus])
    change(copies)
    copies.writeto(path, overwrite=True)


def without(column: str) -> Any:
    def change(hdus: Any) -> None:
        name = next(number for number in range(1, 5) if hdus[1].header[f"TTYPE{number}"] == column)
        hdus[1].columns.change_name(column, f"{column}_OLD")
        hdus[1].header[f"TTYPE{name}"] = f"{column}_OLD"

    return change


def text_instead(hdus: Any) -> None:
    table = Table(hdus[1].data)
    table["NOISE"] = ["much"] * len(table)
    header = hdus[1].header
    hdus[1] = fits.BinTableHDU(table)
    hdus[1].header.update({key: header[key] for key in ("ID", "RA", "DEC", "REDSHIFT", "REDFLAG", "EXPTIME", "NORM", "MAG")})


def key(name: str, value: Any) -> Any:
    return lambda hdus: hdus[1].header.__setitem__(name, value) if value is not None else hdus[1].header.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (without("FLUXES"), ["declared value is missing", "column: flux", "1:FLUXES", "WAVES"]),
        (without("NOISE"), ["declared value is missing", "column: ivar"]),
        (text_instead, ["not numbers", "column: ivar"]),
        (key("RA", None), ["declared value is missing", "column: ra"]),
        (key("REDSHIFT", "unknown"), ["not a number", "column: redshift", "unknown"]),
        (key("ID", None), ["declared value is missing", "1@ID"]),
    ],
)
def test_what_is_not_as_declared_is_named_with_file_and_column(tmp_path: Path, change: Any, names: list[str]) -> None:
    path = vipers_file(tmp_path / "VIPERS_411161765.fits")
    rewrite(path, change)
    with pytest.raises(BrokenSource) as caught:
        one(SURVEYS["vipers"], "fits", path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1000, 5760, 9000])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = vipers_file(tmp_path / "VIPERS_411161765.fits")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BrokenSource, match=r"VIPERS_411161765.fits"):
        one(SURVEYS["vipers"], "fits", path)


def test_another_id_or_row_is_refused(tmp_path: Path) -> None:
    survey, path = SURVEYS["vipers"], vipers_file(tmp_path / "VIPERS_411161765.fits")
    assert [field.name for field in needed_members(survey, "fits", [survey.field("ivar")])] == ["flux", "ivar", "mask"]
    with pytest.raises(BrokenSource, match="another object"):
        fits_spectra.read_arrays(survey, "fits", path, np.array([0]), ["17"], survey.members)
    with pytest.raises(BrokenSource, match="no such row"):
        fits_spectra.read_arrays(survey, "fits", path, np.array([1]), ["411161765"], survey.members)

"""Raw files of spectra made from known values: SDSS, GALAH, Chandra and Gaia read back without the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import chandra_pha, gaia_xp
from mmu_pipeline.stages.download import list_files
from tests.test_fits_spectra import agree, one

SURVEYS = load_surveys()


@pytest.mark.parametrize("object_id", ["    299489676975171584", np.int64(4037477977495252992)], ids=["text", "number"])
@pytest.mark.parametrize("start", [3.5797, 3.5529])
def test_sdss_spec(tmp_path: Path, object_id: Any, start: float) -> None:
    rng = np.random.default_rng(5)
    count = 3835
    coadd = Table({
        "flux": rng.normal(20, 3, count).astype("f4"), "loglam": (start + 1e-4 * np.arange(count)).astype("f4"),
        "ivar": np.where(rng.uniform(size=count) < 0.01, 0, 0.25).astype("f4"),
        "and_mask": np.where(rng.uniform(size=count) < 0.02, 2**24, 0).astype("i4"), "wdisp": np.full(count, 1.1, "f4"),
    })  # fmt: skip
    fluxes = [f"{name}{end}" for name in ("SPECTROFLUX", "SPECTROSYNFLUX") for end in ("", "_IVAR")]
    row = {
        "SPECOBJID": [object_id], "PLUG_RA": [146.71421], "PLUG_DEC": [-1.04], "CLASS": ["GALAXY"], "SUBCLASS": ["      "],
        **{name: np.array([value], "f4") for name, value in {"Z": 0.02, "Z_ERR": -6, "VDISP": 0, "VDISP_ERR": -1}.items()},
        **{name: np.array([value], "i4") for name, value in {"ZWARNING": 4, "PLATE": 266, "MJD": 51602, "FIBERID": 1}.items()},
        "SPECPRIMARY": np.array([1], "u1"), **{name: np.arange(5, dtype="f4")[None] for name in fluxes},
    }  # fmt: skip
    path = tmp_path / "spec-0266-51602-0001.fits"
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(coadd, name="COADD"), fits.BinTableHDU(Table(row), name="SPECOBJ")]
    fits.HDUList(hdus).writeto(path)
    found, arrays = one(SURVEYS["sdss"], "spec", path)
    assert (found["object_id"], found["ra"], found["dec"]) == (str(object_id).strip(), 146.71421, -1.04)
    assert (found["z_err"], found["vdisp_err"], found["zwarning"], found["subclass"]) == (None, None, 4, None)
    assert found["spec_primary"] is True
    assert found["spectro_syn_flux"] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(arrays["wavelength"], 10 ** (start + 1e-4 * np.arange(count)), rtol=6e-8)
    bad = np.asarray(coadd["and_mask"]) != 0
    agree(arrays["flux"], arrays["ivar"], arrays["mask"], np.asarray(coadd["flux"]), np.asarray(coadd["ivar"]), bad)


@pytest.mark.parametrize("reference", [1, 0, 3])
def test_galah_arms(tmp_path: Path, reference: int) -> None:
    """CRPIX1 counts from 1; 0 stands for 1. An error of 0, or NaN, gives no inverse variance."""
    survey, rng = SURVEYS["galah"], np.random.default_rng(6)
    expected: dict[str, list[Any]] = {"wavelength": [], "flux": [], "ivar": [], "norm_wavelength": []}
    (tmp_path / "spectra").mkdir()
    for arm, (start, step) in enumerate([(4713.99, 0.046), (5648.5, 0.0546), (6478.3, 0.0631), (7585.1, 0.0736)], start=1):
        flux, error = rng.normal(900, 30, 64).astype("f4"), np.full(64, 0.02, "f4")
        error[5], error[6] = 0, np.nan
        header = fits.Header(
            {"CRVAL1": start, "CDELT1": step, "CRPIX1": reference, "UTMJD": 56728.7486005514, "OBJECT": "140312004501116"}
        )
        norm = header.copy()
        norm["CRVAL1"] = start + 0.5
        images = [fits.PrimaryHDU(flux, header), *(fits.ImageHDU(values) for values in (error, flux, error))]
        fits.HDUList([*images, fits.ImageHDU(flux / 900, norm)]).writeto(tmp_path / f"spectra/140312004501116{arm}.fits")
        grid = start + step * (np.arange(64) + 1 - (reference or 1))
        with np.errstate(divide="ignore"):
            weight = (flux.astype("f8") * error) ** -2.0
        for name, values in (("wavelength", grid), ("flux", flux), ("ivar", weight), ("norm_wavelength", grid + 0.5)):
            expected[name].append(values)
    names = [
        field.source_name("fits").rpartition(":")[2] for field in survey.columns if "catalog" in (field.source_name("fits") or "")
    ]
    catalog = {
        name: np.array([np.nan, 1, 2], "f4") if not name.startswith("flag") else np.array([0, 1, 2], "i4") for name in names
    }
    ids = {"sobject_id": [140312004501117, 140312004501116, 7], "ra_dr2": [1.0, 233.5, 3.0], "dec_dr2": [0.0, -68.5, 0.0]}
    Table({**ids, **catalog}).write(tmp_path / "GALAH_DR3_main_allstar_v2.fits")
    row, arrays = one(survey, "fits", tmp_path / "spectra/1403120045011161.fits")
    assert (row["object_id"], row["ra"], row["dec"], row["teff"], row["flag_sp"]) == ("140312004501116", 233.5, -68.5, 1.0, 1)
    joined = {name: np.concatenate(parts) for name, parts in expected.items()}
    for name in ("wavelength", "norm_wavelength"):
        np.testing.assert_allclose(arrays[name], joined[name], rtol=1e-12)
    agree(arrays["flux"], arrays["ivar"], None, joined["flux"], joined["ivar"], False)
    assert (arrays["ivar"][[5, 6]] == 0).all()


def test_chandra_products(tmp_path: Path) -> None:
    """Responses in several groups of channels, and channels that count from 0."""
    stem, channels = tmp_path / "acisf00001_000N001_r0007", 1024
    spectra = []
    for kind, area, counts in (("TOTAL", 2e-6, [9, 4, 1, 0, 2, 3]), ("BKG", 8e-6, [4, 4, 0, 0, 0, 8])):
        hdu = fits.BinTableHDU(
            Table({"CHANNEL": np.arange(channels, dtype="i4"), "COUNTS": np.array([*counts, *[0] * (channels - 6)], "i4")}),
            name="SPECTRUM",
        )
        hdu.header.update({"HDUCLAS2": kind, "BACKSCAL": area, "AREASCAL": 1.0, "EXPOSURE": 1000.0, "OBS_ID": "1", "OBI_NUM": 0,
                           "REGIONID": "0007", "RA": 10.5, "DEC": 41.25, "MJD_OBS": 52187.5})  # fmt: skip
        spectra.append(hdu)
    fits.HDUList([fits.PrimaryHDU(), *spectra[::-1]]).writeto(f"{stem}_pha3.fits")
    energies = {"ENERG_LO": np.array([0.5, 1.0], "f4"), "ENERG_HI": np.array([1.0, 1.5], "f4")}
    arf = fits.BinTableHDU(Table({**energies, "SPECRESP": np.array([300, 400], "f4")}), name="SPECRESP")
    fits.HDUList([fits.PrimaryHDU(), arf]).writeto(f"{stem}_arf3.fits")

    def lists(kind: str, *rows: list[float]) -> Any:
        values = np.empty(len(rows), object)
        values[:] = [np.array(row, kind) for row in rows]
        return values

    matrix = fits.BinTableHDU.from_columns([
        fits.Column("ENERG_LO", "E", array=energies["ENERG_LO"]), fits.Column("ENERG_HI", "E", array=energies["ENERG_HI"]),
        fits.Column("N_GRP", "I", array=[1, 2]), fits.Column("F_CHAN", "PI", array=lists("i2", [1], [0, 4])),
        fits.Column("N_CHAN", "PI", array=lists("i2", [3], [2, 2])),
        fits.Column("MATRIX", "PE", array=lists("f4", [0.2, 0.5, 0.3], [0.1, 0.2, 0.3, 0.4])),
    ], name="RSP_MATRIX")  # fmt: skip
    matrix.header["TLMIN4"] = 0
    low = 0.25 * np.arange(channels, dtype="f4")
    bounds = fits.BinTableHDU(
        Table({"CHANNEL": np.arange(channels, dtype="i4"), "E_MIN": low, "E_MAX": low + np.float32(0.25)}), name="EBOUNDS"
    )
    fits.HDUList([fits.PrimaryHDU(), matrix, bounds]).writeto(f"{stem}_rmf3.fits")
    survey, path = SURVEYS["chandra"], Path(f"{stem}_pha3.fits")
    (row,) = chandra_pha.read_objects(survey, "pha", path).table.to_pylist()
    assert (row["object_id"], row["ra"], row["background_scale"], row["exposure"]) == ("1.0.0007", 10.5, 0.25, 1000.0)
    members = [field for field in survey.members if field.source_names("pha")]
    arrays = {
        name: values[0]
        for name, values in chandra_pha.read_arrays(survey, "pha", path, np.array([0]), ["1.0.0007"], members).items()
    }
    assert arrays["counts"][:7].tolist() == [9, 4, 1, 0, 2, 3, 0]
    np.testing.assert_allclose(arrays["rate"][:6], np.array([8, 3, 1, 0, 2, 1]) / 250, rtol=1e-6)
    expected = np.hypot(1 + np.sqrt(9.75), 0.25 * (1 + np.sqrt(4.75))) / 250
    assert arrays["rate_err"][0] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(arrays["response"][:, :6], [[0, 0.2, 0.5, 0.3, 0, 0], [0.1, 0.2, 0, 0, 0.3, 0.4]], rtol=1e-6)
    assert arrays["effective_area"].tolist() == [300, 400]
    with pytest.raises(BrokenSource, match="another object"):
        chandra_pha.read_arrays(survey, "pha", path, np.array([0]), ["1.0.0008"], members)


def test_gaia_bulk_files(tmp_path: Path) -> None:
    survey, rng = SURVEYS["gaia"], np.random.default_rng(7)
    ids = [4295806720, 38655544960, 34361129088]
    spectra = tmp_path / "Spectroscopy/xp_continuous_mean_spectrum/XpContinuousMeanSpectrum_000000-003111.csv"
    sources = tmp_path / "gaia_source/GaiaSource_000000-003111.csv"
    for path in (spectra, sources):
        path.parent.mkdir(parents=True)
    names = [f"{band}_{kind}" for band in ("bp", "rp") for kind in ("coefficients", "coefficient_errors")]
    values = {name: rng.normal(size=(3, 55)) for name in names}
    header = ["source_id", *names, "bp_n_relevant_bases", "rp_n_relevant_bases", "bp_standard_deviation", "rp_standard_deviation"]

    def quoted(at: int, *chosen: str) -> list[str]:
        return [f'"{json.dumps(values[name][at].tolist())}"' for name in chosen]

    lines = [[str(object_id), *quoted(at, *names), "3", "null", "1.5", "2.5"] for at, object_id in enumerate(ids)]
    lines[1] = [str(ids[1]), "null", "null", *quoted(1, *names[2:]), "null", "4", "null", "2.5"]
    spectra.write_text("\n".join(["# %ECSV 1.0", "# ---", ",".join(header), *map(",".join, lines)]) + "\n")
    carried = [name for field in survey.columns if (name := field.source_name("xp")) and name not in header]
    rows = []
    for at, object_id in enumerate(reversed(ids)):
        known = dict.fromkeys(carried, "1.5") | {"astrometric_params_solved": "31"} | ({"parallax": "null"} if at else {})
        rows.append([str(object_id), "45.5", "0.25", *known.values()])
    sources.write_text("\n".join(["# %ECSV 1.0", ",".join(["source_id", "ra", "dec", *carried]), *map(",".join, rows)]) + "\n")
    table = gaia_xp.read_objects(survey, "xp", spectra).table.to_pylist()
    assert [row["object_id"] for row in table] == [str(object_id) for object_id in ids]
    assert [row["parallax"] for row in table] == [None, None, 1.5]
    assert [row["rp_n_relevant_bases"] for row in table] == [None, 4, None]
    arrays = gaia_xp.read_arrays(survey, "xp", spectra, np.arange(3), [row["object_id"] for row in table],
                                 [survey.field(name) for name in ("coeff", "coeff_error", "coeff_known")])  # fmt: skip
    np.testing.assert_array_equal(arrays["coeff"][0], np.concatenate([values[name][0] for name in names[::2]]).astype("f4"))
    np.testing.assert_array_equal(
        arrays["coeff_error"][2], np.concatenate([values[name][2] for name in names[1::2]]).astype("f4")
    )
    assert arrays["coeff_known"][1].tolist() == [False] * 55 + [True] * 55


def test_the_sub_surveys_of_sdss_are_read_one_by_one_or_together(tmp_path: Path) -> None:
    for name in ("sdss/healpix=7", "boss/healpix=7", "eboss/healpix=12", "other/healpix=7"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "001-of-001.hdf5").touch()
    form = SURVEYS["sdss"].forms["mmu_v1"]
    found = [file.relative.split("/")[0] for file in list_files(form, str(tmp_path))]
    assert found == ["boss", "eboss", "sdss"]
    assert [file.relative for file in list_files(form, str(tmp_path / "boss"))] == ["healpix=7/001-of-001.hdf5"]
    assert [file.cells for file in list_files(form, str(tmp_path), cells=[12])] == [range(12, 13)]

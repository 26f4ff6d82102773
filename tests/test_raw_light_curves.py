"""Light curves in the files of their surveys, each against an independent reading of the same file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import fits_light_curve, plasticc_csv, reader, snana, snpy
from mmu_pipeline.readers.fits_light_curve import FURTHER_PIECE
from mmu_pipeline.simulate.objects import invented
from mmu_pipeline.simulate.raw import WRITERS
from mmu_pipeline.simulate.sky import sky_objects

SURVEYS = load_surveys()


def arrays_of(survey: Survey, form: str, path: Path, object_id: str) -> dict[str, Any]:
    members = [field for field in survey.members if field.is_carried(form)]
    module = reader(survey.forms[form].reader)
    found = module.read_arrays(survey, form, path, np.array([0]), [object_id], members)
    assert {name: array[0].dtype for name, array in found.items()} == {field.name: field.numpy_dtype for field in members}
    return {name: array[0] for name, array in found.items()}


def test_the_quarters_of_a_kepler_star_are_one_light_curve_in_order_of_time(real_data: Path) -> None:
    survey = SURVEYS["kepler"]
    paths = sorted((real_data / "raw/kepler").glob("*_llc.fits"))
    found = [fits_light_curve.read_objects(survey, "llc", path) for path in paths]
    assert [len(rows.table) for rows in found] == [1] + [0] * (len(paths) - 1)
    assert {skip.reason for rows in found[1:] for skip in rows.skipped} == {FURTHER_PIECE}
    (row,) = found[0].table.to_pylist()
    header = fits.getheader(paths[0], 0)
    assert (row["object_id"], row["ra"], row["dec"]) == ("7660594", header["RA_OBJ"], header["DEC_OBJ"])
    assert (row["kepler_mag"], row["teff"]) == (np.float32(header["KEPMAG"]), np.float32(header["TEFF"]))
    arrays = arrays_of(survey, "llc", paths[0], "7660594")
    tables = []
    for path in paths:
        with fits.open(path) as hdus:
            frame = pd.DataFrame({name: np.array(hdus[1].data[name]).astype(hdus[1].data[name].dtype.newbyteorder("="))
                                  for name in ("TIME", "SAP_FLUX", "SAP_FLUX_ERR", "PDCSAP_FLUX", "SAP_QUALITY")})  # fmt: skip
            tables.append(frame.assign(quarter=hdus[0].header["QUARTER"]))
    whole = pd.concat(tables).dropna(subset="TIME").sort_values("TIME", kind="stable")
    np.testing.assert_array_equal(arrays["time"], whole["TIME"])
    assert (np.diff(arrays["time"]) > 0).all()
    np.testing.assert_array_equal(arrays["quality"], whole["SAP_QUALITY"])
    np.testing.assert_array_equal(arrays["quarter"], whole["quarter"])
    np.testing.assert_array_equal(arrays["sap_flux"], whole["SAP_FLUX"].fillna(0))
    np.testing.assert_array_equal(arrays["pdcsap_flux"], whole["PDCSAP_FLUX"].fillna(0))
    good = (whole["SAP_QUALITY"] == 0) & whole[["SAP_FLUX", "SAP_FLUX_ERR", "PDCSAP_FLUX"]].notna().all(axis=1)
    np.testing.assert_array_equal(arrays["good"], good)


def test_a_tess_light_curve_keeps_its_quality_and_loses_cadences_without_a_time(real_data: Path) -> None:
    survey, path = SURVEYS["tess"], next((real_data / "raw/tess").glob("*_lc.fits"))
    (row,) = fits_light_curve.read_objects(survey, "spoc", path).table.to_pylist()
    with fits.open(path) as hdus:
        header, data = hdus[0].header, hdus[1].data
        assert (row["object_id"], row["ra"], row["dec"]) == (str(header["TICID"]), header["RA_OBJ"], header["DEC_OBJ"])
        assert (row["sector"], row["tess_mag"]) == (header["SECTOR"], np.float32(header["TESSMAG"]))
        arrays = arrays_of(survey, "spoc", path, row["object_id"])
        timed = np.isfinite(data["TIME"])
        assert 0 < timed.sum() < len(data)
        np.testing.assert_array_equal(arrays["time"], data["TIME"][timed])
        np.testing.assert_array_equal(arrays["quality"], data["QUALITY"][timed])
        np.testing.assert_array_equal(arrays["flux"], np.nan_to_num(data["SAP_FLUX"][timed]))
        clean = (data["QUALITY"] == 0) & np.isfinite(data["SAP_FLUX"]) & np.isfinite(data["PDCSAP_FLUX"])
        np.testing.assert_array_equal(arrays["good"], clean[timed])


def test_tglc_light_curves_of_both_versions(real_data: Path) -> None:
    survey = SURVEYS["tess_tglc"]
    for path in sorted((real_data / "raw/tess/tglc").glob("*.fits")):
        (row,) = fits_light_curve.read_objects(survey, "tglc", path).table.to_pylist()
        with fits.open(path) as hdus:
            header, data = hdus[1].header, hdus[1].data
            assert row["object_id"] == "5707485527450614656"
            assert (row["tic_id"], row["sector"]) == ("218795833", hdus[0].header["SECTOR"])
            assert row["flux_err"] == (None if np.isnan(header["PSF_ERR"]) else np.float32(header["PSF_ERR"]))
            arrays = arrays_of(survey, "tglc", path, row["object_id"])
            np.testing.assert_array_equal(arrays["time"], data["time"])
            np.testing.assert_array_equal(arrays["flux"], np.nan_to_num(data["psf_flux"]))
            np.testing.assert_array_equal(arrays["tess_flags"], data["TESS_flags"])
            assert np.isfinite(arrays["aper_flux"]).all()


def test_a_snoopy_file_agrees_with_the_snana_form(real_data: Path) -> None:
    survey, path = SURVEYS["csp"], real_data / "raw/csp_snpy/SN2006ax.txt"
    (row,) = snpy.read_objects(survey, "snpy", path).table.to_pylist()
    assert (row["object_id"], row["ra"], row["dec"], row["redshift_helio"]) == ("2006ax", 171.014417, -12.291444, 0.016727)
    assert row["redshift"] is None
    arrays = arrays_of(survey, "snpy", path, "2006ax")
    other = real_data / "raw/csp/CSPDR3_2006ax.DAT"
    theirs = snana.read_arrays(survey, "snana", other, np.array([0]), ["2006ax"], [survey.field("time"), survey.field("band")])
    near = np.abs(arrays["time"][:, np.newaxis] - theirs["time"][0]).min(axis=1)
    assert np.median(near) < 0.01
    lines = [line.split() for line in path.read_text().splitlines()]
    assert len(arrays["time"]) == sum(len(words) == 3 for words in lines)
    first = next(at for at, words in enumerate(lines) if words[:2] == ["filter", "B"])
    in_b = arrays["band"] == survey.field("band").bands.index("B")
    assert arrays["time"][in_b][0] == float(lines[first + 1][0]) + 53000
    assert arrays["mag"][in_b][0] == np.float32(lines[first + 1][1])


@pytest.mark.parametrize(
    ("text", "line"), [("SN1 0.1 10\n", 1), ("SN1 0.1 10 20\n1 2 3\n", 2), ("SN1 0.1 10 20\nfilter B\n1 2\n", 3),
                       ("SN1 0.1 10 20\nfilter B\n1 x 3\n", 3)]
)  # fmt: skip
def test_a_broken_snoopy_file_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "SN1_snpy.txt"
    path.write_text(text)
    with pytest.raises(BrokenSource) as caught:
        snpy.read_objects(SURVEYS["csp"], "snpy", path)
    assert caught.value.where["file"] == path
    assert caught.value.where["line"] == line


def plasticc(real_data: Path, folder: Path) -> Path:
    """The ten real objects under the names of the archive; its copy of Kaggle calls the true columns otherwise."""
    source = real_data / "raw/plasticc/rygao"
    shutil.copy(source / "training_set.csv", folder / "plasticc_train_lightcurves.csv")
    frame = pd.read_csv(source / "training_set_metadata.csv")
    frame.assign(true_z=frame["hostgal_specz"]).to_csv(folder / "plasticc_train_metadata.csv", index=False)
    return folder / "plasticc_train_metadata.csv"


def test_plasticc_objects_get_their_observations(real_data: Path, tmp_path: Path) -> None:
    survey, path = SURVEYS["plasticc"], plasticc(real_data, tmp_path)
    table = plasticc_csv.read_objects(survey, "csv", path).table
    meta = pd.read_csv(path)
    observed = pd.read_csv(tmp_path / "plasticc_train_lightcurves.csv")
    assert table["object_id"].to_pylist() == [str(one) for one in meta["object_id"]]
    np.testing.assert_array_equal(table["dec"], meta["decl"])
    assert table["obj_type"].to_pylist() == meta["target"].tolist()
    assert table["distmod"].to_pylist() == [None if np.isnan(value) else value for value in meta["distmod"]]
    rows = np.array([7, 2, 7])
    members = [field for field in survey.members if field.is_carried("csv")]
    found = plasticc_csv.read_arrays(survey, "csv", path, rows, [str(meta["object_id"][row]) for row in rows], members)
    for at, row in enumerate(rows):
        mine = observed[observed["object_id"] == meta["object_id"][row]].sort_values(["passband", "mjd"], kind="stable")
        assert len(mine)
        np.testing.assert_array_equal(found["time"][at], mine["mjd"])
        np.testing.assert_array_equal(found["band"][at], mine["passband"])
        np.testing.assert_array_equal(found["flux"][at], mine["flux"].astype("f4"))
        np.testing.assert_array_equal(found["detected"][at], mine["detected"] == 1)


def test_a_row_with_another_id_and_a_missing_column_are_named(real_data: Path, tmp_path: Path) -> None:
    survey, path = SURVEYS["plasticc"], plasticc(real_data, tmp_path)
    with pytest.raises(BrokenSource, match="another object"):
        plasticc_csv.read_arrays(survey, "csv", path, np.array([1]), ["615"], [survey.field("flux")])
    lightcurves = tmp_path / "plasticc_train_lightcurves.csv"
    lightcurves.write_text(lightcurves.read_text().replace("flux_err", "error", 1))
    with pytest.raises(BrokenSource, match="missing") as caught:
        plasticc_csv.read_arrays(survey, "csv", path, np.array([0]), ["615"], [survey.field("flux_err")])
    assert (caught.value.where["file"], caught.value.where["column"]) == (lightcurves, "flux_err")
    lightcurves.unlink()
    with pytest.raises(BrokenSource, match="no file of observations"):
        plasticc_csv.read_arrays(survey, "csv", path, np.array([0]), ["615"], [survey.field("flux")])


@pytest.fixture
def llc(tmp_path: Path) -> Path:
    """The first of two quarters of a star of known values."""
    objects = invented(SURVEYS["kepler"], "llc", sky_objects(1).slice(3, 1), ["7660594"])
    objects.members["quarter"] = [np.full(len(objects.members["time"][0]), 4, np.int8)]
    return WRITERS["kepler", "llc"](tmp_path, objects)[0]


def rewritten(path: Path, column: str, values: Any = None, kind: str = "E", key: str | None = None) -> None:
    """The file with a column of its table changed or left out, or without a header key."""
    with fits.open(path) as hdus:
        columns = [c for c in hdus[1].columns if c.name != column]
        if values is not None:
            columns.append(fits.Column(column, kind, array=np.full(len(hdus[1].data), values)))
        primary = fits.PrimaryHDU(header=hdus[0].header)
        if key:
            del primary.header[key]
        changed = fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")])
        changed.writeto(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"column": "TIME"}, ["a declared column is missing", "column: time", "expected: TIME"]),
        ({"column": "SAP_QUALITY"}, ["a declared column is missing", "SAP_QUALITY"]),
        ({"column": "SAP_FLUX", "values": "x", "kind": "4A"}, ["not numbers", "column: sap_flux"]),
        ({"column": "SAP_QUALITY", "values": 1.5}, ["column: "]),
        ({"column": "", "key": "KEPLERID"}, ["a required header key is missing", "KEPLERID"]),
    ],
)
def test_a_broken_quarter_is_named_with_file_and_column(llc: Path, change: dict[str, Any], names: list[str]) -> None:
    second = sorted(llc.parent.iterdir())[1]
    rewritten(second, **change)
    with pytest.raises(BrokenSource) as caught:
        arrays_of(SURVEYS["kepler"], "llc", llc, "7660594")
    for name in names:
        assert name in str(caught.value)


def test_a_light_curve_cut_short_or_without_a_position_is_refused(llc: Path) -> None:
    survey = SURVEYS["kepler"]
    rewritten(llc, "", key="RA_OBJ")
    with pytest.raises(BrokenSource, match=r"required header key is missing[\s\S]*column: ra"):
        fits_light_curve.read_objects(survey, "llc", llc)
    llc.write_bytes(llc.read_bytes()[:3000])
    with pytest.raises(BrokenSource, match=str(llc)):
        fits_light_curve.read_objects(survey, "llc", llc)
    with pytest.raises(FileNotFoundError):
        fits_light_curve.read_objects(survey, "llc", llc.with_name("none_llc.fits"))

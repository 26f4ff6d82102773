"""Tables in the files of their surveys: delimited text, FITS and Parquet, real ones and some with the faults of real ones."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, fits_table, npy_table, parquet_table, text_table

SURVEYS = load_surveys()
PSC = (
    r"1.119851|-89.91861|0.11|0.06|90|00042876-8955069 |12.467|0.018|0.021|359.4|12.131|0.025|0.026|224.7|11.963|0.023|0.025|"
    r"133.7|AAA|222|111|000|666666|37.2|245|1329023254|0|0|1101364107|s|2000-09-22|64|302.951|-27.208|1.6|2451809.7124|1.07|1.18|"
    r"0.81|12.481|0.014|12.112|0.028|11.98|0.012|332|251|sw|1|1|0|\N|\N|\N|\N|0|\N|59038|1357874|267"
)
"""The first line of psc_aaa, as the survey's documentation prints it."""


def changed(name: str, form: str, **changes: Any) -> Survey:
    """A survey whose form differs, as copies of its files do."""
    survey = SURVEYS[name]
    forms = {**survey.forms, form: survey.forms[form].model_copy(update=changes)}
    return survey.model_copy(update={"forms": forms})


@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_a_line_of_2mass_is_read_to_the_last_digit(tmp_path: Path, compress: Any) -> None:
    path = tmp_path / ("psc_aaa" if compress is None else "psc_aaa.gz")
    lines = f"{PSC}\n{PSC.replace('1101364107', '1101364108').replace('|12.467|', f'|{chr(92)}N|')}\n".encode()
    path.write_bytes(compress(lines) if compress else lines)
    found = text_table.read_objects(SURVEYS["twomass"], "psc", path)
    first, second = found.table.to_pylist()
    assert (first["object_id"], first["ra"], first["dec"]) == ("1101364107", 1.119851, -89.91861)
    assert (first["designation"], first["rd_flg"], first["cc_flg"], first["ndet"]) == ("00042876-8955069", "222", "000", "666666")
    assert (first["jdate"], first["date"], first["j_m"]) == (2451809.7124, "2000-09-22", np.float32(12.467))
    assert (first["pts_key"], first["pxcntr"], first["ext_key"], first["coadd"]) == (1101364107, 1329023254, None, 267)
    assert (first["b_m_opt"], first["phi_opt"], first["a"]) == (None, None, "0")
    assert (second["j_m"], second["h_m"], second["source_row"]) == (None, np.float32(12.131), 1)
    assert text_table.read_arrays(SURVEYS["twomass"], "psc", path, np.array([1]), ["1101364108"], []) == {}


def test_allwise_text_with_a_delimiter_at_the_end_of_lines(tmp_path: Path) -> None:
    survey = SURVEYS["allwise"]
    names = survey.forms["text"].text.columns
    assert len(names) == 298
    values = {"designation": "J000000.01-000000.1", "ra": "0.0000417", "dec": "-0.0000278", "cntr": "1119111501351012345",
              "w1mpro": "15.123", "pmra": "-12", "cc_flags": "0000", "htm20": "9007199254740993", "w1mjdmean": "55332.12345678",
              "tmass_key": "2001234567"}  # fmt: skip
    line = "|".join(values.get(name, "") for name in names) + "|\n"
    path = tmp_path / "wise-allwise-cat-part01.bz2"
    path.write_bytes(bz2.compress(line.encode() * 3))
    found = text_table.read_objects(survey, "text", path).table
    row = found.to_pylist()[2]
    assert (row["object_id"], row["cntr"], row["htm20"]) == ("1119111501351012345", 1119111501351012345, 9007199254740993)
    assert (row["ra"], row["dec"], row["w1mjdmean"]) == (0.0000417, -0.0000278, 55332.12345678)
    assert (row["w1mpro"], row["pmra"], row["cc_flags"], row["w2mpro"]) == (np.float32(15.123), -12, "0000", None)
    by_name = {field.name: field.source_name("text") for field in survey.columns}
    assert set(by_name.values()) | {"ra", "dec"} == set(names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["the file is empty"]),
        ("1|2|3\n", ["not as many columns as declared", "columns: 3", "declared: 60"]),
        (PSC.replace("|0.11|", "|x|") + "\n", ["column: err_maj", "'x'"]),
        (PSC.replace("|90|", "|90000|") + "\n", ["column: err_ang", "not a int16"]),
        (PSC + "\n" + PSC[:300] + "\n", ["not the declared table"]),
    ],
)
def test_a_broken_line_is_named_with_file_and_column(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "psc_aaa"
    path.write_text(text)
    with pytest.raises(BrokenSource) as caught:
        text_table.read_objects(SURVEYS["twomass"], "psc", path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_galaxy_zoo_votes_agree_with_pandas(real_data: Path) -> None:
    survey, path = SURVEYS["gz2"], real_data / "catalogs/galaxyzoo/willettk_gz2/table5.csv.gz"
    table, frame = text_table.read_objects(survey, "csv", path).table, pd.read_csv(path, dtype={"objid": str})
    assert len(table) == 19761
    assert table["object_id"].to_pylist() == frame["objid"].tolist()
    np.testing.assert_array_equal(table["ra"], frame["ra"])
    for field in survey.columns:
        if field.source_names("csv") and field.dtype != "string":
            np.testing.assert_array_equal(table[field.name].to_numpy(), frame[field.name].astype(field.dtype), field.name)


def test_alert_stamps_agree_with_their_table(real_data: Path) -> None:
    folder = real_data / "raw/btsbot"
    survey = changed("btsbot", "npy", object_id="{objectId}-{jd}", companions={"triplets": ("_candidates.csv", "_triplets.npy")})
    survey = survey.model_copy(
        update={
            "fields": tuple(
                field.model_copy(update={"source": {"npy": ()}}) if field.name in LATER else field for field in survey.fields
            )
        }
    )
    path = folder / "usage_candidates.csv"
    frame, stamps = pd.read_csv(path), np.load(folder / "usage_triplets.npy")
    table = npy_table.read_objects(survey, "npy", path).table
    assert table["ztf_id"].to_pylist() == frame["objectId"].tolist()
    np.testing.assert_array_equal(table["jd"], frame["jd"])
    assert (frame["neargaiabright"] == -999).any()
    assert table["neargaiabright"].null_count == (frame["neargaiabright"] == -999).sum()
    assert table["sgmag2"].to_pylist() == [None if v == -999 else np.float32(v) for v in frame["sgmag2"]]
    rows = np.array([30, 2, 30])
    found = npy_table.read_arrays(survey, "npy", path, rows, [table["object_id"][row].as_py() for row in rows], survey.members)
    for array, row in zip(found["image"], rows, strict=True):
        assert (array.shape, array.dtype, array.flags.c_contiguous) == ((3, 63, 63), np.float32, True)
        for plane in range(3):
            np.testing.assert_array_equal(array[plane], stamps[row, :, :, plane].astype("f4"))
    with pytest.raises(BrokenSource, match="another object"):
        npy_table.read_arrays(survey, "npy", path, np.array([3]), ["ZTF"], survey.members)


LATER = ("source_set", "n", "upstream_split", "is_sn", "near_threshold", "is_rise")
"""Columns that the usage example of BTSbot does not have."""


def test_a_truth_that_is_none_is_named(tmp_path: Path) -> None:
    survey = SURVEYS["btsbot"]
    names = [field.source_name("npy") or field.name for field in survey.columns if field.source_names("npy")]
    row = dict.fromkeys(names, "1") | {"candid": "2466440941315015002", "ra": "10", "dec": "20", "is_SN": "True"}
    path = tmp_path / "val_cand_v10_N100_programid1.csv"
    pd.DataFrame([row]).to_csv(path, index=False)
    (found,) = npy_table.read_objects(survey, "npy", path).table.to_pylist()
    assert (found["object_id"], found["is_sn"], found["n"]) == ("2466440941315015002", True, 1)
    pd.DataFrame([{**row, "is_SN": "maybe"}]).to_csv(path, index=False)
    with pytest.raises(BrokenSource, match=r"neither true nor false[\s\S]*column: is_sn"):
        npy_table.read_objects(survey, "npy", path)
    pd.DataFrame([row]).drop(columns="magpsf").to_csv(path, index=False)
    with pytest.raises(BrokenSource, match=r"missing[\s\S]*column: magpsf"):
        npy_table.read_objects(survey, "npy", path)


def galex_table(count: int = 5) -> Table:
    """GALEX columns in upper case, with -999 and -99, ids of 19 digits."""
    survey, rng, table = SURVEYS["galex"], np.random.default_rng(1), Table()
    table["OBJID"] = 6370985862340001000 + np.arange(count)
    table["RA"], table["DEC"] = rng.uniform(0, 360, count), rng.uniform(-90, 90, count)
    for field in survey.columns:
        values = (
            [f"t{row} " for row in range(count)] if field.dtype == "string" else rng.uniform(1, 20, count).astype(field.dtype)
        )
        table[field.name.upper()] = values
    table["FUV_MAG"][1], table["NUV_KRON_RADIUS"][2] = -999, -99
    return table


@pytest.mark.parametrize("name", ["GUVCat_AIS_FOV055_glat85_00N__90_00N.fits", "GUVCat_AIS_FOV055_glat85_00N__90_00N.fits.gz"])
def test_a_fits_table_loses_its_sentinels_and_keeps_its_ids(tmp_path: Path, name: str) -> None:
    table = galex_table()
    table.write(tmp_path / name)
    found = fits_table.read_objects(SURVEYS["galex"], "fits", tmp_path / name).table
    assert found["object_id"].to_pylist() == [str(value) for value in table["OBJID"]]
    np.testing.assert_array_equal(found["ra"], table["RA"])
    assert found["fuv_mag"].to_pylist() == [None if v == -999 else v for v in table["FUV_MAG"].tolist()]
    assert found["nuv_kron_radius"][2].as_py() is None
    assert found["primgid"].to_pylist() == [f"t{row}" for row in range(5)]
    for field in SURVEYS["galex"].columns:
        assert found.schema.field(field.name).type == field.arrow_type


def test_a_fits_table_without_a_column_or_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "GUVCat_AIS_FOV055_glat.fits"
    table = galex_table(400)
    table.remove_column("NUV_FLUX")
    table.write(path)
    with pytest.raises(BrokenSource, match=r"missing[\s\S]*column: nuv_flux"):
        fits_table.read_objects(SURVEYS["galex"], "fits", path)
    path.write_bytes(path.read_bytes()[:-60_000])
    with pytest.raises(BrokenSource, match=str(path)):
        fits_table.read_objects(SURVEYS["galex"], "fits", path)
    path.write_bytes(b"SIMPLE")
    with pytest.raises(BrokenSource, match="not a readable FITS file"):
        fits_table.read_objects(SURVEYS["galex"], "fits", path)


def test_sweep_rows_agree_with_astropy(real_data: Path) -> None:
    survey = SURVEYS["legacysurvey"]
    for path in sorted((real_data / "raw/legacysurvey/tables").glob("*.fits")):
        table = Table.read(path)
        lost = [field for field in survey.columns if field.name.upper() not in table.colnames]
        fields = [f.model_copy(update={"source": {"bricks": ()}}) if f in lost else f for f in survey.fields]
        found = fits_table.read_objects(survey.model_copy(update={"fields": tuple(fields)}), "bricks", path).table
        ids = [f"{str(brick).strip()}-{number}" for brick, number in zip(table["BRICKNAME"], table["OBJID"], strict=True)]
        assert found["object_id"].to_pylist() == ids
        for column in ("flux_g", "mw_transmission_r", "ebv", "flux_ivar_z"):
            np.testing.assert_array_equal(found[column], table[column.upper()])
        assert found["type"].to_pylist() == [str(value).strip() for value in table["TYPE"]]


def test_a_table_that_a_spreadsheet_saved_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffid,right,up,noise\nA1,10,-5,0.5\n".encode())
    fields = [{"name": "weight", "dtype": "float32", "from": {"csv": "noise"}, "power": {"csv": -2}, "scale": {"csv": 3}}]
    form = {"reader": "text_table", "files": ["*.csv"], "object_id": "id", "ra": "right", "dec": "up"}
    facts = dict.fromkeys(("title", "release", "summary", "licence", "citation"), "none")
    survey = Survey.model_validate({"name": "saved", "modality": "table", "forms": {"csv": form}, "fields": fields, **facts})
    (row,) = text_table.read_objects(survey, "csv", path).table.to_pylist()
    assert row == {"object_id": "A1", "ra": 10.0, "dec": -5.0, "source_row": 0, "weight": 12.0}


def test_a_parquet_table_keeps_whole_numbers(tmp_path: Path) -> None:
    survey, path = SURVEYS["allwise"], tmp_path / "part0.snappy.parquet"
    columns = {field.name: pa.array([None, 1, 2], pa.float64() if field.dtype == "float32" else field.arrow_type)
               if field.dtype != "string" else pa.array([None, " a", "b "]) for field in survey.columns}  # fmt: skip
    columns |= {
        "cntr": pa.array([None, 1119111501351012345, 2**60 + 1]),
        "ra": pa.array([1.0, 2.0, 3.0]),
        "dec": pa.array([4.0, 5, 6]),
    }
    pq.write_table(pa.table(columns), path)
    found = parquet_table.read_objects(survey, "parquet", path)
    assert found.skipped == (Skipped(0, "", "no object id"),)
    assert found.table["object_id"].to_pylist() == ["1119111501351012345", str(2**60 + 1)]
    assert found.table["source_row"].to_pylist() == [1, 2]
    assert found.table["designation"].to_pylist() == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BrokenSource, match="not a readable Parquet file"):
        parquet_table.read_objects(survey, "parquet", path)


@pytest.mark.parametrize("marker", [-999.0, -9999.0, 1e20])
def test_a_marker_that_the_survey_does_not_declare_is_named(tmp_path: Path, marker: float) -> None:
    path = tmp_path / "psc_aaa"
    path.write_text(PSC.replace("|12.467|", f"|{marker}|") + "\n")
    with pytest.raises(BrokenSource, match=r"looks like a marker[\s\S]*psc_aaa[\s\S]*column: j_m") as caught:
        text_table.read_objects(SURVEYS["twomass"], "psc", path)
    assert caught.value.where["value"] == marker
    table = galex_table()
    table["E_BV"][3] = marker
    table.write(tmp_path / "GUVCat_AIS_FOV055_glat.fits")
    with pytest.raises(BrokenSource, match=r"looks like a marker[\s\S]*column: e_bv"):
        fits_table.read_objects(SURVEYS["galex"], "fits", tmp_path / "GUVCat_AIS_FOV055_glat.fits")
    real = [field.model_copy(update={"any_value": True}) for field in SURVEYS["galex"].fields]
    survey = SURVEYS["galex"].model_copy(update={"fields": tuple(real)})
    found = fits_table.read_objects(survey, "fits", tmp_path / "GUVCat_AIS_FOV055_glat.fits").table
    assert found["e_bv"][3].as_py() == np.float32(marker)

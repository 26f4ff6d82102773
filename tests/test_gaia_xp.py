"""Gaia XP spectra in csv, ecsv and FITS, the real files against pandas and astropy; joined with a source table."""

from __future__ import annotations

import ast
import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import ascii as text_tables
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, gaia_xp

GAIA = load_surveys()["gaia"]
MEMBERS = ("coeff", "coeff_error", "coeff_known", "bp_correlations", "bp_correlations_known", "rp_correlations")
REAL = ["XP_CONTINUOUS_RAW.csv", "XP_CONTINUOUS_RAW.ecsv", "XP_CONTINUOUS_RAW.fits", "XP_CONTINUOUS_RAW_with_missing_BP.csv"]
IDS = (5762406957886626816, 5853498713190525696, 5405570973190252288)


def archive(tmp_path: Path, spectra: Path, sources: pd.DataFrame, suffix: str | None = None) -> Path:
    """The spectra where the archive has them, with the source table of the same range; the path of the spectra."""
    suffix = suffix or "".join(spectra.suffixes[-1:])
    xp = tmp_path / f"gdr3/Spectroscopy/xp_continuous_mean_spectrum/XpContinuousMeanSpectrum_0-1{suffix}"
    table = tmp_path / f"gdr3/gaia_source/GaiaSource_0-1{suffix}"
    xp.parent.mkdir(parents=True)
    table.parent.mkdir(parents=True)
    if suffix.endswith(".gz"):
        xp.write_bytes(gzip.compress(spectra.read_bytes()))
    else:
        shutil.copy(spectra, xp)
    if suffix == ".fits":
        Table.from_pandas(sources).write(table)
    elif suffix == ".ecsv":
        Table.from_pandas(sources).write(table, format="ascii.ecsv", delimiter=",")
    else:
        sources.to_csv(table, index=False, na_rep="null", compression="gzip" if suffix.endswith(".gz") else None)
    return xp


def source_table(ids: Any = IDS) -> pd.DataFrame:
    """Every column that the survey declares; a radial velocity for the first source alone."""
    rng = np.random.default_rng(3)
    carried = [field.source_name("xp") for field in GAIA.columns]
    names = [name for name in carried if name and not name.startswith(("bp_n_", "rp_n_", "bp_st", "rp_st"))]
    table = pd.DataFrame({name: rng.uniform(1, 2, len(ids)) for name in names})
    table["astrometric_params_solved"] = 31
    table["radial_velocity"] = [12.5] + [np.nan] * (len(ids) - 1)
    table.insert(0, "source_id", np.array(ids, np.int64))
    return table.assign(ra=[10.123456789012345, 20.0, 30.0][: len(ids)], dec=[-70.987654321098765, 5.0, 6.0][: len(ids)])


def real_arrays(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """source_id -> column -> array, by pandas and ast, astropy.io.ascii, or astropy.io.fits."""
    names = [
        f"{band}_{kind}" for band in ("bp", "rp") for kind in ("coefficients", "coefficient_errors", "coefficient_correlations")
    ]
    if path.suffix == ".fits":
        data = fits.getdata(path, 1)
        return {int(row["source_id"]): {name: row[name] for name in names} for row in data}
    if path.suffix == ".ecsv":
        table = text_tables.read(path, format="ecsv")
        return {int(row["source_id"]): {name: np.array(row[name], float) for name in names} for row in table}
    frame = pd.read_csv(path)
    return {
        row.source_id: {
            name: np.array(ast.literal_eval(value)) if isinstance(value := getattr(row, name), str) else np.zeros(0)
            for name in names
        }
        for row in frame.itertuples()
    }


@pytest.mark.parametrize("name", REAL)
def test_every_real_file(name: str, real_data: Path, tmp_path: Path) -> None:
    original = real_data / "raw/gaia_xp" / name
    expected = real_arrays(original)
    path = archive(tmp_path, original, source_table())
    table = gaia_xp.read_objects(GAIA, "xp", path).table.to_pylist()
    assert [int(row["object_id"]) for row in table] == list(expected)
    sources = source_table().set_index("source_id")
    for row in table:
        known = sources.loc[int(row["object_id"])]
        assert (row["ra"], row["dec"]) == (known["ra"], known["dec"])
        assert row["parallax"] == known["parallax"]
        assert row["teff_gspphot"] == np.float32(known["teff_gspphot"])
        assert row["radial_velocity"] == (12.5 if int(row["object_id"]) == IDS[0] else None)
        assert (row["bp_n_relevant_bases"] is None) == (len(expected[int(row["object_id"])]["bp_coefficients"]) == 0)
    rows = np.array([1, 0, 1])
    members = [GAIA.field(member) for member in MEMBERS]
    arrays = gaia_xp.read_arrays(GAIA, "xp", path, rows, [table[row]["object_id"] for row in rows], members)
    for at, row in enumerate(rows):
        theirs = expected[int(table[row]["object_id"])]
        missing = len(theirs["bp_coefficients"]) == 0
        assert missing == (name.endswith("missing_BP.csv") and row == 1)
        for ours, kind in (("coeff", "coefficients"), ("coeff_error", "coefficient_errors")):
            first = np.zeros(55) if missing else theirs[f"bp_{kind}"]
            np.testing.assert_array_equal(arrays[ours][at], np.concatenate([first, theirs[f"rp_{kind}"]]).astype("f4"))
        np.testing.assert_array_equal(arrays["coeff_known"][at], np.repeat([not missing, True], 55))
        correlations = np.zeros(1485) if missing else theirs["bp_coefficient_correlations"]
        np.testing.assert_array_equal(arrays["bp_correlations"][at], correlations.astype("f4"))
        np.testing.assert_array_equal(arrays["rp_correlations"][at], theirs["rp_coefficient_correlations"].astype("f4"))
        assert arrays["bp_correlations_known"][at].all() != missing
        assert arrays["coeff"][at].dtype == np.float32


def test_the_bulk_files_are_gzipped_ecsv_with_literal_nulls(real_data: Path, tmp_path: Path) -> None:
    original = (real_data / "raw/gaia_xp/XP_CONTINUOUS_RAW_with_missing_BP.csv").read_text().splitlines()
    header, *rows = original
    rows[1] = rows[1].replace(",,", ",null,").replace(",,", ",null,")
    bulk = tmp_path / "bulk.csv"
    bulk.write_text("\n".join(["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:", header, *rows]) + "\n")
    path = archive(tmp_path, bulk, source_table(), ".csv.gz")
    table = gaia_xp.read_objects(GAIA, "xp", path).table.to_pylist()
    assert [int(row["object_id"]) for row in table] == [IDS[1], IDS[2], IDS[0]]
    assert [row["bp_n_relevant_bases"] for row in table] == [53, None, 53]
    arrays = gaia_xp.read_arrays(GAIA, "xp", path, np.array([1]), [str(IDS[2])], [GAIA.field("coeff"), GAIA.field("coeff_known")])
    assert arrays["coeff_known"][0].tolist() == [False] * 55 + [True] * 55
    assert not arrays["coeff"][0][:55].any()


def test_a_spectrum_without_a_source_is_skipped(real_data: Path, tmp_path: Path) -> None:
    original = real_data / "raw/gaia_xp/XP_CONTINUOUS_RAW_with_missing_BP.csv"
    found = gaia_xp.read_objects(GAIA, "xp", archive(tmp_path, original, source_table(IDS[:2])))
    assert found.skipped == (Skipped(1, str(IDS[2]), "not in the source table"),)
    assert found.table["source_row"].to_pylist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda text: text.replace("bp_coefficients", "bp_coefs"), ["declared column is missing", "column: bp_coefficients"]),
        (lambda text: text.replace("(56947.03696840172", "(many"), ["not a list of numbers", "column: bp_coefficients"]),
        (lambda text: text.replace("(56947.03696840172,", "("), ["not the declared shape", "column: bp_coefficients"]),
        (lambda text: text.replace("5853498713190525696", "5853498713190525696.5"), ["column: source_id"]),
    ],
)
def test_what_is_not_as_declared_is_named(change: Any, names: list[str], real_data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.csv"
    changed.write_text(change((real_data / "raw/gaia_xp/XP_CONTINUOUS_RAW.csv").read_text()))
    path = archive(tmp_path, changed, source_table())
    with pytest.raises(BrokenSource) as caught:
        gaia_xp.read_arrays(GAIA, "xp", path, np.array([0]), [str(IDS[1])], [GAIA.field("coeff")])
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_another_source_or_a_row_that_is_not_there_is_refused(real_data: Path, tmp_path: Path) -> None:
    path = archive(tmp_path, real_data / "raw/gaia_xp/XP_CONTINUOUS_RAW.fits", source_table())
    for row, object_id, what in ((0, "17", "another object"), (2, str(IDS[0]), "no such row"), (-1, str(IDS[0]), "no such row")):
        with pytest.raises(BrokenSource, match=what):
            gaia_xp.read_arrays(GAIA, "xp", path, np.array([row]), [object_id], [GAIA.field("coeff")])


def test_a_source_table_without_a_column_is_named(real_data: Path, tmp_path: Path) -> None:
    path = archive(tmp_path, real_data / "raw/gaia_xp/XP_CONTINUOUS_RAW.csv", source_table().drop(columns="parallax"))
    with pytest.raises(BrokenSource, match="declared column is missing") as caught:
        gaia_xp.read_objects(GAIA, "xp", path)
    assert caught.value.where["column"] == "parallax"
    assert caught.value.where["file"].name == "GaiaSource_0-1.csv"

"""SNANA text: every number of the real files, and what broken files say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, snana

SURVEYS = load_surveys()
REAL = {
    "ps1_sne_ia": (370, 369),
    "des_y3_sne_ia": (251, 248),
    "snls": (239, 239),
    "swift_sne_ia": (120, 120),
    "foundation": (180, 180),
    "csp": (136, 136),
    "cfa3": (186, 186),
    "yse": (292, 292),
}
"""Survey -> files, objects by the survey's own list and with observations."""


def files_of(survey: Survey, folder: Path) -> list[Path]:
    return sorted(path for pattern in survey.forms["snana"].files for path in folder.glob(pattern))


def observations(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a file as text, by an independent and simpler parse."""
    names: list[str] = []
    for line in path.read_text().split("\n"):
        words = line.split()
        if words[:1] == ["VARLIST:"]:
            names = words[1:]
        if words[:1] == ["OBS:"]:
            yield dict(zip(names, words[1:], strict=True))


@pytest.mark.parametrize("name", REAL)
def test_every_time_flux_and_error_equals_the_text_of_the_real_files(name: str, real_data: Path) -> None:
    survey = SURVEYS[name]
    band, paths = survey.field("band"), files_of(survey, real_data / "raw" / name)
    assert len(paths) == REAL[name][0]
    compared = 0
    for path in paths:
        text = list(observations(path))
        found = snana.read_objects(survey, "snana", path)
        if not text:
            (skipped,) = found.skipped
            assert (len(found.table), skipped.reason) == (0, "no observations")
            continue
        (object_id,) = found.table["object_id"].to_pylist()
        arrays = snana.read_arrays(survey, "snana", path, np.array([0]), [object_id], survey.members)
        letter = next(key for key in ("FLT", "BAND", "FILTER") if key in text[0])
        named = [{**row, "band": band.band_aliases.get(row[letter], row[letter])} for row in text]
        rows = sorted(named, key=lambda row: (band.bands.index(row["band"]), float(row["MJD"])))
        assert arrays["time"][0].dtype == "<f8"
        assert arrays["flux"][0].dtype == "<f4"
        assert arrays["time"][0].tolist() == [float(row["MJD"]) for row in rows]
        assert arrays["flux"][0].tolist() == [float(np.float32(row["FLUXCAL"])) for row in rows]
        assert arrays["flux_err"][0].tolist() == [float(np.float32(row["FLUXCALERR"])) for row in rows]
        assert [band.bands[code] for code in arrays["band"][0]] == [row["band"] for row in rows]
        assert {len(curves[0]) for curves in arrays.values()} == {len(rows)}
        compared += len(rows)
    assert compared > 5000


@pytest.mark.parametrize("name", REAL)
def test_the_real_files_give_the_number_of_objects_that_the_survey_has(name: str, real_data: Path) -> None:
    survey, folder = SURVEYS[name], real_data / "raw" / name
    listed = survey.forms["snana"].member_list
    members = (folder / listed).read_text().split() if listed else None
    paths = [path for path in files_of(survey, folder) if members is None or path.name in members]
    found = [snana.read_objects(survey, "snana", path) for path in paths]
    ids = [object_id for objects in found for object_id in objects.table["object_id"].to_pylist()]
    assert len(ids) == REAL[name][1]
    assert len(ids) + sum(len(objects.skipped) for objects in found) == len(paths)
    repeated = {object_id for object_id in ids if ids.count(object_id) > 1}
    assert repeated == ({"2007sr"} if survey.repeated_ids else set())
    if name != "yse":  # the real files of YSE are a part of its release
        assert len(ids) == survey.expected_rows


def test_three_files_of_des_are_skipped_for_want_of_observations(real_data: Path) -> None:
    survey = SURVEYS["des_y3_sne_ia"]
    skipped = [snana.read_objects(survey, "snana", path).skipped for path in files_of(survey, real_data / "raw" / survey.name)]
    assert sorted(skip.object_id for skips in skipped for skip in skips) == ["1261086", "1280201", "1318142"]


def test_header_values_errors_and_placeholders_of_real_files(real_data: Path) -> None:
    def row(name: str, file: str) -> dict[str, Any]:
        (found,) = snana.read_objects(SURVEYS[name], "snana", real_data / "raw" / name / file).table.to_pylist()
        return dict(found)

    ps1 = row("ps1_sne_ia", "PS1_PSc000034.txt")
    assert (ps1["object_id"], ps1["ra"], ps1["dec"]) == ("000034", 36.066438, -3.186536)
    assert (ps1["host_log_mass"], ps1["host_log_mass_err"], ps1["mw_ebv_err"]) == (8.938, 0.669, 0.0004)
    des = row("des_y3_sne_ia", "des_real_01253039.dat")
    assert (des["host_log_mass"], des["host_log_mass_err"], des["sn_type"]) == (10.795, 0.1395, 1)
    assert des["host_mag"] == [None] * 4
    assert (des["host_photo_z"], des["host_photo_z_err"], des["host_object_id"]) == (None, None, None)
    csp = row("csp", "CSPDR3_2004ey.DAT")
    assert (csp["dec"], csp["peak_mjd"], csp["mw_ebv_err"]) == (0.444220, 53304.57, 0.020)
    yse = row("yse", "2019wqf.dat")
    assert (yse["host_log_mass"], yse["host_log_mass_err"]) == (11.571455832511958, 0.050053868909823336)
    masses = [
        snana.read_objects(SURVEYS["snls"], "snana", path).table for path in files_of(SURVEYS["snls"], real_data / "raw/snls")
    ]
    assert sum(table["host_log_mass"].null_count for table in masses) == 12
    assert all(table["host_log_mass_err"].null_count == table["host_log_mass"].null_count for table in masses)


GOOD = """SURVEY: PS1MD
SNID:  000010   # leading zeros stay
IAUC: UNKNOWN
RA: 36.5 deg
DECL: -3.25 deg
# a comment with NOBS: 99
HOSTGAL_LOGMASS: 10.786 +- 0.225   # OVERRIDE
REDSHIFT_CMB: 0.25 +0.02 -0.01
NOBS: 3
NVAR: 99
VARLIST: MJD FLT FIELD FLUXCAL FLUXCALERR MAG MAGERR

OBS: 55188.3 r NULL 2.5 0.5 -10 0.1
OBS: 55179.4 g NULL 1.25 0.25 -10 0.1  # last of its kind
OBS: 55100.1 r NULL -4.5 0.75 27.5 -1
"""
MEMBERS = SURVEYS["ps1_sne_ia"].members


def written(folder: Path, text: str) -> Path:
    path = folder / "PS1_PSc000010.txt"
    path.write_text(text)
    return path


def read(path: Path, object_id: str = "000010") -> dict[str, Any]:
    arrays = snana.read_arrays(SURVEYS["ps1_sne_ia"], "snana", path, np.array([0]), [object_id], MEMBERS)
    return {name: values[0].tolist() for name, values in arrays.items()}


def test_columns_are_found_by_name_and_nvar_is_not_trusted(tmp_path: Path) -> None:
    swapped = GOOD.replace("VARLIST: MJD FLT FIELD FLUXCAL FLUXCALERR MAG", "VARLIST: MJD FLT FIELD MAG FLUXCALERR FLUXCAL")
    assert read(written(tmp_path, GOOD))["flux"] == [1.25, -4.5, 2.5]
    assert read(written(tmp_path, swapped))["flux"] == [-10, 27.5, -10]


def test_observations_are_in_declared_band_order_then_time(tmp_path: Path) -> None:
    found = read(written(tmp_path, GOOD))
    assert (found["band"], found["time"]) == ([0, 1, 1], [55179.4, 55100.1, 55188.3])


def test_rows_may_repeat_and_members_may_be_few(tmp_path: Path) -> None:
    survey, path = SURVEYS["ps1_sne_ia"], written(tmp_path, GOOD)
    found = snana.read_arrays(survey, "snana", path, np.array([0, 0]), ["000010"] * 2, [survey.field("flux")])
    assert [values.tolist() for values in found["flux"]] == [[1.25, -4.5, 2.5]] * 2
    assert list(found) == ["flux"]


def test_an_asymmetric_error_is_kept_on_both_sides_and_never_taken_for_one_number(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(BrokenSource, match=r"asymmetric[\s\S]*REDSHIFT_CMB\[err_plus\]"):
        snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", path)
    model = SURVEYS["ps1_sne_ia"].model_dump(mode="json", by_alias=True)
    model["fields"] = [field for field in model["fields"] if field["name"] != "redshift_err"] + [
        {"name": f"redshift_{side}", "dtype": "float64", "from": {"snana": f"REDSHIFT_CMB[err_{side}]"}}
        for side in ("plus", "minus")
    ]
    for written_as in ("+0.02 -0.01", "+ 0.02 - 0.01", "+0.02/-0.01"):
        path = written(tmp_path, GOOD.replace("+0.02 -0.01", written_as))
        (row,) = snana.read_objects(Survey.model_validate(model), "snana", path).table.to_pylist()
        assert (row["redshift"], row["redshift_plus"], row["redshift_minus"]) == (0.25, 0.02, 0.01)
        assert (row["host_log_mass"], row["host_log_mass_err"]) == (10.786, 0.225)


def symmetric(text: str = GOOD) -> str:
    return text.replace("+0.02 -0.01", "+- 0.02")


def test_header_keys_that_are_missing_or_empty_are_null(tmp_path: Path) -> None:
    text = symmetric().replace("HOSTGAL_LOGMASS: 10.786 +- 0.225", "HOSTGAL_LOGMASS:").replace("+- 0.02", "")
    (row,) = snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", written(tmp_path, text)).table.to_pylist()
    assert (row["host_log_mass"], row["redshift"], row["redshift_err"], row["sn_type"]) == (None, 0.25, None, None)


def test_a_position_that_is_no_number_of_the_sphere_is_given_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, symmetric().replace("36.5 deg", "nan deg").replace("-3.25", "-93.25"))
    (row,) = snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", path).table.to_pylist()
    assert np.isnan(row["ra"])
    assert row["dec"] == -93.25


def test_a_file_without_observations_is_skipped_with_the_reason(tmp_path: Path) -> None:
    text = "".join(line for line in symmetric().splitlines(keepends=True) if not line.startswith("OBS"))
    found = snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", written(tmp_path, text.replace("NOBS: 3", "NOBS: 0")))
    assert len(found.table) == 0
    assert found.skipped == (Skipped(0, "000010", "no observations"),)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("55179.4 g NULL 1.25 0.25 -10 0.1", "55179.4 g NULL 1.25", ["line: 14", "column: FLUXCALERR", "words: 4"]),
        ("55179.4 g", "55179.4 5 g", ["line: 14", "words: 8"]),
        ("OBS: 55100.1 r NULL -4.5 0.75 27.5 -1\n", "", ["column: NOBS", "declared: 3", "found: 2"]),
        ("27.5 -1\n", "27.", ["line: 15", "column: MAGERR"]),
        ("SNID:", "NAME:", ["required header key", "column: SNID"]),
        ("DECL:", "DECLINATION:", ["required header key", "column: DECL"]),
        ("36.5 deg", "36.5.1 deg", ["not a number", "column: ra", "'36.5.1'"]),
        ("10.786 +-", "heavy +-", ["not a number", "column: host_log_mass", "'heavy'"]),
        ("OBS: 55188.3", "OBS 55188.3", ["line: 13", "KEY: value"]),
        ("NVAR: 99\n", "NVAR: 99\nVARLIST: MJD MJD\n", ["line: 11", "repeats a name"]),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    text = symmetric()
    assert text.count(old) >= 1
    path = written(tmp_path, text.replace(old, new, 1))
    with pytest.raises(BrokenSource) as caught:
        snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("NULL 1.25", "NULL 1.2.5", ["not a number", "line: 14", "column: FLUXCAL", "'1.2.5'"]),
        ("55179.4 g", "55179.4 q", ["unknown band", "column: band", "'q'"]),
        ("VARLIST: MJD FLT", "VARLIST: MJD COLOUR", ["declared column is missing", "column: band", "FLT"]),
        ("SNID:  000010", "SNID:  10", ["another object", "expected: 000010"]),
    ],
)
def test_broken_arrays_are_named_with_line_and_column(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    path = written(tmp_path, symmetric().replace(old, new, 1))
    with pytest.raises(BrokenSource) as caught:
        read(path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "PS1_PSc000010.txt"
    path.write_bytes(b"SNID: \xff\xfe\x00")
    with pytest.raises(BrokenSource, match="not text"):
        snana.read_objects(SURVEYS["ps1_sne_ia"], "snana", path)

"""Files of any survey for a list of positions, from the command line, with the truth about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from typer.testing import CliRunner

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.cli import app
from mmu_pipeline.errors import BadInput
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate import asked
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.sky import sky_at
from mmu_pipeline.simulate.survey_files import forms

SURVEYS = load_surveys()
PLACES = """ra,dec,kind,mag,pmra,pmdec
10.0,41.2,star,15.5,100,-50
10.1,41.3,star,16,0,0
359.9999,-89.5,galaxy,16.5,0,0
200.0,12.5,sn_host,16.5,0,0
"""


@pytest.fixture
def places(tmp_path: Path) -> Path:
    path = tmp_path / "places.csv"
    path.write_text(PLACES)
    return path


def test_surveys_see_the_places_with_their_own_errors(places: Path, tmp_path: Path) -> None:
    names = ["gaia", "twomass", "galah", "yse"]
    options = ["--out", str(tmp_path / "sky"), "--form", "raw", "--positions", str(places), "--json"]
    found = CliRunner().invoke(app, ["simulate", *names, *options])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert {(one["survey"], one["form"]): one["listed"] for one in told["written"]} == {
        ("gaia", "xp"): 2, ("twomass", "psc"): 4, ("galah", "fits"): 2, ("yse", "snana"): 1,
    }  # fmt: skip
    truth = pq.read_table(tmp_path / "sky/truth.parquet").to_pylist()
    detections = pq.read_table(tmp_path / "sky/detections.parquet")
    for row in detections.to_pylist():
        true, seen = truth[row["true_id"]], INSTRUMENTS[row["survey"]]
        assert true["kind"] in seen.kinds
        years = seen.epoch - 2016.0
        motion = [true[name] * years * units.mas for name in ("pmra", "pmdec")]
        moved = SkyCoord(true["ra"], true["dec"], unit="deg").spherical_offsets_by(*motion)
        off = SkyCoord(row["ra"], row["dec"], unit="deg").separation(moved).arcsec
        assert off <= 3 * seen.error_arcsec + true["sn_offset_arcsec"] + 1e-3
    psc = detections.filter([one == "twomass" for one in detections["survey"].to_pylist()])
    (path,) = (tmp_path / "sky/twomass/psc").glob("*.gz")
    table = reader("text_table").read_objects(SURVEYS["twomass"], "psc", path).table
    assert table["object_id"].to_pylist() == psc["object_id"].to_pylist()
    np.testing.assert_array_equal(table["ra"], psc["ra"])


def test_the_same_seed_gives_the_same_objects(places: Path) -> None:
    table = asked.read_positions(places)
    assert sky_at(table, 3).to_pandas().equals(sky_at(table, 3).to_pandas())
    assert sky_at(table, 3)["mag"].to_pylist() == [15.5, 16, 16.5, 16.5]


def test_a_word_stands_for_forms() -> None:
    assert asked.wanted_forms(["sdss"], "raw", SURVEYS) == [("sdss", "spec")]
    assert asked.wanted_forms(["sdss", "gaia"], "hats", SURVEYS) == [("sdss", "hats"), ("gaia", "hats")]
    assert asked.wanted_forms([], "all", SURVEYS) == forms()
    for names, form, what in ((["nosuch"], "raw", "unknown survey"), (["jwst"], "raw", "no files of jwst")):
        with pytest.raises(BadInput, match=what):
            asked.wanted_forms(names, form, SURVEYS)


@pytest.mark.parametrize(
    ("content", "what"),
    [("ra,mag\n1,2\n", "lacks a column"), ("ra,dec\n1,91\n", "not on the sphere"), ("ra,dec,colr\n1,2,3\n", "unknown column"),
     ("ra,dec,kind\n1,2,star\n", "none of the surveys")],
)  # fmt: skip
def test_a_list_that_is_of_no_use_is_refused(content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "places.csv"
    path.write_text(content)
    found = CliRunner().invoke(app, ["simulate", "yse", "--out", str(tmp_path / "sky"), "--positions", str(path)])
    assert what in str(found.exception)

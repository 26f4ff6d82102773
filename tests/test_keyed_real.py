"""Joins by key of real catalogues: benchmark stars by Hipparcos number, LAMOST spectra by obsid, the best one of each star."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, stage_receipts, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from tests.tiny import recipe_yaml, survey_yaml

HIP = {"name": "hip", "dtype": "int32", "from": "hip_int"}


def table_survey(folder: Path, name: str, url: Path, form: dict[str, Any], fields: list[dict[str, Any]], **changes: Any) -> None:
    survey_yaml(folder / "surveys", name, url, modality="table", partition_order=0, fields=fields, **changes)
    path = folder / f"surveys/{name}.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "forms": {"table": {"url": str(url), **form}}}))


def samples(folder: Path, sources: dict[str, Path] | None = None, root: str = "root", **recipe: Any) -> list[dict[str, Any]]:
    """Build a recipe; its samples."""
    path = recipe_yaml(folder, "real", **recipe)
    build = prepare(str(path), root=str(folder / root), survey_dirs=[folder / "surveys"],
                    sources={name: str(place) for name, place in (sources or {}).items()})  # fmt: skip
    for stage in STAGES:
        outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
        assert [outcome.receipt.reason for outcome in outcomes if outcome.status == "set_aside"] == []
        finish_stage(stage, build, outcomes)
    for receipt in stage_receipts(build, "match"):
        assert receipt.rows_in == receipt.facts["primaries"] + sum(receipt.skipped.values())
    return pq.read_table(Path(publish(build).url) / "index/samples.parquet").to_pylist()


def fits_frame(path: Path, columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({name.lower(): Table.read(path)[name].tolist() for name in columns})


@pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_benchmark_stars_are_joined_by_their_number_however_far_they_moved(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "catalogs/gbs_v3_gaia_2mass_allwise/individual_crossmatches"
    names = {"gdr3": ("gbs_v3_gaiadr3-result.fits", "source_id"), "tmass": ("gbs_v3_tmass-result.fits", "DESIGNATION")}
    for name, (file, object_id) in names.items():
        form = {"reader": "fits_table", "files": [file], "object_id": object_id}
        table_survey(tmp_path, name, folder, form, [HIP])
    gaia, tmass = (fits_frame(folder / file, ["hip_int", object_id, "ra", "dec"]) for file, object_id in names.values())
    expected = gaia.merge(tmass, on="hip_int", suffixes=("", "_2"))
    assert len(expected) > 170
    places = [SkyCoord(expected[f"ra{end}"].to_numpy() * u.deg, expected[f"dec{end}"].to_numpy() * u.deg) for end in ("", "_2")]
    separation = places[0].separation(places[1]).arcsec

    other = {"survey": "tmass", "on": {"hip": "hip"}, "how": "inner"}
    found = {row["gdr3_object_id"]: row for row in samples(tmp_path, primary={"survey": "gdr3"}, counterparts=[other])}
    assert found.keys() == set(expected["source_id"].astype(str))
    for name, designation, apart in zip(expected["source_id"].astype(str), expected["designation"], separation, strict=True):
        assert found[name]["tmass_object_id"].strip() == designation.strip()
        assert found[name]["tmass_separation_arcsec"] == pytest.approx(apart, abs=1e-6)

    near = samples(tmp_path, root="near", primary={"survey": "gdr3"}, counterparts=[{**other, "radius_arcsec": 3.0}])
    assert {row["gdr3_object_id"] for row in near} == set(expected["source_id"].astype(str)[separation <= 3.0])
    assert len(near) < 100, "without motion half of the stars are further away"


def test_the_best_spectrum_of_each_star_by_obsid(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "raw/lamost"
    form = {"reader": "text_table", "files": ["*.csv"], "object_id": "combined_obsid", "ra": "combined_ra_obs",
            "dec": "combined_dec_obs"}  # fmt: skip
    fields = [{"name": "star", "dtype": "string", "from": "GroupID"}, {"name": "g", "dtype": "float32", "from": "combined_snrg"}]
    table_survey(tmp_path, "observed", folder, form, fields, object_key="star", quality="g desc")
    frame = pd.read_csv(folder / "20220313_snrg_30_Grpeddata_CCF_test.csv")
    best = frame.loc[frame.groupby("GroupID")["combined_snrg"].idxmax()]
    spectra = {str(fits.getheader(path)["OBSID"]) for path in folder.glob("spec-*.fits*")}
    assert len(spectra) == 62

    found = samples(
        tmp_path, {"lamost": folder}, primary={"survey": "observed", "repeats": "best"},
        counterparts=[{"survey": "lamost", "on": {"object_id": "object_id"}, "how": "inner"}],
    )  # fmt: skip
    assert {row["observed_object_id"] for row in found} == set(best["combined_obsid"].astype(str)) & spectra
    assert len(found) > 10
    for row in found:
        assert row["lamost_object_id"] == row["observed_object_id"]
        assert row["lamost_snrg"] == pytest.approx(row["observed_g"], abs=0.01)
        assert row["lamost_separation_arcsec"] < 0.1

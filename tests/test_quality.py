"""What a build says of its matches: the same however the sky is cut, in the manifest, on card and page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.table import Table

from mmu_pipeline.astrometry import position_errors
from mmu_pipeline.catalog import Counterpart, Recipe, Selection, Survey, has_normalised
from mmu_pipeline.chance import Probe, along_the_sky, count
from mmu_pipeline.errors import BadInput
from mmu_pipeline.report.page import build_report
from mmu_pipeline.separations import assess
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.stages.quality import quality_path, sampling
from tests.test_match_stage import survey
from tests.tiny import recipe_yaml, survey_yaml, write_cells

SIGMA, TRUE = 0.3, 0.8


def sky(folder: Path, **recipe: object) -> Path:
    """1500 objects across a corner of cells, four of five seen again with a scatter of 0.3 arcsec, and 3000 others."""
    rng = np.random.default_rng(5)
    ra, dec = 45 + rng.uniform(-1, 1, 1500), rng.uniform(-1, 1, 1500)
    seen = slice(0, int(TRUE * 1500))
    east, north = rng.normal(0, SIGMA / 3600, (2, seen.stop))
    others = 45 + rng.uniform(-1, 1, 3000), rng.uniform(-1, 1, 3000)
    right, up = np.concatenate([ra[seen] + east, others[0]]), np.concatenate([dec[seen] + north, others[1]])
    write_cells(folder / "one", ra, dec, [f"A{number}" for number in range(len(ra))])
    write_cells(folder / "two", right, up, [f"B{number}" for number in range(len(right))])
    for name in ("one", "two"):
        survey_yaml(folder / "surveys", name, folder / name)
    counterparts = [{"survey": "two", "radius_arcsec": 1.0, "how": "left"}]
    return recipe_yaml(folder, "r", primary={"survey": "one"}, counterparts=counterparts, **recipe)


def prepared(folder: Path, root: str, **changes: object) -> Build:
    build = prepare(str(folder / "r.yaml"), root=str(folder / root), survey_dirs=[folder / "surveys"])
    return Build(**{**vars(build), **changes})


def run(build: Build, stages: tuple[str, ...] = STAGES[: STAGES.index("samples")]) -> Build:
    for stage in stages:
        finish_stage(stage, build, [run_unit(unit, build) for unit in units_of(stage, build)])
    return build


def test_what_was_put_in_is_found_and_shown(tmp_path: Path) -> None:
    sky(tmp_path)
    build = run(prepared(tmp_path, "root"), STAGES)
    quality = build.root.read_json(quality_path(build.recipe))["two"]
    sigma, share = quality["fit"]["sigma_arcsec"], quality["fit"]["true_fraction"]
    assert sigma["value"] == pytest.approx(SIGMA, abs=4 * sigma["error"])
    assert share["value"] == pytest.approx(TRUE, abs=4 * share["error"])
    density = 4200 / (2 * 60) ** 2
    assert quality["chance_per_arcmin2"]["value"] == pytest.approx(density, abs=4 * quality["chance_per_arcmin2"]["error"])
    assert (quality["primaries"], quality["one_of"], quality["shifts"]) == (1500, 1, {"places": 6, "arcsec": 60.0})
    published = publish(build)
    manifest = build.root.read_json(f"shards/r/{published.version}/manifest.json")
    assert manifest["matches"]["two"] == quality
    card = build.root.read_bytes(f"shards/r/{published.version}/README.md").decode()
    assert "## Matches" in card
    assert f"{100 * quality['false_rate']['value']:.2g} ±" in card
    page = build_report(published.url, tmp_path / "page.html").read_text()
    assert "by chance" in page


def test_the_cut_of_the_sky_does_not_matter(tmp_path: Path) -> None:
    sky(tmp_path, chance={"sample": 400, "seed": 3})
    whole, strips = run(prepared(tmp_path, "root")), run(prepared(tmp_path, "strips", match_rows=300))
    orders = [{unit.name.split("/")[1][0] for unit in units_of("match", build)} for build in (whole, strips)]
    assert orders == [{"0"}, {"4"}]
    found = whole.root.read_json(quality_path(whole.recipe))
    assert found == strips.root.read_json(quality_path(strips.recipe))
    assert found["two"]["one_of"] == 4
    assert 250 < found["two"]["primaries"] < 500


def test_a_build_of_some_cells_tells_the_quality_of_its_own_match_alone(tmp_path: Path) -> None:
    sky(tmp_path)
    whole = prepared(tmp_path, "root", match_rows=300)
    cells = [unit.cell for unit in units_of("match", run(whole, ("scan", "objects", "keys")))]
    for cell in cells[:2]:
        build = run(Build(**{**vars(whole), "cells": frozenset([cell])}), STAGES)
        published = publish(build)
        assert published.samples > 0
        quality = build.root.read_json(quality_path(build.recipe))
        assert build.root.read_json(f"shards/r/{published.version}/manifest.json")["matches"] == quality
        assert quality["two"]["primaries"] == published.samples


@pytest.mark.parametrize("chance", [{"shifts": 0}, {}])
def test_nothing_is_measured_where_not_asked_for_or_with_a_wide_radius(tmp_path: Path, chance: dict[str, object]) -> None:
    path = sky(tmp_path, chance=chance)
    if not chance:
        path.write_text(path.read_text().replace("radius_arcsec: 1.0", "radius_arcsec: 600.0"))
    build = run(prepared(tmp_path, "root"))
    assert build.root.read_json(quality_path(build.recipe)) == {}


def test_shifts_within_the_match_are_refused(tmp_path: Path) -> None:
    sky(tmp_path, chance={"shift_arcsec": 4.0})
    with pytest.raises(BadInput, match="less than five radii"):
        prepared(tmp_path, "root")


def test_a_sample_holds_no_more_than_is_said() -> None:
    recipe = Recipe(name="r", primary=Selection(survey="one"))
    for primaries, halvings in ((0, 0), (50_000, 0), (50_001, 1), (750_000_000, 14)):
        assert sampling(recipe, primaries).halvings == halvings


def test_separations_are_told_in_units_of_the_errors_of_both(tmp_path: Path) -> None:
    errors = [{"name": "err", "dtype": "float32", "unit": "mas"}, {"name": "err2", "dtype": "float32", "unit": "arcsec"}]
    plain = survey("one").model_dump(by_alias=True) | {"fields": errors}
    declared = Survey.model_validate(plain | {"position_error": ["err", "err2"]})
    near = Counterpart(survey="two", radius_arcsec=1.0)
    assert has_normalised(near, declared, declared)
    assert not has_normalised(near, declared, survey("two"))
    table = pa.table({"err": pa.array([300.0, None, 0.0], pa.float32()), "err2": pa.array([0.4, 0.1, 0.0], pa.float32())})
    found = position_errors(table, declared)
    assert found[0] == pytest.approx(np.hypot(0.3, 0.4) / np.sqrt(2))
    assert np.isnan(found[1:]).all()
    with pytest.raises(ValueError, match="not a column of angles"):
        Survey.model_validate(plain | {"position_error": ["err", "mag"]})


def test_normalised_separations_follow_a_rayleigh_distribution(tmp_path: Path) -> None:
    sky(tmp_path)
    # The magnitude of the tiny surveys stands in for an error of which two make up the scatter, in milliarcsec.
    form = {"scale": {"mmu_v1": 0.0}, "offset": {"mmu_v1": SIGMA * 1000 / 2**0.5}}
    for name in ("one", "two"):
        field = {"name": "mag", "dtype": "float32", "unit": "mas", **form}
        survey_yaml(tmp_path / "surveys", name, tmp_path / name, position_error=["mag", "mag"], fields=[field])
    build = run(prepared(tmp_path, "root"), STAGES)
    published = publish(build)
    index = build.root.read_table(f"shards/r/{published.version}/index/samples.parquet")
    normalised, separation = index["two_normalised_separation"], index["two_separation_arcsec"]
    assert normalised.null_count == separation.null_count > 0
    np.testing.assert_allclose(normalised.drop_null(), np.array(separation.drop_null()) / SIGMA, rtol=1e-6)
    assert np.median(normalised.drop_null()) == pytest.approx(np.sqrt(2 * np.log(2)), abs=0.1)


def test_gaia_and_2mass_around_hd219829(real_data: Path) -> None:
    folder = real_data / "catalogs" / "gaia_2mass_hd219829"
    gaia, tmass = (Table.read(folder / name) for name in ("gaia_results.fits", "2MASS_results.ecsv"))
    ra, dec = (np.array(tmass[name], float) for name in ("RAJ2000", "DEJ2000"))
    counts = count(np.array(gaia["ra"], float), np.array(gaia["dec"], float), along_the_sky(ra, dec)[0], 2.0, Probe(6, 60.0))
    found = assess(counts, 6, "nearest")
    assert counts.primaries == 4876
    # 5014 sources of 2MASS lie in the same field of 0.69 degrees' radius, in which a primary's shifted places lie as well.
    assert found.chance_per_arcmin2.value == pytest.approx(2.2, abs=0.3)
    assert found.fit.sigma_arcsec is not None
    assert 0.1 < found.fit.sigma_arcsec.value < 0.25  # 2MASS is good to some 0.1 arcsec; 16 years of motion come on top
    assert 0.0005 < found.false_rate.value < 0.005
    assert found.fit.chi2 > 10 * found.fit.degrees_of_freedom  # one scatter does not fit stars of all motions and magnitudes

"""`mmu plan`: footprints, overlap and matches before any array is read, and what it costs to ask."""

from __future__ import annotations

import json
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
from mocpy import MOC
from typer.testing import CliRunner

from mmu_pipeline import cli
from mmu_pipeline.footprint import SKY_DEG2, fitting_order, occupied, of_cells, of_ranges, shared
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.sky import healpix29, pixels_at
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.overview import Plan, plan
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from tests.tiny import recipe_yaml, survey_yaml, write_cells

CELL_DEG2 = SKY_DEG2 / 3072


def sky(folder: Path, url: str | None = None, **recipe: object) -> None:
    """Two surveys that overlap by half: `one` from right ascension 40 to 46, `two` from 43 to 49."""
    rng = np.random.default_rng(3)
    for name, start, size in (("one", 40.0, 4000), ("two", 43.0, 1000)):
        ra, dec = rng.uniform(start, start + 6, size), rng.uniform(-3, 3, size)
        write_cells(folder / "data" / name, ra, dec, [f"{name[0].upper()}{number}" for number in range(size)])
        survey_yaml(folder / "surveys", name, Path(name))
        text = (folder / "surveys" / f"{name}.yaml").read_text()
        (folder / "surveys" / f"{name}.yaml").write_text(text.replace(f"url: {name}", f"url: {url or folder / 'data'}/{name}"))
    counterparts = [{"survey": "two", "radius_arcsec": 60.0, "how": "inner"}]
    recipe_yaml(folder, "r", primary={"survey": "one"}, counterparts=counterparts, **recipe)


def prepared(folder: Path) -> Build:
    return prepare(
        str(folder / "r.yaml"), root=str(folder / "root"), survey_dirs=[folder / "surveys"], cache=str(folder / "cache")
    )


def run(build: Build, last: str) -> None:
    for stage in STAGES[: STAGES.index(last) + 1]:
        finish_stage(stage, build, [run_unit(unit, build) for unit in units_of(stage, build)])


def asked(folder: Path, *more: str) -> list[str]:
    return ["plan", str(folder / "r.yaml"), "--root", str(folder / "root"), "--survey-dir", str(folder / "surveys"), *more]


def test_a_plan_reads_listings_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data") as served:
        sky(tmp_path, served.url)
        done = CliRunner().invoke(cli.app, asked(tmp_path, "--json"), catch_exceptions=False)
        assert done.exit_code == 0
        assert served.requests
        assert not [path for path in served.requests if path.endswith((".hdf5", ".h5"))]
    found = json.loads(done.stdout)
    cells = {name: {int(path.name[8:]) for path in (tmp_path / "data" / name).iterdir()} for name in ("one", "two")}
    assert found["overlap_deg2"] == pytest.approx(len(cells["one"] & cells["two"]) * CELL_DEG2, abs=1e-3)
    assert [survey["footprint_order"] for survey in found["surveys"]] == [4, 4]
    assert MOC.from_json(found["surveys"][0]["moc"]) == MOC.from_healpix_cells(np.array(sorted(cells["one"])), np.uint8(4), 4)
    assert found["matches_are"] == "expected at most"
    assert {cell["cell"] for cell in found["cells"]} == cells["one"]
    assert all(cell["matches"]["two"] == 0 for cell in found["cells"] if cell["cell"] not in cells["two"])
    assert not (tmp_path / "root").exists()


def test_object_tables_make_footprints_finer_and_rows_exact(tmp_path: Path) -> None:
    sky(tmp_path)
    build = prepared(tmp_path)
    listed = plan(build)
    assert listed.surveys[0].rows is None
    assert 4000 / 2.5 < (listed.surveys[0].estimated_rows or 0) < 4000 * 2.5  # from the size of small files
    run(build, "objects")
    found = plan(build)
    assert [survey.rows for survey in found.surveys] == [4000, 1000]
    assert found.surveys[0].footprint_order == 7
    assert found.surveys[0].area_deg2 == pytest.approx(36, rel=0.25)
    assert listed.surveys[0].area_deg2 > found.surveys[0].area_deg2
    assert found.prospect.overlap is not None
    assert found.prospect.overlap.area_deg2 == pytest.approx(18, rel=0.3)
    # Half of the thousand lie in the other's sky, which has two thousand there.
    assert found.prospect.matches["two"] == pytest.approx(500, rel=0.15)
    assert not found.prospect.matched
    run(build, "match")
    counted = plan(build)
    receipts = [json.loads(path.read_text()) for path in (tmp_path / "root/receipts/match/r").glob("*.json")]
    assert counted.prospect.matches["two"] == sum(receipt["facts"]["matched"]["two"] for receipt in receipts) > 0
    assert counted.prospect.matched


def test_the_best_cells_come_first(tmp_path: Path) -> None:
    sky(tmp_path)
    build = prepared(tmp_path)
    run(build, "match")
    cells = plan(build).prospect.cells
    rates = [cell.per_gb or 0.0 for cell in cells]
    assert rates == sorted(rates, reverse=True)
    best = cells[0]
    assert best.nbytes == 2 * best.complete * 128  # two images of 2 x 4 x 4 float32 each
    assert best.per_gb == pytest.approx(best.complete / (best.nbytes / 1e9))


def test_people_see_a_table_a_map_and_a_moc(tmp_path: Path) -> None:
    sky(tmp_path)
    run(prepared(tmp_path), "objects")
    more = ["--moc", str(tmp_path / "overlap.fits"), "--figure", str(tmp_path / "map.png"), "--top", "2"]
    done = CliRunner().invoke(cli.app, asked(tmp_path, *more), catch_exceptions=False)
    assert done.exit_code == 0
    assert "of sky are in all surveys" in done.stdout
    assert "--json gives all" in done.stdout
    found: Plan = plan(prepared(tmp_path))
    assert found.prospect.overlap is not None
    assert MOC.from_fits(str(tmp_path / "overlap.fits")) == found.prospect.overlap.moc
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_the_command_sizes_a_build_for_nodes(tmp_path: Path) -> None:
    sky(tmp_path)
    done = CliRunner().invoke(cli.app, asked(tmp_path, "--nodes", "10", "--workers-per-node", "4"), catch_exceptions=False)
    assert done.exit_code == 0
    for said in ("10 x 4 workers", "shards of one version", "a node for its workers", "check"):
        assert said in done.stdout
    found = json.loads(CliRunner().invoke(cli.app, asked(tmp_path, "--nodes", "10", "--json"), catch_exceptions=False).stdout)
    assert [stage["load"]["stage"] for stage in found["estimate"]["stages"]] == [
        "scan",
        "objects",
        "match",
        "samples",
        "shards",
        "check",
    ]
    assert found["estimate"]["fitted"] == []


def test_a_survey_that_is_not_cut_by_cell_has_no_footprint_before_its_scan(tmp_path: Path) -> None:
    sky(tmp_path)
    path = tmp_path / "surveys" / "two.yaml"
    path.write_text(path.read_text().replace("cut_by_cell: true", "cut_by_cell: false") + "expected_rows: 1000\n")
    done = CliRunner().invoke(cli.app, asked(tmp_path), catch_exceptions=False)
    assert "not scanned yet" in done.stdout
    build = prepared(tmp_path)
    assert plan(build).prospect.overlap is None
    done = CliRunner().invoke(cli.app, asked(tmp_path, "--moc", str(tmp_path / "overlap.fits")))
    assert "not known before a scan" in str(done.exception)
    run(build, "objects")
    assert plan(build).prospect.overlap is not None


def test_footprints_are_what_brute_force_says() -> None:
    rng = np.random.default_rng(4)
    index = np.sort(healpix29(rng.uniform(10, 12, 500), rng.uniform(5, 6, 500)))
    ranges = occupied(index)
    assert {pixel for start, stop in ranges for pixel in range(start, stop)} == set(pixels_at(index, 8).tolist())
    for order in (4, 6, 8):
        footprint = of_ranges(ranges, 8, order)
        assert footprint.order == order
        assert set(np.flatnonzero(footprint.mask).tolist()) == set(pixels_at(index, order).tolist())
        assert footprint.area_deg2 == pytest.approx(footprint.mask.sum() * hp.nside2pixarea(1 << order, degrees=True))
    both = shared([of_ranges(ranges, 8, 8), of_cells(np.unique(pixels_at(index, 4))[:1])])
    assert both.order == 8
    assert both.by_cell.max() == pytest.approx(both.mask.sum() / 256)
    assert occupied(np.empty(0, np.int64)) == []
    assert [fitting_order(np.array([rows])) for rows in (0, 3, 16, 64, 10**6)] == [4, 4, 5, 6, 8]

"""LSDB follows the match table: every pair comes back, across borders too, and strict validation passes."""

from __future__ import annotations

import warnings
from pathlib import Path

import healpy as hp
import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hats.io.validation import is_valid_catalog
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from mmu_pipeline import cli
from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import arcsec, pixels_at, unit_vectors
from mmu_pipeline.stages import margins
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.pipeline import finish_stage, margin_units, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from tests.skies import centres, scattered
from tests.tiny import recipe_yaml, survey_yaml, write_cells


def matched(folder: Path, counterparts: list[dict[str, object]], orders: dict[str, int]) -> Build:
    """Stars in pairs and triples along the borders and corners of cells, in several surveys, matched."""
    rng = np.random.default_rng(11)
    points = np.concatenate([centres(kind, rng, 4) for kind in ("borders", "corners", "north pole", "where seven cells meet")])
    for name, order in orders.items():
        ra, dec = scattered(rng, np.repeat(points, 2, axis=0), 1.5)
        ids = [f"{name[0].upper()}{number}" for number in range(len(ra))]
        write_cells(folder / name, list(ra), list(dec), ids)
        survey_yaml(folder / "surveys", name, folder / name, partition_order=order)
    recipe = recipe_yaml(folder, "r", primary={"survey": "one"}, counterparts=counterparts)
    build = prepare(str(recipe), root=str(folder / "root"), survey_dirs=[folder / "surveys"])
    for stage in STAGES[: STAGES.index("samples")]:
        finish_stage(stage, build, [run_unit(unit, build) for unit in units_of(stage, build)])
    return build


def pairs_by_lsdb(build: Build, association: str, survey: str) -> list[tuple[str, str]]:
    """Ids of the pairs that a join through an association gives, where LSDB has no warning to say about margins."""
    (margin,) = Path(build.root.path("objects")).glob(f"{survey}_margin_*")
    left = lsdb.open_catalog(build.root.path("objects/one"))
    right = lsdb.open_catalog(build.root.path(f"objects/{survey}"), margin_cache=margin)
    through = lsdb.read_hats(build.root.path(association))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=RuntimeWarning, message=".*(margin|separation).*")
        found = left.join(right, through=through, suffixes=("_left", "_right"), suffix_method="all_columns").compute()
    assert f"{survey}_separation_arcsec" in found.columns
    return sorted(zip(found["object_id_left"], found["object_id_right"], strict=True))


def whole(build: Build, catalog: str) -> pa.Table:
    folder = build.root.at(f"{catalog}/dataset")
    files = Path(folder.url).rglob("Npix*")
    return pa.concat_tables(folder.read_table(str(file.relative_to(folder.url))) for file in files)


def pairs_of(build: Build, survey: str) -> list[tuple[str, str]]:
    table = whole(build, "matches/r")
    table = table.filter(pc.is_valid(table[f"{survey}_object_id"]))
    return sorted(set(zip(table["one_object_id"].to_pylist(), table[f"{survey}_object_id"].to_pylist(), strict=True)))


@pytest.mark.parametrize("orders", [{"one": 4, "two": 4}, {"one": 3, "two": 5}, {"one": 5, "two": 2}])
def test_lsdb_gives_every_pair_back(tmp_path: Path, orders: dict[str, int]) -> None:
    build = matched(tmp_path, [{"survey": "two", "radius_arcsec": 2.0, "pick": "all"}], orders)
    asked = [str(tmp_path / "r.yaml"), "--root", build.root.url, "--survey-dir", str(tmp_path / "surveys"), "--json"]
    done = CliRunner().invoke(cli.app, ["margins", *asked], catch_exceptions=False)
    assert done.exit_code == 0
    assert "objects/two_margin_2arcsec" in done.stdout
    expected = pairs_of(build, "two")
    assert len(expected) > 30
    assert pairs_by_lsdb(build, "matches/r", "two") == expected
    for catalog in ("objects/one", "objects/two", "objects/two_margin_2arcsec", "matches/r"):
        assert is_valid_catalog(build.root.path(catalog), strict=True), catalog


def test_of_several_counterparts_each_has_its_association(tmp_path: Path) -> None:
    counterparts = [
        {"survey": "two", "radius_arcsec": 2.0, "pick": "all", "how": "inner"},
        {"survey": "three", "radius_arcsec": 1.0, "pick": "all"},
    ]
    build = matched(tmp_path, counterparts, {"one": 4, "two": 4, "three": 4})
    units = margin_units(build)
    written = margins.finish(build, [run_unit(unit, build) for unit in units])
    assert [Path(url).name for url in written] == ["two_margin_2arcsec", "three_margin_1arcsec"]
    for survey in ("two", "three"):
        assert pairs_by_lsdb(build, f"associations/r/{survey}", survey) == pairs_of(build, survey)
        assert is_valid_catalog(build.root.path(f"associations/r/{survey}"), strict=True)
    assert is_valid_catalog(build.root.path("matches/r"), strict=True)
    assert {outcome.status for outcome in (run_unit(unit, build) for unit in units)} == {"reused"}


def test_a_margin_holds_all_rows_within_it_and_few_beyond(tmp_path: Path) -> None:
    build = matched(tmp_path, [{"survey": "two", "radius_arcsec": 2.0}], {"one": 4, "two": 4})
    rows = whole(build, "objects/two")
    here = unit_vectors(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    checked = 0
    for unit in margin_units(build, 10.0)[:40]:
        receipt, margin = run_unit(unit, build).receipt, unit.inputs[0]
        held = set(build.root.read_table(margin.path)["object_id"].to_pylist()) if receipt.rows_out else set()
        edge = cKDTree(hp.boundaries(16, margin.cell.pixel, step=8192, nest=True).T)  # a point every 1.6 arcsec
        away = arcsec(edge.query(here)[0])
        outside = pixels_at(rows["_healpix_29"].to_numpy(), 4) != margin.cell.pixel
        ids = np.array(rows["object_id"].to_pylist())
        assert set(ids[outside & (away <= 9.9)]) <= held <= set(ids[outside & (away <= 100.0)])
        checked += len(held)
    assert checked


def test_a_margin_wider_than_a_partition_is_refused(tmp_path: Path) -> None:
    build = matched(tmp_path, [{"survey": "two", "radius_arcsec": 2.0}], {"one": 4, "two": 4})
    with pytest.raises(BadInput, match="wider than a partition"):
        margin_units(build, 20000.0)

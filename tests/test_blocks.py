"""Blocks and strips: however the sky is cut into work, the match is the one of brute force, and memory follows the cut."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hats.io.validation import is_valid_catalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmu_pipeline.candidates import Positions
from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey
from mmu_pipeline.fields import Field
from mmu_pipeline.receipt import Receipt, write_receipt
from mmu_pipeline.sky import CELL_ORDER, Cell, pixels_at
from mmu_pipeline.stages.build import Build, Outcome, Source
from mmu_pipeline.stages.match_units import match_units, sample_units
from mmu_pipeline.stages.pipeline import finish_stage, run_unit
from mmu_pipeline.stages.receipts import write_stage
from mmu_pipeline.stages.scan import counts_of, object_schema
from mmu_pipeline.stages.tiling import tiles
from mmu_pipeline.storage import Root, object_folder, partition_path
from tests.skies import KINDS, brute_force, centres, object_table, scattered

SKIES = int(os.environ.get("MMU_RANDOM_SKIES", "40"))
"""Random skies of the property test."""


def survey(name: str, order: int, precision: float = 0.0) -> Survey:
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True, position_precision_arcsec=precision)
    return Survey(
        name=name, title=name, modality="table", release="1", summary="", forms={"cells": form},
        fields=(Field(name="mag", dtype="float32"),), licence="CC0", citation="none", partition_order=order,
    )  # fmt: skip


def stored(folder: Path, tables: dict[str, pa.Table], surveys: dict[str, Survey], recipe: Recipe, **options: object) -> Build:
    """A build whose object tables are there, with their receipts."""
    build = Build(recipe, surveys, {name: Source("cells", "nowhere") for name in tables}, Root(str(folder)), **options)  # type: ignore[arg-type]
    receipts = []
    for name, table in tables.items():
        order = surveys[name].partition_order
        pixels = pixels_at(table["_healpix_29"].to_numpy(), order)
        for pixel in np.unique(pixels).tolist():
            part = table.filter(pa.array(pixels == pixel)).cast(object_schema(surveys[name]))
            path = partition_path(object_folder(name), Cell(order, pixel))
            build.root.write_table(path, part)
            facts = {"cells": counts_of(pixels_at(part["_healpix_29"].to_numpy(), CELL_ORDER))}
            print_of = str(hash((name, pixel, tuple(part["object_id"].to_pylist()))))
            size = build.root.size(path) or 0
            receipt = Receipt("objects", f"{name}/{pixel}", print_of, rows_out=len(part), outputs={path: size}, facts=facts)
            receipts.append(write_receipt(build.root, receipt))
    write_stage(build, "objects", receipts)
    return build


def matched(build: Build) -> list[Outcome]:
    outcomes = [run_unit(unit, build) for unit in match_units(build)]
    assert all(outcome.status != "set_aside" for outcome in outcomes), [outcome.receipt.reason for outcome in outcomes]
    for unit, cells in ((outcome.unit, outcome.receipt.facts["cells"]) for outcome in outcomes):
        assert {int(cell) - (unit.cell or 0) for cell in cells} <= set(range(unit.cells))
    finish_stage("match", build, outcomes)
    return outcomes


def match_files(build: Build) -> dict[str, bytes]:
    """Every file of the match table."""
    folder = Path(build.root.path(f"matches/{build.recipe.name}/dataset"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("Npix=*"))}


def match_table(build: Build) -> pa.Table:
    parts = [build.root.read_table(path) for o in matched(build) for path in o.receipt.outputs if path.startswith("matches/")]
    return (
        pa.concat_tables(parts).sort_by([("_healpix_29", "ascending"), ("one_object_id", "ascending")]) if parts else pa.table({})
    )


def with_mag(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    values = rng.integers(0, 4, len(table)).astype(np.float32)
    return table.append_column("mag", pa.array(values, mask=values == 3))


def random_sky(rng: np.random.Generator, points: np.ndarray, size: int, spread: float, prefix: str) -> pa.Table:
    ra, dec = scattered(rng, points[rng.integers(len(points), size=size)], spread)
    if size > 3:  # coincident points
        ra[1], dec[1] = ra[0], dec[0]
    return with_mag(object_table(ra, dec, [f"{prefix}{number}" for number in rng.permutation(size)]), rng)


@settings(max_examples=SKIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    radius=st.sampled_from([0.1, 1.0, 60.0, 900.0, 3600.0]),
    pick=st.sampled_from(["nearest", "mutual", "all", "best: mag asc"]),
    orders=st.tuples(st.sampled_from([0, 3, 4, 6]), st.sampled_from([0, 4, 6])),
    match_rows=st.sampled_from([1, 4, 20, 1_000_000]),
)
def test_any_cut_of_the_sky_gives_the_pairs_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kind: str,
    radius: float,
    pick: str,
    orders: tuple[int, int],
    match_rows: int,
) -> None:
    rng = np.random.default_rng(seed)
    points = centres(kind, rng, 4)
    tables = {name: random_sky(rng, points, int(rng.integers(1, 30)), 1.5 * radius, name) for name in ("one", "two")}
    counterpart = Counterpart(survey="two", radius_arcsec=radius, pick=pick, how="left")
    recipe = Recipe(name="r", primary=Selection(survey="one"), counterparts=(counterpart,))
    surveys = {name: survey(name, order) for name, order in zip(tables, orders, strict=True)}
    build = stored(tmp_path_factory.mktemp("sky"), tables, surveys, recipe, match_rows=match_rows)
    found = match_table(build)
    one, two = tables["one"]["object_id"].to_pylist(), tables["two"]["object_id"].to_pylist()
    sides = [Positions(t["ra"].to_numpy(), t["dec"].to_numpy(), t["object_id"]) for t in tables.values()]
    preference = tables["two"]["mag"].to_numpy()
    rows = brute_force(*sides, radius, pick.partition(":")[0], preference)
    expected = {(one[i], two[j]) for i, j in rows}
    expected |= {(name, None) for name in set(one) - {pair[0] for pair in expected}}
    pairs = list(zip(found["one_object_id"].to_pylist(), found["two_object_id"].to_pylist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    cells = {name: dict(zip(ids, pixels_at(tables[name]["_healpix_29"].to_numpy(), CELL_ORDER), strict=True))
             for name, ids in (("one", one), ("two", two))}  # fmt: skip
    crosses = [None if j is None else bool(cells["one"][i] != cells["two"][j]) for i, j in pairs]
    assert found["two_crosses_border"].to_pylist() == crosses


def pair_recipe(**options: object) -> Recipe:
    counterpart = Counterpart.model_validate({"survey": "two", "radius_arcsec": 30.0, "pick": "mutual", **options})
    return Recipe(name="r", primary=Selection(survey="one"), counterparts=(counterpart,))


def dense(seed: int, rows: int = 4000) -> dict[str, pa.Table]:
    """Two catalogs in a few cells around RA 0, where four of them meet, half of each a pair."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(-1, 1, rows) % 360, rng.uniform(-1, 1, rows)
    here = object_table(ra, dec, [f"a{number}" for number in range(rows)])
    half = slice(0, rows // 2)
    there = object_table(
        (ra[half] + rng.normal(0, 3e-3, rows // 2)) % 360, dec[half], [f"b{number}" for number in range(rows // 2)]
    )
    return {"one": with_mag(here, rng), "two": with_mag(there, rng)}


def test_strips_of_any_size_give_the_same_bytes(tmp_path: Path) -> None:
    tables = dense(1)
    surveys = {"one": survey("one", 4), "two": survey("two", 2)}
    files = {}
    for rows in (1_000_000, 4000, 1000, 100):
        build = stored(tmp_path / str(rows), tables, surveys, pair_recipe(pick="all"), match_rows=rows)
        matched(build)
        files[rows] = match_files(build)
    assert list(files[1_000_000]) == ["Norder=0/Dir=0/Npix=4.parquet"]
    assert len(files[1000]) > 3
    assert files[1000] == files[100]


def test_blocks_cover_the_sky_once_and_hold_no_more_than_they_may() -> None:
    rng = np.random.default_rng(0)
    cells = np.where(rng.random(3072) < 0.3, rng.integers(0, 2000, 3072), 0)

    def rows(cell: Cell) -> float:
        shift = 2 * (CELL_ORDER - cell.order)
        return float(cells[cell.pixel << shift : (cell.pixel + 1) << shift].sum())

    blocks = tiles((Cell(0, pixel) for pixel in range(12)), rows, 5000, CELL_ORDER)
    assert sum(map(rows, blocks)) == cells.sum()
    assert all(rows(block) <= 5000 or block.order == CELL_ORDER for block in blocks)
    assert all(before.range[1] <= after.range[0] for before, after in pairwise(blocks))
    assert len({block.order for block in blocks}) > 1


def test_a_build_of_some_cells_leaves_the_rest_of_the_match_table(tmp_path: Path) -> None:
    tables = dense(2)
    surveys = {"one": survey("one", 4), "two": survey("two", 4)}
    build = stored(tmp_path, tables, surveys, pair_recipe(), match_rows=10)
    whole = match_table(build)
    before = match_files(build)
    cells = sorted({int(cell) for cell in pixels_at(tables["one"]["_healpix_29"].to_numpy(), CELL_ORDER)})
    assert len(cells) == 4

    coarse = replace(build, match_rows=1_000_000)
    assert match_table(coarse) == whole
    assert list(match_files(coarse)) == ["Norder=0/Dir=0/Npix=4.parquet"]

    part = replace(build, cells=frozenset(cells[:1]), match_rows=1_000_000)
    matched(part)
    assert list(match_files(part)) == [f"Norder=4/Dir=0/Npix={cells[0]}.parquet"]  # what overlapped with it is gone
    other = replace(part, cells=frozenset(cells[1:]))
    matched(other)
    assert match_files(other) == before  # beside what the build before left
    assert is_valid_catalog(other.root.path("matches/r"), strict=True)
    assert match_table(build) == whole


def test_samples_of_a_cell_depend_on_its_own_rows_alone(tmp_path: Path) -> None:
    tables = dense(3)
    surveys = {"one": survey("one", 4), "two": survey("two", 4)}

    def prints(folder: str, tables: dict[str, pa.Table], rows: int) -> dict[int, str]:
        build = stored(tmp_path / folder, tables, surveys, pair_recipe(), match_rows=rows)
        matched(build)
        return {unit.cell or 0: unit.fingerprint for unit in sample_units(build)}

    first = prints("first", tables, 1_000_000)
    assert prints("cut otherwise", tables, 1000) == first
    index = tables["two"]["_healpix_29"].to_numpy()
    changed = int(pixels_at(index, CELL_ORDER)[0])
    inside = np.flatnonzero(pixels_at(index, CELL_ORDER) == changed)
    middle = inside[len(inside) // 2]
    fewer = {"one": tables["one"], "two": tables["two"].filter(pa.array(np.arange(len(index)) != middle))}
    after = prints("changed", fewer, 1_000_000)
    differ = {cell for cell in first if first[cell] != after[cell]}
    matches = match_table(stored(tmp_path / "again", fewer, surveys, pair_recipe()))
    touching = set(pixels_at(matches["_healpix_29"].to_numpy(), CELL_ORDER)[
        pixels_at(matches["two_healpix29"].fill_null(0).to_numpy(), CELL_ORDER) == changed].tolist())  # fmt: skip
    assert changed in differ
    assert differ <= touching | {changed}


def test_coarse_positions_widen_the_search(tmp_path: Path) -> None:
    here = np.array([10.0])
    tables = {"one": object_table(here, here, ["p"]), "two": object_table(here, here + 1.05 / 3600, ["q"])}
    tables = {name: table.append_column("mag", pa.nulls(1, pa.float32())) for name, table in tables.items()}
    for precision, expected in ((0.0, None), (0.04, None), (0.06, "q")):
        surveys = {"one": survey("one", 4), "two": survey("two", 4, precision)}
        build = stored(tmp_path / str(precision), tables, surveys, pair_recipe(radius_arcsec=1.0))
        assert match_table(build)["two_object_id"].to_pylist() == [expected]


PEAK = """
import pickle, re, sys
from pathlib import Path
from mmu_pipeline.stages.match_units import match_units
from mmu_pipeline.stages.pipeline import run_unit

build = pickle.loads(Path(sys.argv[1]).read_bytes())
rows = sum(run_unit(unit, build).receipt.rows_out for unit in match_units(build))
print(rows, 1024 * int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


def test_memory_follows_the_strips_not_the_rows_of_a_cell(tmp_path: Path) -> None:
    peaks = {}
    for rows in (300_000, 1_200_000):
        tables = dense(4, rows)
        surveys = {"one": survey("one", 1), "two": survey("two", 1)}
        build = stored(tmp_path / str(rows), tables, surveys, pair_recipe(radius_arcsec=1.0, how="left"), match_rows=100_000)
        (tmp_path / "build").write_bytes(pickle.dumps(build))
        done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "build")], capture_output=True, text=True, check=True)
        found, peaks[rows] = map(int, done.stdout.split())
        assert found == rows
    assert peaks[1_200_000] - peaks[300_000] < 64 * 1024**2

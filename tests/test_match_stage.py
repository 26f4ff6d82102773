"""The match stage: the union over cells equals one brute-force match over the whole sky."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmu_pipeline.astrometry import widest_motion
from mmu_pipeline.candidates import Positions
from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey
from mmu_pipeline.hats import Partition
from mmu_pipeline.sky import CELL_ORDER, Cell, pixels_at
from mmu_pipeline.stages import match
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.match_table import match_schema
from mmu_pipeline.stages.match_units import moves_of
from mmu_pipeline.stages.quality import Sampling
from mmu_pipeline.stages.scan import object_schema
from mmu_pipeline.stages.skies import Sky
from mmu_pipeline.storage import Root, match_folder, object_folder, partition_path
from tests.skies import KINDS, brute_force, centres, object_table, scattered


def survey(name: str, order: int = 4) -> Survey:
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True)
    return Survey(
        name=name, title=name, modality="table", release="1", summary="", forms={"mmu_v1": form}, fields=(),
        licence="CC0", citation="none", partition_order=order,
    )  # fmt: skip


def store(root: Root, declared: Survey, table: pa.Table, order: int) -> tuple[Partition, ...]:
    """Write an object table as the partitions of a survey."""
    name, pixels = declared.name, pixels_at(table["_healpix_29"].to_numpy(), order)
    partitions = []
    for pixel in np.unique(pixels):
        path = partition_path(object_folder(name), Cell(order, int(pixel)))
        part = table.filter(pa.array(pixels == pixel)).cast(object_schema(declared))
        root.write_table(path, part)
        partitions.append(Partition(Cell(order, int(pixel)), path, len(part), ""))
    return tuple(partitions)


def run_match(
    folder: Path,
    recipe: Recipe,
    tables: dict[str, pa.Table],
    orders: dict[str, int],
    missing: dict[str, tuple[int, ...]],
    surveys: dict[str, Survey] | None = None,
) -> pa.Table:
    """The union of the match tables of all cells of the primary."""
    root = Root(str(folder))
    build = Build(recipe, surveys or {name: survey(name, orders[name]) for name in tables}, {}, root)
    motions = {name: [widest_motion(table, build.surveys[name])] for name, table in tables.items()}
    skies = tuple(
        Sky(name, store(root, build.surveys[name], table, orders[name]), missing.get(name, ()), moves_of(recipe, name, motions))
        for name, table in tables.items()
    )
    cells = np.unique(pixels_at(tables[recipe.primary.survey]["_healpix_29"].to_numpy(), CELL_ORDER))
    found = [match_schema(recipe, build.surveys).empty_table()]
    for cell in cells:
        unit = Unit("match", match.unit_name(recipe, Cell(CELL_ORDER, int(cell))), int(cell), inputs=(Sampling(0), *skies))
        receipt = match.run(unit, build)
        path = partition_path(match_folder(recipe.name), Cell(CELL_ORDER, int(cell)))
        assert (path in receipt.outputs) == bool(receipt.rows_out)
        if receipt.rows_out:
            found.append(root.read_table(path))
            assert receipt.rows_out == len(found[-1])
        assert receipt.rows_in == receipt.facts["primaries"] + sum(receipt.skipped.values())
    return pa.concat_tables(found)


def positions(table: pa.Table) -> Positions:
    return Positions(table["ra"].to_numpy(), table["dec"].to_numpy(), table["object_id"])


def random_sky(rng: np.random.Generator, points: np.ndarray, size: int, spread: float, prefix: str) -> pa.Table:
    ra, dec = scattered(rng, points[rng.integers(len(points), size=size)], spread)
    if size > 3:  # coincident points
        ra[1], dec[1] = ra[0], dec[0]
    return object_table(ra, dec, [f"{prefix}{number}" for number in rng.permutation(size)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    radius=st.sampled_from([1.0, 60.0, 3600.0]),
    pick=st.sampled_from(["nearest", "mutual", "all"]),
    how=st.sampled_from(["inner", "left"]),
    orders=st.tuples(st.sampled_from([0, 4, 6]), st.sampled_from([0, 4, 6])),
)
def test_union_over_cells_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str, radius: float, pick: str, how: str, orders: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    points = centres(kind, rng, 4)
    tables = {name: random_sky(rng, points, int(rng.integers(1, 25)), 1.5 * radius, name) for name in ("one", "two")}
    recipe = Recipe(
        name="r",
        primary=Selection(survey="one"),
        counterparts=(Counterpart(survey="two", radius_arcsec=radius, pick=pick, how=how),),
    )
    found = run_match(tmp_path_factory.mktemp("sky"), recipe, tables, dict(zip(tables, orders, strict=True)), {})
    one, two = tables["one"]["object_id"].to_pylist(), tables["two"]["object_id"].to_pylist()
    expected = {(one[i], two[j]) for i, j in brute_force(positions(tables["one"]), positions(tables["two"]), radius, pick)}
    if how == "left":
        expected |= {(name, None) for name in set(one) - {pair[0] for pair in expected}}
    pairs = list(zip(found["one_object_id"].to_pylist(), found["two_object_id"].to_pylist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected


def test_two_counterparts_with_all_give_every_combination(tmp_path: Path) -> None:
    here = np.array([45.0])
    tables = {
        "one": object_table(here, here, ["p"]),
        "two": object_table(np.repeat(here, 2), np.repeat(here, 2), ["a", "b"]),
        "three": object_table(np.repeat(here, 3), np.repeat(here, 3), ["x", "y", "z"]),
    }
    recipe = Recipe(
        name="r", primary=Selection(survey="one"),
        counterparts=tuple(Counterpart(survey=name, radius_arcsec=1.0, pick="all") for name in ("two", "three")),
    )  # fmt: skip
    found = run_match(tmp_path, recipe, tables, dict.fromkeys(tables, 4), {})
    pairs = set(zip(found["two_object_id"].to_pylist(), found["three_object_id"].to_pylist(), strict=True))
    assert pairs == {(a, b) for a in "ab" for b in "xyz"}
    assert found["three_rank"].to_pylist() == [1, 2, 3] * 2
    assert set(found["two_n_candidates"].to_pylist()) == {2}


@pytest.mark.parametrize("pick", ["nearest", "mutual"])
def test_objects_whose_counterpart_cell_was_set_aside_are_counted_not_called_unmatched(tmp_path: Path, pick: str) -> None:
    rng = np.random.default_rng(3)
    tables = {name: random_sky(rng, centres("borders", rng, 40), 40, 5.0, name) for name in ("one", "two")}
    bad = int(pixels_at(tables["one"]["_healpix_29"].to_numpy(), 4)[0])
    recipe = Recipe(
        name="r", primary=Selection(survey="one"), counterparts=(Counterpart(survey="two", radius_arcsec=1.0, pick=pick),)
    )
    whole = run_match(tmp_path / "whole", recipe, tables, {"one": 4, "two": 4}, {})
    blind = run_match(tmp_path / "blind", recipe, tables, {"one": 4, "two": 4}, {"two": (bad,)})
    assert 0 < len(blind) < len(whole)
    assert not (pixels_at(blind["_healpix_29"].to_numpy(), 4) == bad).any()
    left = {row["one_object_id"]: row["two_object_id"] for row in blind.to_pylist()}
    assert all(row["two_object_id"] == left[row["one_object_id"]] for row in whole.to_pylist() if row["one_object_id"] in left)

"""Object tables to the match table of one cell: every primary object with its counterparts, exact across cell borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Counterpart, Recipe
from mmu_pipeline.expressions import columns_of, select
from mmu_pipeline.hats import Partition
from mmu_pipeline.matching import Pairs, Positions, match
from mmu_pipeline.sky import CELL_ORDER, Bool, Cell, Int, in_ranges, margin_ranges
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.objects import read_objects
from mmu_pipeline.stages.scan import table_digest
from mmu_pipeline.storage import Receipt, match_folder, partition_path

POINTER = ["object_id", "source_file", "source_row"]


@dataclass(frozen=True)
class Sky:
    """What a match unit may read of one survey: its partitions near the cell, and the cells of it that are missing."""

    survey: str
    partitions: tuple[Partition, ...]
    missing: tuple[int, ...] = ()
    """Order-4 cells whose source was set aside: nothing is known there."""


def match_schema(recipe: Recipe) -> pa.Schema:
    """Columns of a recipe's match table, in order."""
    primary = recipe.primary.survey
    fields = [
        pa.field("_healpix_29", pa.int64(), nullable=False),
        pa.field("ra", pa.float64(), nullable=False),
        pa.field("dec", pa.float64(), nullable=False),
        pa.field(f"{primary}_object_id", pa.string(), nullable=False),
        pa.field(f"{primary}_source_file", pa.string(), nullable=False),
        pa.field(f"{primary}_source_row", pa.int64(), nullable=False),
    ]
    for name in recipe.survey_names[1:]:
        fields += [
            pa.field(f"{name}_object_id", pa.string()),
            pa.field(f"{name}_separation_arcsec", pa.float64()),
            pa.field(f"{name}_rank", pa.int32()),
            pa.field(f"{name}_n_candidates", pa.int32()),
            pa.field(f"{name}_healpix29", pa.int64()),
            pa.field(f"{name}_source_file", pa.string()),
            pa.field(f"{name}_source_row", pa.int64()),
        ]
    return pa.schema(fields)


def reach(recipe: Recipe, counterpart: Counterpart | None) -> float:
    """How far beyond a cell rows matter, in arcsec: of a counterpart, or of the primary itself (None).

    `mutual` must see every primary that may be closer to a counterpart in the margin: twice the radius away.
    """
    if counterpart is not None:
        return counterpart.radius_arcsec
    return max((2 * other.radius_arcsec for other in recipe.counterparts if other.pick == "mutual"), default=0.0)


def run(unit: Unit, build: Build) -> Receipt:
    """Write the match table of one cell. Rows follow `_healpix_29`, then rank."""
    recipe, cell = build.recipe, Cell(CELL_ORDER, int(unit.name.split("/")[1]))
    skies = {sky.survey: sky for sky in unit.inputs if isinstance(sky, Sky)}
    primary, columns = skies[recipe.primary.survey], ["_healpix_29", "ra", "dec", *POINTER]
    around = _rows(build, primary, margin_ranges(cell, reach(recipe, None)), recipe.primary.where)
    total = int(in_ranges(around["_healpix_29"].to_numpy(), (cell.range,)).sum())
    around = select(around, recipe.primary.where).select(columns)
    index = around["_healpix_29"].to_numpy()
    known = in_ranges(index, (cell.range,))
    lost = {f"does not pass where: {recipe.primary.where}": total - int(known.sum())}
    for counterpart in recipe.counterparts:
        for reason, blind in _blind(recipe, counterpart, skies, index).items():
            lost[reason] = int((known & blind).sum())
            known &= ~blind
    output = {"primary": np.flatnonzero(known)}
    found: dict[str, tuple[pa.Table, Pairs]] = {}
    for counterpart in recipe.counterparts:
        rows = _rows(build, skies[counterpart.survey], margin_ranges(cell, counterpart.radius_arcsec), counterpart.where)
        rows = select(rows, counterpart.where).select(columns)
        pairs = match(_positions(around), _positions(rows), counterpart.radius_arcsec, counterpart.pick)
        before = len(np.unique(output["primary"]))
        output = _joined(output, counterpart, pairs, len(around))
        without = before - len(np.unique(output["primary"]))
        lost[f"no {counterpart.survey} within {counterpart.radius_arcsec:g} arcsec"] = without
        found[counterpart.survey] = rows, pairs

    table = _table(recipe, around, found, output)
    path = partition_path(match_folder(recipe.name), cell)
    build.root.write_table(path, table)
    lost = {reason: count for reason, count in lost.items() if count}
    return Receipt(
        stage="match", unit=unit.name, fingerprint=unit.fingerprint, rows_in=total, rows_out=len(table), skipped=lost,
        outputs={path: build.root.size(path) or 0},
        facts={
            "digest": table_digest(table),
            "primaries": len(np.unique(output["primary"])),
            "matched": {name: int(np.count_nonzero(output[name] >= 0)) for name in found},
        },
    )  # fmt: skip


def _rows(build: Build, sky: Sky, ranges: tuple[tuple[int, int], ...], where: str | None) -> pa.Table:
    """Positions and pointers of a survey's rows within ranges, with the columns that `where` reads."""
    return read_objects(build, sky.survey, sky.partitions, ranges, ["ra", "dec", *POINTER, *sorted(columns_of(where))])


def _positions(table: pa.Table) -> Positions:
    ids = pc.rank(table["object_id"], sort_keys="ascending", tiebreaker="first")
    return Positions(table["ra"].to_numpy(), table["dec"].to_numpy(), ids.to_numpy().astype(np.int64))


def _blind(recipe: Recipe, counterpart: Counterpart, skies: Mapping[str, Sky], index: Int) -> dict[str, Bool]:
    """Primaries whose match cannot be told, since a source cell within reach was set aside: reason -> rows."""
    blind = {}
    for name, radius in (
        (counterpart.survey, counterpart.radius_arcsec),
        (recipe.primary.survey, 2 * counterpart.radius_arcsec if counterpart.pick == "mutual" else 0.0),
    ):
        for pixel in skies[name].missing if radius else ():
            near = in_ranges(index, margin_ranges(Cell(CELL_ORDER, pixel), radius))
            if near.any():
                blind[f"{name} cell {pixel} was set aside"] = near
    return blind


def _joined(output: dict[str, Int], counterpart: Counterpart, pairs: Pairs, n_primary: int) -> dict[str, Int]:
    """Output rows times their matches: for each row so far, one row per pair of its primary (or one absent, with left)."""
    counts = np.bincount(pairs.primary, minlength=n_primary)
    starts = np.cumsum(counts) - counts
    here = counts[output["primary"]]
    copies = np.maximum(here, 1) if counterpart.how == "left" else here
    joined = {name: np.repeat(rows, copies) for name, rows in output.items()}
    step = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    matched = np.repeat(here, copies) > 0
    joined[counterpart.survey] = np.where(matched, starts[joined["primary"]] + step, -1)
    return joined


def _table(recipe: Recipe, around: pa.Table, found: Mapping[str, tuple[pa.Table, Pairs]], output: Mapping[str, Int]) -> pa.Table:
    schema = match_schema(recipe)
    primary = around.take(pa.array(output["primary"]))
    columns = {name: primary[name] for name in ("_healpix_29", "ra", "dec")}
    columns |= {f"{recipe.primary.survey}_{name}": primary[name] for name in POINTER}
    for survey, (rows, pairs) in found.items():
        pair = pa.array(output[survey], mask=output[survey] < 0)
        taken = rows.take(pc.take(pa.array(pairs.counterpart), pair))
        columns |= {f"{survey}_{name}": taken[name] for name in POINTER}
        columns[f"{survey}_healpix29"] = taken["_healpix_29"]
        for name in ("separation_arcsec", "rank", "n_candidates"):
            columns[f"{survey}_{name}"] = pc.take(pa.array(getattr(pairs, name)), pair)
    return pa.table([columns[name] for name in schema.names], schema=schema)

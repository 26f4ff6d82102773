"""Object tables to the match table of one cell: every primary object with its counterparts, exact across cell borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.astrometry import at_epoch, epochs, julian_year, motion_columns
from mmu_pipeline.catalog import Counterpart, Recipe
from mmu_pipeline.expressions import columns_of, select
from mmu_pipeline.hats import Partition
from mmu_pipeline.matching import Pairs, Positions, Refinement, match
from mmu_pipeline.sky import CELL_ORDER, Bool, Cell, Float, Int, in_ranges, margin_ranges, unit_vectors
from mmu_pipeline.stages.associations import write_parts
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.objects import read_objects
from mmu_pipeline.stages.scan import table_digest
from mmu_pipeline.storage import Receipt

POINTER = ["object_id", "source_file", "source_row"]


@dataclass(frozen=True)
class Sky:
    """What a match unit may read of one survey: its partitions near the cell, and the cells of it that are missing."""

    survey: str
    partitions: tuple[Partition, ...]
    missing: tuple[int, ...] = ()
    """Order-4 cells whose source was set aside: nothing is known there."""
    moves: tuple[tuple[str, float], ...] = ()
    """Counterpart -> how far, in arcsec, a row of this survey may move to the epoch of that match."""

    def move(self, counterpart: Counterpart) -> float:
        """How far a row may move, in arcsec, before it is matched with a counterpart."""
        return dict(self.moves).get(counterpart.survey, 0.0)


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


def reach(counterpart: Counterpart, primary: Sky, other: Sky) -> float:
    """How far beyond a cell, in arcsec, rows of a counterpart may lie that match primaries of the cell."""
    return counterpart.radius_arcsec + primary.move(counterpart) + other.move(counterpart)


def rival_reach(counterpart: Counterpart, primary: Sky) -> float:
    """How far beyond a cell, in arcsec, primaries matter to the match of those in it.

    `mutual` must see every primary that may be closer to a counterpart in the margin: twice the radius away.
    """
    return 2 * (counterpart.radius_arcsec + primary.move(counterpart)) if counterpart.pick == "mutual" else 0.0


def run(unit: Unit, build: Build) -> Receipt:
    """Write the match table of one cell. Rows follow `_healpix_29`, then rank."""
    recipe, cell = build.recipe, Cell(CELL_ORDER, int(unit.name.split("/")[1]))
    skies = {sky.survey: sky for sky in unit.inputs if isinstance(sky, Sky)}
    primary = skies[recipe.primary.survey]
    rivals = max((rival_reach(counterpart, primary) for counterpart in recipe.counterparts), default=0.0)
    around = _rows(build, primary, margin_ranges(cell, rivals), recipe.primary.where)
    total = int(in_ranges(around["_healpix_29"].to_numpy(), cell.range).sum())
    around = select(around, recipe.primary.where)
    index = around["_healpix_29"].to_numpy()
    known = in_ranges(index, cell.range)
    lost = {f"does not pass where: {recipe.primary.where}": total - int(known.sum())}
    for counterpart in recipe.counterparts:
        for reason, blind in _blind(recipe, counterpart, skies, index).items():
            lost[reason] = int((known & blind).sum())
            known &= ~blind
    output = {"primary": np.flatnonzero(known)}
    found: dict[str, tuple[pa.Table, Pairs]] = {}
    for counterpart in recipe.counterparts:
        sky = skies[counterpart.survey]
        ranges = margin_ranges(cell, reach(counterpart, primary, sky))
        rows = select(_rows(build, sky, ranges, counterpart.where, counterpart), counterpart.where)
        pairs = match(
            _positions(build, primary, around, counterpart),
            _positions(build, sky, rows, counterpart),
            counterpart.radius_arcsec,
            "best" if counterpart.best else counterpart.pick,  # type: ignore[arg-type]
            _preference(rows, counterpart),
            _refinement(build, (primary, around), (sky, rows), counterpart),
        )
        before = len(np.unique(output["primary"]))
        output = _joined(output, counterpart, pairs, len(around))
        without = before - len(np.unique(output["primary"]))
        lost[f"no {counterpart.survey} within {counterpart.radius_arcsec:g} arcsec"] = without
        found[counterpart.survey] = rows, pairs

    table = _table(recipe, around, found, output)
    outputs, pairs_of = write_parts(build, cell, table)
    lost = {reason: count for reason, count in lost.items() if count}
    return Receipt(
        stage="match", unit=unit.name, fingerprint=unit.fingerprint, rows_in=total, rows_out=len(table), skipped=lost,
        outputs=outputs,
        facts={
            "digest": table_digest(table),
            "pairs": pairs_of,
            "reach_arcsec": {c.survey: reach(c, primary, skies[c.survey]) for c in recipe.counterparts},
            "primaries": len(np.unique(output["primary"])),
            "matched": {name: int(np.count_nonzero(output[name] >= 0)) for name in found},
        },
    )  # fmt: skip


def _rows(build: Build, sky: Sky, ranges: Int, where: str | None, counterpart: Counterpart | None = None) -> pa.Table:
    """Positions and pointers of a survey's rows within ranges, with the columns that moving, cutting and picking them read."""
    read = {*columns_of(where), *motion_columns(build.surveys[sky.survey])}
    read |= {counterpart.best[0]} if counterpart and counterpart.best else set()
    return read_objects(build, sky.survey, sky.partitions, ranges, ["ra", "dec", *POINTER, *sorted(read)])


def _positions(build: Build, sky: Sky, table: pa.Table, counterpart: Counterpart) -> Positions:
    ids = pc.rank(table["object_id"], sort_keys="ascending", tiebreaker="first").to_numpy().astype(np.int64)
    if counterpart.epoch is None:
        return Positions(table["ra"].to_numpy(), table["dec"].to_numpy(), ids)
    return Positions(*at_epoch(table, build.surveys[sky.survey], julian_year(counterpart.epoch)), ids)


def _refinement(
    build: Build, one: tuple[Sky, pa.Table], other: tuple[Sky, pa.Table], counterpart: Counterpart
) -> Refinement | None:
    """Where one survey alone has motions, each of its rows is moved to the very epoch of the row that it is compared with."""
    if counterpart.epoch is None:
        return None
    tables = [table for _, table in (one, other)]
    surveys = [build.surveys[sky.survey] for sky, _ in (one, other)]
    moving = [survey.motion is not None for survey in surveys]
    if sum(moving) != 1 or surveys[moving.index(False)].epoch is None:
        return None
    side, still = moving.index(True), moving.index(False)
    years = epochs(tables[still], surveys[still])
    years = np.where(np.isfinite(years), years, julian_year(counterpart.epoch))
    fixed = unit_vectors(tables[still]["ra"].to_numpy(), tables[still]["dec"].to_numpy())

    def pair_chord(i: Int, j: Int) -> Float:
        rows = (i, j)
        moved = at_epoch(tables[side].take(pa.array(rows[side])), surveys[side], years[rows[still]])
        return np.asarray(np.linalg.norm(unit_vectors(*moved) - fixed[rows[still]], axis=1))

    return Refinement(one[0].move(counterpart) + other[0].move(counterpart), pair_chord)


def _preference(table: pa.Table, counterpart: Counterpart) -> Float | None:
    """What `best` minimises, shape (n,), NaN where it is not known."""
    if counterpart.best is None:
        return None
    column, ascending = counterpart.best
    values = table[column].cast(pa.float64()).to_numpy()
    return np.asarray(values if ascending else -values)


def _blind(recipe: Recipe, counterpart: Counterpart, skies: Mapping[str, Sky], index: Int) -> dict[str, Bool]:
    """Primaries whose match cannot be told, since a source cell within reach was set aside: reason -> rows."""
    blind = {}
    primary, other = skies[recipe.primary.survey], skies[counterpart.survey]
    for name, radius in (
        (counterpart.survey, reach(counterpart, primary, other)),
        (recipe.primary.survey, rival_reach(counterpart, primary)),
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

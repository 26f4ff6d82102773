"""Object tables, as their receipts tell of them, to the units of the match and, once that is done, of the samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mmu_pipeline.astrometry import julian_year, reach_of_motion
from mmu_pipeline.catalog import Counterpart, Recipe
from mmu_pipeline.errors import BadInput
from mmu_pipeline.fingerprint import fingerprint, spelled
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.shards.schema import sample_members
from mmu_pipeline.sky import CELL_ORDER, Cell, Int, cells_touching, margin_ranges
from mmu_pipeline.stages import keys
from mmu_pipeline.stages.buckets import Whole
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.joined import joined
from mmu_pipeline.stages.match import match_rule, unit_name
from mmu_pipeline.stages.partitions import object_partitions
from mmu_pipeline.stages.quality import Sampling, probe_of, probe_reach, sampling
from mmu_pipeline.stages.receipts import by_survey, stage_receipts
from mmu_pipeline.stages.skies import Sky, reach, rival_reach
from mmu_pipeline.stages.tiling import tiles

MOST_REACH_ARCSEC = 5400.0
"""How far a margin may reach: no order-4 cell is narrower than 1.5 degrees."""
CELLS = 12 * 4**CELL_ORDER
NOWHERE = np.empty((0, 2), np.int64)


def match_units(build: Build) -> list[Unit]:
    """One unit per block: a pixel of order 4, or a coarser one as long as it holds no more than `build.match_rows` rows.

    A block of a build of some cells lies in these cells alone.
    """
    stored = stage_receipts(build, "objects")
    skies, rule = _skies(build, stored), match_rule(build)
    keyed, unread = stage_receipts(build, "keys"), _unread(build, stored)
    by_key = {counterpart.survey for counterpart in build.recipe.counterparts if counterpart.on}
    sample = sampling(build.recipe, int(sum(r.rows_out for r in stored if r.unit.split("/")[0] == build.recipe.primary.survey)))
    primaries, everything = _rows_before(stored, [build.recipe.primary.survey]), _rows_before(stored, build.recipe.survey_names)
    wanted = np.ones(CELLS, bool)
    if build.cells is not None:
        wanted = np.isin(np.arange(CELLS), sorted(build.cells))
    unwanted = np.append(0, np.cumsum(~wanted))

    def rows(block: Cell) -> float:
        start, stop = _cells_of(block)
        if unwanted[stop] - unwanted[start] == stop - start or primaries[stop] == primaries[start]:
            return 0
        return float(everything[stop] - everything[start]) if unwanted[stop] == unwanted[start] else np.inf

    reaches = _reaches(build.recipe, skies, sample)
    units = []
    for block in tiles((Cell(0, pixel) for pixel in range(12)), rows, build.match_rows, CELL_ORDER):
        near, found = [], []
        for sky, far in zip(skies, reaches, strict=True):
            ranges = NOWHERE if sky.survey in by_key else margin_ranges(block, far)
            near.append(sky.near(ranges))
            cells = {cell.pixel for cell in cells_touching(ranges, CELL_ORDER)}
            found.append(joined(sky.survey, keyed, unread[sky.survey], cells, range(*_cells_of(block))))
        weight = 100 * int(rows(block))
        known = [(item.survey, item.digests, item.unread, item.failed) for item in found if item]
        inputs = (sample, *near, *filter(None, found))
        start, stop = _cells_of(block)
        units.append(Unit("match", unit_name(build.recipe, block), start, weight, inputs,
                          fingerprint("match", rule, sample, [_seen(sky) for sky in near], known), stop - start))  # fmt: skip
    return units


def key_units(build: Build) -> list[Unit]:
    """What no cell can tell by itself: the units of the stage `keys`. None for a recipe without keys and repeats."""
    if not any(keys.is_asked(selection, build.surveys[selection.survey]) for selection in build.recipe.selections):
        return []
    stored = stage_receipts(build, "objects")
    return keys.units(
        build, {sky.survey: Whole(sky.survey, sky.partitions, sky.precision_arcsec) for sky in _skies(build, stored)}
    )


def _unread(build: Build, stored: Sequence[Receipt]) -> dict[str, list[str]]:
    """Survey -> units of it, of the scan and of the object table, that were set aside in whole or in part."""
    found: dict[str, list[str]] = {name: [] for name in build.recipe.survey_names}
    for receipt in (*stage_receipts(build, "scan"), *stored):
        if receipt.status != "done" and receipt.unit.split("/")[0] in found:
            found[receipt.unit.split("/")[0]].append(f"{receipt.stage} {receipt.unit}")
    return found


def sample_units(build: Build) -> list[Unit]:
    """One unit per order-4 cell that has rows in the match table.

    It depends on the rows of its own cell, and on the partitions of the object tables that these point to.
    """
    recipe, rule = build.recipe, build.recipe.shards
    skies = _skies(build, stage_receipts(build, "objects"))
    chosen = spelled(
        [(s.survey, s.members, s.columns, build.sources[s.survey].form, build.surveys[s.survey]) for s in recipe.selections]
    )
    weights: dict[str, int] = defaultdict(int)
    for member in sample_members(recipe, build.surveys):
        weights[member.survey] += member.field.nominal_bytes
    units = []
    for receipt in stage_receipts(build, "match"):
        for name, facts in receipt.facts.get("cells", {}).items() if receipt.status == "done" else ():
            cell = int(name)
            near = tuple(sky.near(_ranges({cell, *facts["beyond"].get(sky.survey, ())})) for sky in skies)
            matched = {recipe.primary.survey: facts["rows"], **facts["matched"]}
            weight = sum(weights[survey] * count for survey, count in matched.items())
            partitions = [[(part.path, part.digest) for part in sky.partitions] for sky in near]
            print_of = fingerprint("samples", chosen, recipe.split, rule.seed, rule.dtype, facts["digest"], partitions)
            units.append(Unit("samples", f"{recipe.name}/{cell}", cell, weight, (receipt.unit, *near), print_of))
    return sorted(units, key=lambda unit: unit.cell or 0)


def _cells_of(block: Cell) -> tuple[int, int]:
    """First and one-past-last order-4 cell of a block."""
    shift = 2 * (CELL_ORDER - block.order)
    return block.pixel << shift, (block.pixel + 1) << shift


def _ranges(cells: Iterable[int]) -> Int:
    return np.array([Cell(CELL_ORDER, cell).range for cell in sorted(cells)])


def _rows_before(stored: Iterable[Receipt], surveys: Sequence[str]) -> Int:
    """How many rows of some surveys lie in order-4 cells below each number, shape (3073,): differences count rows."""
    rows = np.zeros(CELLS + 1, np.int64)
    for receipt in stored:
        if receipt.unit.split("/")[0] in surveys:
            for cell, count in receipt.facts.get("cells", {}).items():
                rows[int(cell) + 1] += count
    return np.cumsum(rows)


def _skies(build: Build, stored: Sequence[Receipt]) -> tuple[Sky, ...]:
    """Each survey of the recipe, the primary first, as far as this build has it."""
    scanned, tables = by_survey(stage_receipts(build, "scan")), by_survey(stored)
    motions = {name: [receipt.facts.get("motion", {}) for receipt in tables[name]] for name in build.recipe.survey_names}
    return tuple(
        Sky(
            name,
            object_partitions(build, name, tables[name]),
            tuple(sorted(_missing_cells(scanned[name]))),
            moves_of(build.recipe, name, motions),
            build.surveys[name].forms[build.sources[name].form].position_precision_arcsec,
        )
        for name in build.recipe.survey_names
    )


def _reaches(recipe: Recipe, skies: Sequence[Sky], sample: Sampling) -> list[float]:
    """How far beyond a block each survey is read, in arcsec."""
    primary, *others = skies
    pairs = list(zip(recipe.counterparts, others, strict=True))
    rivals = max((rival_reach(counterpart, primary, other) for counterpart, other in pairs), default=0.0)

    def farthest(counterpart: Counterpart, other: Sky) -> float:
        probe = probe_of(recipe, counterpart, sample)
        return max(reach(counterpart, primary, other), probe_reach(counterpart, probe, primary, other))

    return [rivals, *(farthest(counterpart, other) for counterpart, other in pairs)]


def _seen(sky: Sky) -> tuple[object, ...]:
    partitions = [(partition.path, partition.digest) for partition in sky.partitions]
    return sky.survey, partitions, sky.missing, sky.moves, sky.precision_arcsec


def _missing_cells(receipts: Iterable[Receipt]) -> set[int]:
    """Order-4 cells of a survey cut by cell whose source could not be read, in whole or in part: from its scan's receipts."""
    missing: set[int] = set()
    for receipt in receipts:
        first, _, last = receipt.unit.split("/")[1].partition("-")
        if receipt.status != "done" and first.isdigit():
            missing |= set(range(int(first), int(last or first) + 1))
    return missing


def moves_of(recipe: Recipe, name: str, motions: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[tuple[str, float], ...]:
    """How far rows of a survey may move, in arcsec, to the epochs of each match that they take part in."""
    moves = []
    for other in recipe.counterparts:
        if other.epoch is None or other.on or name not in (recipe.primary.survey, other.survey):
            continue
        opposite = other.survey if name == recipe.primary.survey else recipe.primary.survey
        far = reach_of_motion(motions[name], motions[opposite], julian_year(other.epoch))
        if (other.radius_arcsec or 0.0) + far > MOST_REACH_ARCSEC:
            raise BadInput(f"the survey {name!r} moves too far to {other.epoch}: its margin would be wider than a cell",
                           moves_arcsec=round(far, 1), hint="choose an epoch nearer to that of the surveys")  # fmt: skip
        moves.append((other.survey, far))
    return tuple(moves)

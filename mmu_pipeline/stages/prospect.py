"""Listings and receipts to what a build may find: footprints, rows and matches cell by cell, and the bytes that they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmu_pipeline.catalog import Counterpart, Selection, Survey
from mmu_pipeline.footprint import FINEST, Footprint, fitting_order, of_cells, of_ranges, shared
from mmu_pipeline.sky import CELL_ORDER, Float
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.receipts import receipts_of

CELLS = 12 * 4**CELL_ORDER
PLACE_BYTES = 32
"""Of a row's id and position in a source file, about."""


@dataclass(frozen=True)
class SurveySky:
    """What is known of a survey before its arrays are read."""

    footprint: Footprint | None
    """None where it is not cut by cell and not scanned yet."""
    rows: Float | None
    """By order-4 cell, shape (3072,); None where they are not known, or not where."""
    total: float | None
    """Rows in all."""
    counted: bool
    """Whether rows were counted in its object table, rather than estimated from bytes or declared."""
    nbytes: Float
    """Bytes of its files by order-4 cell: those of a file over several cells are shared out. Shape (3072,)."""


@dataclass(frozen=True)
class CellPlan:
    """What one order-4 cell promises."""

    cell: int
    rows: int
    """Primary objects."""
    overlap_deg2: float
    """Sky that all surveys of the recipe share."""
    matches: dict[str, int]
    """Counterpart -> primaries that have one: counted once they are matched, before that no more than this."""
    complete: int
    """Primaries with every counterpart, no more than this."""
    nbytes: int
    """Arrays of its samples: what the build would move."""

    @property
    def per_gb(self) -> float | None:
        """Complete matches per gigabyte; None where nothing need be moved."""
        return self.complete / (self.nbytes / 1e9) if self.nbytes else None


@dataclass(frozen=True)
class Prospect:
    """What a build may find, best cells first."""

    overlap: Footprint | None = None
    """None where a footprint is not known."""
    matched: bool = False
    """Whether matches are counted: the match has run."""
    cells: tuple[CellPlan, ...] = ()

    @property
    def matches(self) -> dict[str, int]:
        """Counterpart -> matches in all cells."""
        names = self.cells[0].matches if self.cells else ()
        return {name: sum(cell.matches[name] for cell in self.cells) for name in names}


def survey_skies(build: Build, nbytes: Mapping[str, Float], scanned: Mapping[str, bool]) -> dict[str, SurveySky]:
    """Each survey of a recipe: from its object table where that is made of the files listed now, else from the listing.

    `nbytes` are bytes of files by order-4 cell, shape (3072,), `scanned` says whether all of a survey's files were scanned.
    """
    rows = {name: np.zeros(CELLS) for name in build.surveys}
    ranges: dict[str, list[list[int]]] = {name: [] for name in build.surveys}
    for receipt in receipts_of(build, "objects") if any(scanned.values()) else ():
        name = receipt.unit.split("/")[0]
        ranges[name] += receipt.facts.get("footprint", [])
        for cell, count in receipt.facts.get("cells", {}).items():
            rows[name][int(cell)] += count
    return {
        name: _from_rows(rows[name], ranges[name], nbytes[name])
        if scanned[name] and rows[name].any()
        else _from_listing(build, survey, nbytes[name])
        for name, survey in build.surveys.items()
    }


def _from_rows(rows: Float, ranges: list[list[int]], nbytes: Float) -> SurveySky:
    return SurveySky(of_ranges(ranges, FINEST, fitting_order(rows)), rows, float(rows.sum()), True, nbytes)


def _from_listing(build: Build, survey: Survey, nbytes: Float) -> SurveySky:
    form = survey.forms[build.sources[survey.name].form]
    declared = None if survey.expected_rows is None else float(survey.expected_rows)
    if not form.cut_by_cell:
        return SurveySky(None, None, declared, False, nbytes)
    carried = (field for field in survey.fields if field.is_carried(build.sources[survey.name].form))
    row_bytes = PLACE_BYTES + sum(field.nominal_bytes for field in carried)
    if declared and build.cells is None and survey.name == build.recipe.primary.survey:
        row_bytes = max(1, int(nbytes.sum() / declared))
    rows = nbytes / max(row_bytes, 1)
    known = bool(nbytes.any())
    total = None if not known else float(rows.sum())
    return SurveySky(of_cells(np.flatnonzero(nbytes)), rows if known else None, total, False, nbytes)


def prospect(build: Build, skies: Mapping[str, SurveySky]) -> Prospect:
    """Matches to be found, cell by cell, and their cost; ranked by complete matches per gigabyte, then by their number."""
    recipe, primary = build.recipe, skies[build.recipe.primary.survey]
    footprints = [sky.footprint for sky in skies.values() if sky.footprint is not None]
    overlap = shared(footprints) if len(footprints) == len(skies) else None
    counted = _counted_matches(build)
    if primary.rows is None:
        return Prospect(overlap, counted is not None, ())
    found = {other.survey: _expected(primary, skies[other.survey], other) for other in recipe.counterparts}
    if counted is not None:
        found = counted
    complete = np.minimum.reduce([primary.rows, *found.values()])
    inner = [found[other.survey] for other in recipe.counterparts if other.how == "inner"]
    samples = np.minimum.reduce([primary.rows, *inner])
    cost = _cost(build, recipe.primary, samples, primary)
    for other in recipe.counterparts:
        cost = cost + _cost(build, other, np.minimum(found[other.survey], samples), skies[other.survey])
    area = np.zeros(CELLS) if overlap is None else overlap.by_cell * (360.0**2 / np.pi / CELLS)
    wanted = np.flatnonzero(primary.rows > 0) if build.cells is None else np.array(sorted(build.cells))
    cells = [
        CellPlan(
            int(cell), round(float(primary.rows[cell])), round(float(area[cell]), 3),
            {name: int(counts[cell]) for name, counts in found.items()}, int(complete[cell]), int(cost[cell]),
        )
        for cell in wanted
    ]  # fmt: skip
    free = np.inf  # tables alone: nothing to move
    rank = sorted(cells, key=lambda plan: (-((plan.per_gb or free) if plan.complete else 0.0), -plan.complete, plan.cell))
    return Prospect(overlap, counted is not None, tuple(rank))


def _expected(primary: SurveySky, other: SurveySky, counterpart: Counterpart) -> Float:
    """No more primaries than so many have a counterpart: in what both surveys see of a cell, the sparser one sets the limit.

    A join by key, and a survey of which it is not known where it is, are limited by rows in all.
    """
    assert primary.rows is not None  # noqa: S101  the caller has looked
    if counterpart.on or other.rows is None or other.footprint is None or primary.footprint is None:
        share = 1.0 if other.total is None else min(1.0, other.total / max(primary.rows.sum(), 1.0))
        return np.asarray(primary.rows * share)
    both = shared([primary.footprint, other.footprint]).by_cell
    ours, theirs = (
        sky.rows * both / np.maximum(sky.footprint.by_cell, 1e-9)
        for sky in (primary, other)
        if sky.rows is not None and sky.footprint is not None
    )
    return np.minimum(ours, theirs)


def _counted_matches(build: Build) -> dict[str, Float] | None:
    """Counterpart -> rows of the match table that have it, by order-4 cell; None before the match has run."""
    found, any_receipt = {name: np.zeros(CELLS) for name in build.recipe.survey_names[1:]}, False
    for receipt in receipts_of(build, "match"):
        any_receipt = True
        for cell, facts in receipt.facts.get("cells", {}).items():
            for name, count in facts["matched"].items():
                found[name][int(cell)] += count
    return found if any_receipt else None


def _cost(build: Build, selection: Selection, rows: Float, sky: SurveySky) -> Float:
    """Bytes of the arrays of some rows in each cell: no more than the cell's files hold, where that is known."""
    survey = build.surveys[selection.survey]
    members = [field for field in survey.members if selection.members is None or field.name in selection.members]
    nbytes = rows * sum(field.nominal_bytes for field in members)
    return np.where(sky.nbytes > 0, np.minimum(nbytes, sky.nbytes), nbytes) if sky.nbytes.any() else nbytes

"""Matches of a part of the sky to counts of pairs and of chance in them; the counts of all parts to what a match is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmu_pipeline.catalog import Counterpart, Recipe
from mmu_pipeline.chance import SPAN, Counts, Probe, along_the_sky, count, edges, total
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.separations import assess
from mmu_pipeline.sky import CELL_ORDER, Bool, Cell, in_ranges, margin_ranges
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.pairing import Side, positions, refinement
from mmu_pipeline.stages.skies import Sky, wide
from mmu_pipeline.storage import match_folder

SHIFT_ARCSEC, SHIFT_RADII = 60.0, 10.0
"""How far shifted places lie from a primary, unless the recipe says: the larger of the two."""
FARTHEST_ARCSEC = 1800.0
"""Chance is not measured where that would need a wider margin: with radii of 150 arcsec and more."""


@dataclass(frozen=True)
class Sampling:
    """Which primaries of a match its quality is measured with: one of 2 ** halvings."""

    halvings: int


def sampling(recipe: Recipe, primaries: int) -> Sampling:
    """So that no more are looked at than the recipe says, give or take chance, of so many primaries in all."""
    return Sampling(max(0, int(np.ceil(np.log2(max(primaries, 1) / recipe.chance.sample)))))


def probe_of(recipe: Recipe, counterpart: Counterpart, sample: Sampling) -> Probe | None:
    """Where chance is measured in the match of a counterpart; None where it is not."""
    rule, radius = recipe.chance, counterpart.radius_arcsec
    if counterpart.on or radius is None:
        return None
    shift = rule.shift_arcsec or max(SHIFT_ARCSEC, SHIFT_RADII * radius)
    if not rule.shifts or shift + SPAN * radius > FARTHEST_ARCSEC:
        return None
    return Probe(rule.shifts, shift, sample.halvings, rule.seed)


def probe_reach(counterpart: Counterpart, probe: Probe | None, primary: Sky, other: Sky) -> float:
    """How far beyond a pixel, in arcsec, rows of a counterpart matter to what is measured of those in it."""
    if probe is None:
        return 0.0
    return probe.shift_arcsec + SPAN * wide(counterpart, primary, other) + primary.move(counterpart) + other.move(counterpart)


def counted(build: Build, primary: Side, known: Bool, other: Side, counterpart: Counterpart, probe: Probe) -> Counts:
    """Count pairs and chance around the primaries among those that are known, of the rows of one part of the sky."""
    index = primary.rows["_healpix_29"].to_numpy()
    chosen = known & probe.takes(index)
    reach = probe_reach(counterpart, probe, primary.sky, other.sky)
    for pixel in other.sky.missing:
        chosen &= ~in_ranges(index, margin_ranges(Cell(CELL_ORDER, pixel), reach))
    rows = np.flatnonzero(chosen)
    here, there = positions(build, primary, counterpart), positions(build, other, counterpart)
    field, order = (there, np.arange(len(there))) if there.index is not None else along_the_sky(there.ra, there.dec)
    refine = refinement(build, primary, other, counterpart)
    radius = wide(counterpart, primary.sky, other.sky)
    if refine is None:
        return count(here.ra[rows], here.dec[rows], field, radius, probe)
    slack, chord = refine.slack_arcsec, refine.chord
    return count(here.ra[rows], here.dec[rows], field, radius, probe, slack, lambda i, j: chord(rows[i], order[j]))


def quality_facts(parts: Sequence[Counts], probe: Probe) -> dict[str, Any]:
    """What was measured of one counterpart, as a receipt holds it."""
    return {"counts": asdict(total(parts)), "probe": asdict(probe)}


def quality_path(recipe: Recipe) -> str:
    """Where the quality of a recipe's matches is written: beside the match table."""
    return f"{match_folder(recipe.name)}/quality.json"


def quality_of(build: Build, receipts: Iterable[Receipt]) -> dict[str, Any]:
    """What is known of the match of each counterpart, as plain values for JSON, from the receipts of the match stage."""
    recipe = build.recipe
    parts: dict[str, list[Mapping[str, Any]]] = {counterpart.survey: [] for counterpart in recipe.counterparts}
    for receipt in receipts:
        for survey, facts in receipt.facts.get("quality", {}).items():
            parts[survey].append(facts)
    return {
        counterpart.survey: _summary(recipe, counterpart, parts[counterpart.survey])
        for counterpart in recipe.counterparts
        if parts[counterpart.survey]
    }


def _summary(recipe: Recipe, counterpart: Counterpart, parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The quality of one match, with the histogram that it was read from."""
    counts, probe = total([Counts(**part["counts"]) for part in parts]), Probe(**parts[0]["probe"])
    radius = counts.radius_arcsec
    return {
        "radius_arcsec": radius,
        "pick": counterpart.pick,
        "primaries": counts.primaries,
        "one_of": 2**probe.halvings,
        "shifts": {"places": probe.shifts, "arcsec": probe.shift_arcsec},
        **asdict(assess(counts, probe.shifts, counterpart.pick)),
        "histogram": {
            "edges_arcsec": [round(float(edge), 9) for edge in edges(radius)],
            "pairs": counts.observed,
            "chance": [found / probe.shifts for found in counts.chance],
            "chance_error": [max(found, 1) ** 0.5 / probe.shifts for found in counts.chance],
        },
    }

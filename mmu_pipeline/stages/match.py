"""Object tables to one partition of the match table: every primary object with its counterparts, exact across all borders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Counterpart, Recipe, repeats_of
from mmu_pipeline.chance import Counts, Probe
from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.expressions import select
from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.matching import Pairs
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import Cell, Int, in_ranges, margin_ranges
from mmu_pipeline.stages.associations import association_folder, catalogs, parts_of
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.joined import Joined, pairs_by_key, read_losers
from mmu_pipeline.stages.match_table import CellTally, compose, joined, tally
from mmu_pipeline.stages.pairing import Side, pairs_by_position
from mmu_pipeline.stages.quality import Sampling, counted, probe_of, probe_reach, quality_facts
from mmu_pipeline.stages.repeats import reason, without
from mmu_pipeline.stages.skies import Sky, blind, reach, rival_reach, rows_of, rows_within
from mmu_pipeline.stages.tiling import tiles
from mmu_pipeline.storage import partition_path

FINEST_STRIP = 14
"""Order of the smallest pixel that is worked on by itself: 13 arcsec wide."""


def unit_name(recipe: Recipe, block: Cell) -> str:
    """Name of the unit that matches a pixel: recipe/order-pixel."""
    return f"{recipe.name}/{block.order}-{block.pixel}"


def block_of(name: str) -> Cell:
    """The pixel that a unit matches."""
    return Cell(*map(int, name.rsplit("/", 1)[1].split("-")))


def match_rule(build: Build) -> str:
    """Fingerprint of what a recipe says of its match."""
    recipe = build.recipe
    taken = [(s.survey, s.where, repeats_of(s, build.surveys[s.survey])) for s in recipe.selections]
    counterparts = [(c.radius_arcsec, c.on and list(c.on.items()), c.pick, c.how, c.epoch) for c in recipe.counterparts]
    return fingerprint("match", taken, counterparts, recipe.chance)


@dataclass(frozen=True)
class Strip:
    """The match of one pixel."""

    table: pa.Table
    primaries: int
    """Primary objects that have a row."""
    rows: int
    """Primary objects in the pixel."""
    lost: dict[str, int]
    """Primary objects without a row, by reason."""
    quality: dict[str, Counts]
    """Counterpart -> pairs and chance around a sample of the primaries."""


def run(unit: Unit, build: Build) -> Receipt:
    """Write the match table of a block: a HEALPix pixel of order 4 or coarser. Rows follow `_healpix_29`, then rank.

    A block of more than `build.match_rows` rows is worked through in smaller pixels, one after the other: what is held does not
    grow with it.
    """
    recipe, block = build.recipe, block_of(unit.name)
    skies = {sky.survey: sky for sky in unit.inputs if isinstance(sky, Sky)}
    known = {found.survey: found for found in unit.inputs if isinstance(found, Joined)}
    strips = tiles([block], lambda cell: rows_within(build, skies.values(), cell), build.match_rows, FINEST_STRIP)
    schemas = catalogs(recipe, build.surveys)
    paths = {folder: partition_path(folder, block) for folder in schemas}
    tallies: dict[int, CellTally] = {}
    counts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    widest = {counterpart.survey: 0.0 for counterpart in recipe.counterparts if counterpart.on}
    samples = [item for item in unit.inputs if isinstance(item, Sampling)]
    probes = {c.survey: probe for sample in samples for c in recipe.counterparts if (probe := probe_of(recipe, c, sample))}
    quality: dict[str, list[Counts]] = defaultdict(list)
    with ExitStack() as stack:
        files = {folder: stack.enter_context(build.root.writing_rows(paths[folder], schemas[folder])) for folder in schemas}
        for cell in strips:
            strip = match_pixel(build, cell, skies, known, probes)
            tally(tallies, recipe, strip.table)
            for name, far in widest.items():
                widest[name] = max(far, pc.max(strip.table[f"{name}_separation_arcsec"]).as_py() or 0.0)
            for folder, part in parts_of(recipe, strip.table).items():
                files[folder].write(part)
            counts.update(rows=strip.rows, primaries=strip.primaries)
            lost.update(strip.lost)
            for name, found in strip.quality.items():
                quality[name].append(found)
    for folder in files:
        if not files[folder].rows:  # a HATS catalog lists all of its files, and an empty one has no place in it
            build.root.remove(paths[folder])
    primary = skies[recipe.primary.survey]
    return Receipt(
        stage="match", unit=unit.name, fingerprint=unit.fingerprint, rows_in=counts["rows"],
        rows_out=sum(part.rows for part in tallies.values()), skipped={reason: n for reason, n in lost.items() if n},
        outputs={paths[folder]: build.root.size(paths[folder]) or 0 for folder in files if files[folder].rows},
        facts={
            "rule": match_rule(build),
            "primaries": counts["primaries"],
            "matched": {name: sum(part.matched.get(name, 0) for part in tallies.values()) for name in recipe.survey_names[1:]},
            "pairs": {
                c.survey: files[association_folder(recipe, c.survey)].rows
                for c in (recipe.counterparts if recipe.counterparts[1:] else ())
            },
            "reach_arcsec": {
                c.survey: widest[c.survey] if c.on else reach(c, primary, skies[c.survey]) for c in recipe.counterparts
            },
            "cells": {str(cell): part.facts() for cell, part in tallies.items()},
            "quality": {name: quality_facts(found, probes[name]) for name, found in quality.items()},
        },
    )  # fmt: skip


def match_pixel(
    build: Build, cell: Cell, skies: Mapping[str, Sky], known: Mapping[str, Joined], probes: Mapping[str, Probe]
) -> Strip:
    """Match the primaries of one pixel of any order, with the margin that each counterpart needs, or what is measured of it.

    `known` is what the stage `keys` found of the surveys that it dealt with, `probes` say where chance is measured.
    """
    recipe = build.recipe
    primary = skies[recipe.primary.survey]
    rivals = max((rival_reach(other, primary, skies[other.survey]) for other in recipe.counterparts), default=0.0)
    around = rows_of(build, primary, margin_ranges(cell, rivals), recipe.primary.where)
    total = _within(around, cell)
    around = select(around, recipe.primary.where)
    passed = _within(around, cell)
    around = _taken(build, around, known.get(primary.survey), margin_ranges(cell, rivals))
    index = around["_healpix_29"].to_numpy()
    told = in_ranges(index, cell.range)
    lost = Counter({f"does not pass where: {recipe.primary.where}": total - passed})
    if passed > told.sum():
        lost[reason(recipe.primary, build.surveys[primary.survey])] = passed - int(told.sum())
    found = {}
    for counterpart in recipe.counterparts:
        sky, joins = skies[counterpart.survey], known.get(counterpart.survey)
        far = probe_reach(counterpart, probes.get(sky.survey), primary, sky)
        found[sky.survey] = _pairs(build, cell, (primary, around), sky, counterpart, joins, far)
        untold = blind(counterpart, primary, sky, index)
        if counterpart.on and joins and joins.unread:
            more = f" and {len(joins.unread) - 1} more" if joins.unread[1:] else ""
            paired = np.bincount(found[sky.survey][1].primary, minlength=len(around)) > 0
            untold[f"no {sky.survey} {counterpart.rule}, but {joins.unread[0]}{more} set aside"] = ~paired
        for why, rows in untold.items():
            lost[why] += int((told & rows).sum())
            told &= ~rows
    quality = {
        c.survey: counted(build, Side(primary, around), told, Side(skies[c.survey], found[c.survey][0]), c, probes[c.survey])
        for c in recipe.counterparts
        if c.survey in probes
    }
    output: dict[str, Int] = {"primary": np.flatnonzero(told)}
    for counterpart in recipe.counterparts:
        before = _distinct(output["primary"])
        output = joined(output, counterpart.survey, found[counterpart.survey][1], counterpart.how, len(around))
        lost[f"no {counterpart.survey} {counterpart.rule}"] = before - _distinct(output["primary"])
    table = compose(recipe, build.surveys, around, found, output)
    return Strip(table, _distinct(output["primary"]), total, dict(lost), quality)


def _distinct(ascending: Int) -> int:
    return int(np.count_nonzero(np.diff(ascending, prepend=-1)))


def _within(table: pa.Table, cell: Cell) -> int:
    """How many rows lie in a pixel."""
    return int(in_ranges(table["_healpix_29"].to_numpy(), cell.range).sum())


def _taken(build: Build, table: pa.Table, joins: Joined | None, ranges: Int) -> pa.Table:
    """Rows of a survey without the observations that the recipe does not take."""
    return (table if joins is None else without(table, read_losers(build, joins, ranges))).combine_chunks()


def _pairs(
    build: Build, cell: Cell, ours: tuple[Sky, pa.Table], sky: Sky, counterpart: Counterpart, joins: Joined | None, far: float
) -> tuple[pa.Table, Pairs]:
    """Rows of a counterpart out to `far` arcsec at least, and their pairs with rows of the primary."""
    primary, around = ours
    if counterpart.on:
        if joins is None:
            raise BrokenArtefact(f"keys of {sky.survey} were not joined", hint="run the stage `keys` first")
        return pairs_by_key(build, joins, around, cell)
    ranges = margin_ranges(cell, max(far, reach(counterpart, primary, sky)))
    rows = _taken(build, select(rows_of(build, sky, ranges, counterpart.where, counterpart), counterpart.where), joins, ranges)
    return rows, pairs_by_position(build, Side(primary, around), Side(sky, rows), counterpart)

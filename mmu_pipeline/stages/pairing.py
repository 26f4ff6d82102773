"""Rows of a primary and of one counterpart to their pairs: by position, each at the epoch that the recipe asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.astrometry import at_epoch, julian_year, pair_chord
from mmu_pipeline.candidates import Positions
from mmu_pipeline.catalog import Counterpart
from mmu_pipeline.matching import Pairs, Refinement, match
from mmu_pipeline.picking import pick_objects
from mmu_pipeline.sky import Float, Int
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.repeats import is_repeated, observations
from mmu_pipeline.stages.skies import Sky, wide


@dataclass(frozen=True)
class Side:
    """One side of a match: a survey, and those of its rows that take part, in `_healpix_29` order."""

    sky: Sky
    rows: pa.Table


def pairs_by_position(build: Build, primary: Side, other: Side, counterpart: Counterpart) -> Pairs:
    """The matches of a counterpart with every row of the primary.

    Where a survey takes part with all observations of an object, it is objects that are picked, not rows.
    """
    surveys = [build.surveys[side.sky.survey] for side in (primary, other)]
    selections = (build.recipe.primary, counterpart)
    repeated = any(is_repeated(selection, survey) for selection, survey in zip(selections, surveys, strict=True))
    by_object = repeated and counterpart.pick != "all"
    pairs = match(
        positions(build, primary, counterpart),
        positions(build, other, counterpart),
        wide(counterpart, primary.sky, other.sky),
        "all" if by_object else "best" if counterpart.best else counterpart.pick,  # type: ignore[arg-type]
        preference(other.rows, counterpart),
        refinement(build, primary, other, counterpart),
    )
    if not by_object:
        return pairs
    ids = id_ranks(primary.rows), id_ranks(other.rows)
    objects = observations(primary.rows, surveys[0]), observations(other.rows, surveys[1])
    candidates = pairs.primary, pairs.counterpart, pairs.separation_arcsec
    return pick_objects(*candidates, counterpart.pick, ids, objects, preference(other.rows, counterpart))


def positions(build: Build, side: Side, counterpart: Counterpart) -> Positions:
    """Where the rows of one side are at the epoch of a match."""
    rows, survey = side.rows, build.surveys[side.sky.survey]
    if counterpart.epoch is not None and survey.motion is not None:
        return Positions(*at_epoch(rows, survey, julian_year(counterpart.epoch)), rows["object_id"])
    return Positions(rows["ra"].to_numpy(), rows["dec"].to_numpy(), rows["object_id"], rows["_healpix_29"].to_numpy())


def refinement(build: Build, primary: Side, other: Side, counterpart: Counterpart) -> Refinement | None:
    """Where one survey alone has motions, each of its rows is moved to the very epoch of the row that it is compared with."""
    if counterpart.epoch is None:
        return None
    surveys = [build.surveys[side.sky.survey] for side in (primary, other)]
    moving = [survey.motion is not None for survey in surveys]
    if sum(moving) != 1 or surveys[moving.index(False)].epoch is None:
        return None
    chords = pair_chord((primary.rows, other.rows), (surveys[0], surveys[1]), julian_year(counterpart.epoch))
    return Refinement(primary.sky.move(counterpart) + other.sky.move(counterpart), chords)


def id_ranks(rows: pa.Table) -> Int:
    """The place of each row's id among all ids, which breaks ties. Shape (n,)."""
    return np.asarray(pc.rank(rows["object_id"], tiebreaker="dense").to_numpy(), np.int64)


def preference(rows: pa.Table, counterpart: Counterpart) -> Float | None:
    """What `best` minimises, shape (n,), NaN where it is not known."""
    if counterpart.best is None:
        return None
    column, ascending = counterpart.best
    values = rows[column].cast(pa.float64()).to_numpy()
    return np.asarray(values if ascending else -values)

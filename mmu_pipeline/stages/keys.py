"""Object tables to what no cell knows by itself: pairs of rows with one key, and the repeats that a recipe does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmu_pipeline.astrometry import julian_year, motion_columns, pair_chord
from mmu_pipeline.catalog import Counterpart, Selection, Survey, repeats_of
from mmu_pipeline.errors import BadInput
from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.joining import TooCommon, common_type, equal_pairs, key_codes
from mmu_pipeline.matching import Pairs
from mmu_pipeline.picking import joined_pairs, pick_objects
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import CELL_ORDER, arcsec, chord, pixels_at
from mmu_pipeline.stages.buckets import Bucket, Whole, buckets
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.pairing import id_ranks, preference
from mmu_pipeline.stages.repeats import PLACE_SCHEMA, is_reduced, losers_of, observations, reason, taken
from mmu_pipeline.stages.scan import table_digest

PAIRS_SCHEMA = pa.schema(
    [
        *PLACE_SCHEMA,
        ("other_object_id", pa.string()),
        ("other_source_file", pa.string()),
        ("other_source_row", pa.int64()),
        ("other_healpix_29", pa.int64()),
        ("separation_arcsec", pa.float64()),
        ("rank", pa.int32()),
        ("n_candidates", pa.int32()),
    ]
)


def is_asked(selection: Selection, survey: Survey) -> bool:
    """Whether this stage has something to do for a survey."""
    return is_reduced(selection, survey) or (isinstance(selection, Counterpart) and selection.on is not None)


def units(build: Build, sides: Mapping[str, Whole]) -> list[Unit]:
    """The buckets of every survey of which a recipe takes one observation of each object, and of every join by key."""
    primary, result = build.recipe.primary, []
    for selection in build.recipe.selections:
        survey = build.surveys[selection.survey]
        side, takes = sides[survey.name], _taking(selection, survey)
        if is_reduced(selection, survey):
            result += _units(build, f"{survey.name}/repeats", [side], takes)
        if isinstance(selection, Counterpart) and selection.on:
            rule = [takes, _taking(primary, build.surveys[primary.survey]), list(selection.on.items())]
            rule += [selection.radius_arcsec, selection.pick, selection.epoch]
            result += _units(build, f"{survey.name}/pairs", [sides[primary.survey], side], rule)
    return result


def _taking(selection: Selection, survey: Survey) -> list[object]:
    return [
        selection.where,
        repeats_of(selection, survey),
        survey.object_column,
        survey.epoch,
        survey.motion and dict(survey.motion),
    ]


def _units(build: Build, name: str, sides: Sequence[Whole], rule: object) -> list[Unit]:
    read = [(side.precision_arcsec, [(part.path, part.digest) for part in side.partitions]) for side in sides]
    rows = sum(side.rows for side in sides)
    return [
        Unit("keys", f"{build.recipe.name}/{name}-{bucket}", None, 100 * rows, (bucket, *sides),
             fingerprint("keys", rule, bucket, [side.survey for side in sides], read))
        for bucket in buckets(rows, build.bucket_rows)
    ]  # fmt: skip


def run(unit: Unit, build: Build) -> Receipt:
    """Write a bucket of one survey's rows that are not taken, or of its pairs with the primary, to `pieces/keys/<unit>.parquet`.

    The unit's inputs are the bucket and the survey's side, or the primary's side and the counterpart's. Rows follow
    `_healpix_29`. Raises BadInput for a key that tells no object.
    """
    (bucket,) = (item for item in unit.inputs if isinstance(item, Bucket))
    sides = [item for item in unit.inputs if isinstance(item, Whole)]
    chosen = {selection.survey: selection for selection in build.recipe.selections}[sides[-1].survey]
    skipped: dict[str, int] = {}
    if len(sides) == 2 and isinstance(chosen, Counterpart):
        rows, table = _pairs_of(build, sides, build.recipe.primary, chosen, bucket)
    else:
        rows, table = losers_of(build, sides[0], chosen, bucket)
        if isinstance(chosen, Counterpart) and len(table):  # those of the primary are counted where they would have matched
            skipped = {reason(chosen, build.surveys[chosen.survey]): len(table)}
    path = f"pieces/keys/{unit.name}.parquet"
    build.root.write_table(path, table)
    return Receipt(
        stage="keys", unit=unit.name, fingerprint=unit.fingerprint, rows_in=rows, rows_out=len(table), skipped=skipped,
        outputs={path: build.root.size(path) or 0}, facts={"cells": _digests(table)},
    )  # fmt: skip


def _digests(table: pa.Table) -> dict[str, str]:
    """Order-4 cell -> a digest of its rows, of a table along the sky: what tells whether a cell's match must be redone."""
    cells, starts = np.unique(pixels_at(table["_healpix_29"].to_numpy(), CELL_ORDER), return_index=True)
    ends = [*starts[1:].tolist(), len(table)][: len(starts)]
    return {
        str(cell): table_digest(table.slice(start, end - start))[:16]
        for cell, start, end in zip(cells.tolist(), starts.tolist(), ends, strict=True)
    }


def _pairs_of(
    build: Build, sides: Sequence[Whole], primary: Selection, counterpart: Counterpart, bucket: Bucket
) -> tuple[int, pa.Table]:
    """How many rows a bucket of keys has on both sides, and the picked pairs among them."""
    surveys = [build.surveys[side.survey] for side in sides]
    keys = [list((counterpart.on or {}).values()), list(counterpart.on or {})]
    read = [_columns_of(survey, counterpart) for survey in surveys]
    read[1] += [counterpart.best[0]] if counterpart.best else []
    types = [common_type(_type(surveys[0], ours), _type(surveys[1], theirs)) for ours, theirs in zip(*keys, strict=True)]
    tables = [
        taken(build, side, selection, [*names, *columns], names, types, bucket)
        for side, selection, names, columns in zip(sides, (primary, counterpart), keys, read, strict=True)
    ]
    precision = sum(side.precision_arcsec for side in sides)
    pairs = _picked(tables, keys, surveys, counterpart, precision)
    ours, theirs = (table.take(pa.array(rows)) for table, rows in zip(tables, (pairs.primary, pairs.counterpart), strict=True))
    columns = [ours[name] for name in PLACE_SCHEMA.names]
    columns += [theirs[name] for name in ("object_id", "source_file", "source_row", "_healpix_29")]
    columns += [pa.array(values) for values in (pairs.separation_arcsec, pairs.rank, pairs.n_candidates)]
    order = [(name, "ascending") for name in (*PLACE_SCHEMA.names, "rank")]
    return sum(map(len, tables)), pa.table(columns, schema=PAIRS_SCHEMA).sort_by(order).combine_chunks()


def _columns_of(survey: Survey, counterpart: Counterpart) -> list[str]:
    """What is read of a survey's rows to measure, pick and point to them."""
    moving = motion_columns(survey) if counterpart.epoch else []
    objects = [survey.object_column] if survey.object_column else []
    return ["_healpix_29", "ra", "dec", "object_id", "source_file", "source_row", *moving, *objects]


def _type(survey: Survey, column: str) -> pa.DataType:
    return pa.string() if column == "object_id" else survey.field(column).arrow_type


def _picked(
    tables: Sequence[pa.Table],
    keys: Sequence[Sequence[str]],
    surveys: Sequence[Survey],
    counterpart: Counterpart,
    precision_arcsec: float,
) -> Pairs:
    """The pick among all pairs of equal key, a bounded number of them at a time."""
    ours, theirs = tables
    codes = key_codes([ours[name] for name in keys[0]], [theirs[name] for name in keys[1]])
    epoch = julian_year(counterpart.epoch) if counterpart.epoch else None
    measure = pair_chord((ours, theirs), (surveys[0], surveys[1]), epoch)
    ids = id_ranks(ours), id_ranks(theirs)
    objects = observations(ours, surveys[0]), observations(theirs, surveys[1])
    within = np.inf if counterpart.radius_arcsec is None else chord(counterpart.radius_arcsec + precision_arcsec)
    found = []
    try:
        for i, j in equal_pairs(*codes):
            distance = measure(i, j)
            near = distance <= within
            candidates = i[near], j[near], arcsec(distance[near])
            found.append(pick_objects(*candidates, counterpart.pick, ids, objects, preference(theirs, counterpart)))
    except TooCommon as error:
        row = {name: ours[name][error.row].as_py() for name in keys[0]}
        raise BadInput(f"a key stands in {error.counts[0]:,} rows of {surveys[0].name} and in {error.counts[1]:,} of "
                       f"{surveys[1].name}: it tells no object", key=row,
                       hint="leave such rows out with `where`, or declare the value a sentinel") from error  # fmt: skip
    return joined_pairs(found)

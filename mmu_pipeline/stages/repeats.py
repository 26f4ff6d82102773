"""Rows of a survey to the observations that a recipe takes of each object: all, the first or the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Selection, Survey, ranking, repeats_of
from mmu_pipeline.sky import Bool, Int
from mmu_pipeline.stages.buckets import Bucket, Whole, gathered, in_bucket
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.objects import find_rows

PLACE_SCHEMA = pa.schema([("_healpix_29", pa.int64()), ("source_file", pa.string()), ("source_row", pa.int64())])
"""What tells a row of an object table, and finds it."""


def is_reduced(selection: Selection, survey: Survey) -> bool:
    """Whether a recipe takes one observation of each object of a survey that may have several."""
    return repeats_of(selection, survey) != "all"


def is_repeated(selection: Selection, survey: Survey) -> bool:
    """Whether several rows of one object may take part in a match."""
    return survey.object_column is not None and not is_reduced(selection, survey)


def reason(selection: Selection, survey: Survey) -> str:
    """Why a row is left out whose object has another observation that is taken."""
    rule = repeats_of(selection, survey)
    return (
        "not the first observation of its object" if rule == "first" else f"not the best observation of its object ({rule[6:]})"
    )


def _order_of(selection: Selection, survey: Survey) -> list[tuple[str, str]]:
    """By what the observations of one object are sorted, the one that is taken first; ties follow the source."""
    rule = repeats_of(selection, survey)
    source = [("source_file", "ascending"), ("source_row", "ascending")]
    if rule == "first":
        return [(survey.epoch, "ascending"), *source] if isinstance(survey.epoch, str) else source
    column, ascending = ranking(rule.removeprefix("best: "))
    return [(column, "ascending" if ascending else "descending"), *source]


def _columns_of(selection: Selection, survey: Survey) -> list[str]:
    """What choosing among observations reads."""
    if not is_reduced(selection, survey):
        return []
    return [str(survey.object_column), "_healpix_29", *(name for name, _ in _order_of(selection, survey))]


def _winners(table: pa.Table, selection: Selection, survey: Survey) -> Bool:
    """Which rows are taken, when all observations of their objects are there. A row without object is one by itself."""
    column = str(survey.object_column)
    order = pc.sort_indices(table, [(column, "ascending"), *_order_of(selection, survey)]).to_numpy()
    codes = table[column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    wins = codes < 0
    wins[order[np.flatnonzero(np.diff(codes[order], prepend=-2))]] = True
    return np.asarray(wins)


def losers_of(build: Build, whole: Whole, selection: Selection, bucket: Bucket) -> tuple[int, pa.Table]:
    """How many rows a bucket of objects has, and those of them that are not taken, along the sky."""
    survey = build.surveys[whole.survey]
    column = str(survey.object_column)

    def mine(part: pa.Table) -> pa.Table:
        return in_bucket(part, [column], [part[column].type], bucket)

    table = gathered(build, whole, selection, _columns_of(selection, survey), mine)
    losers = table.filter(pa.array(~_winners(table, selection, survey))).select(PLACE_SCHEMA.names)
    return len(table), losers.sort_by([(name, "ascending") for name in PLACE_SCHEMA.names]).cast(PLACE_SCHEMA).combine_chunks()


def taken(
    build: Build,
    whole: Whole,
    selection: Selection,
    columns: Sequence[str],
    keys: Sequence[str],
    types: Sequence[pa.DataType],
    bucket: Bucket,
) -> pa.Table:
    """Rows of a survey in a bucket of keys, without the observations that the recipe does not take.

    Where an object may have other keys, all observations of the bucket's objects are looked up first, whatever their keys.
    """
    survey = build.surveys[whole.survey]
    deciding = _columns_of(selection, survey)
    table = gathered(build, whole, selection, [*columns, *deciding], lambda part: in_bucket(part, keys, types, bucket))
    if not deciding:
        return table
    column = str(survey.object_column)
    if list(keys) == [column]:
        return table.filter(pa.array(_winners(table, selection, survey)))
    objects = pc.unique(table[column]).drop_null()
    everything = gathered(build, whole, selection, deciding, lambda part: part.filter(pc.is_in(part[column], value_set=objects)))
    losers = everything.filter(pa.array(~_winners(everything, selection, survey)))
    return without(table, losers)


def without(table: pa.Table, losers: pa.Table) -> pa.Table:
    """The rows of an object table that are not among some others, told by source_file and source_row."""
    keep = np.ones(len(table), bool)
    lost = find_rows(table, losers["source_file"], losers["source_row"])
    keep[lost[lost >= 0]] = False
    return table.filter(pa.array(keep))


def observations(table: pa.Table, survey: Survey) -> Int:
    """A number for each row, shape (n,), that the observations of one object share."""
    rows = np.arange(len(table))
    if survey.object_column is None:
        return rows
    known = table[survey.object_column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return np.where(known < 0, len(table) + rows, known)

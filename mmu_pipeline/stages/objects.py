"""Pieces of a survey's object table to one partition of it: a HATS catalog that LSDB opens."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache, cached

from mmu_pipeline.astrometry import widest_motion
from mmu_pipeline.hats import Partition
from mmu_pipeline.sky import CELL_ORDER, Cell, Int, pixels_at
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.scan import SKIPPED_SCHEMA, counts_of, object_schema, table_digest
from mmu_pipeline.storage import Receipt, Root, object_folder, partition_path

DUPLICATE = "duplicate object_id"
CACHED_ROWS = 1 << 20
"""Partitions up to this size are read whole and kept; of larger ones the rows that are asked for are read."""
CACHED_BYTES = 128 * 1024**2
ORDER = [(name, "ascending") for name in ("_healpix_29", "object_id", "source_file", "source_row")]


def run(unit: Unit, build: Build) -> Receipt:
    """Write one partition: the rows of its range from every piece that has some, in `_healpix_29` order.

    Where a survey's ids are unique, a second row of an id is skipped and counted.
    """
    survey = build.surveys[unit.name.split("/")[0]]
    cell = Cell(survey.partition_order, int(unit.name.split("/")[1]))
    start, stop = cell.range
    within = [("_healpix_29", ">=", start), ("_healpix_29", "<", stop)]
    pieces = [build.root.read_table(f"pieces/objects/{name}.parquet", filters=within) for name in unit.inputs]
    table = pa.concat_tables([object_schema(survey).empty_table(), *pieces]).sort_by(ORDER)
    kept, skips = table, SKIPPED_SCHEMA.empty_table()
    if not survey.repeated_ids:
        kept, skips = _without_duplicates(table)
    skipped_rows = None
    if len(skips):
        skipped_rows = f"skipped/objects/{unit.name}.parquet"
        build.root.write_table(skipped_rows, skips)
    path = partition_path(object_folder(survey.name), cell)
    build.root.write_table(path, kept)
    return Receipt(
        stage="objects", unit=unit.name, fingerprint=unit.fingerprint, rows_in=len(table), rows_out=len(kept),
        skipped={DUPLICATE: len(skips)} if len(skips) else {}, skipped_rows=skipped_rows,
        outputs={path: build.root.size(path) or 0},
        facts={
            "digest": table_digest(kept),
            "motion": widest_motion(kept, survey),
            "cells": counts_of(pixels_at(kept["_healpix_29"].to_numpy(), CELL_ORDER)),
        },
    )  # fmt: skip


def _without_duplicates(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The first row of every id in (source_file, source_row) order, and the others as skipped rows."""
    order = pc.sort_indices(table, [("source_file", "ascending"), ("source_row", "ascending")]).to_numpy()
    codes = table["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(table), bool)
    first[order[np.unique(codes[order], return_index=True)[1]]] = True
    lost = table.filter(pa.array(~first)).select(SKIPPED_SCHEMA.names[:3])
    skips = lost.append_column("reason", pa.array([DUPLICATE] * len(lost), pa.string()))
    return table.filter(pa.array(first)), skips.cast(SKIPPED_SCHEMA)


def read_objects(build: Build, survey: str, partitions: Sequence[Partition], ranges: Int, columns: Sequence[str]) -> pa.Table:
    """Rows of an object table within sorted, disjoint `_healpix_29` ranges, shape (n, 2): `_healpix_29`, then `columns`."""
    wanted = tuple(dict.fromkeys(["_healpix_29", *columns]))
    schema = object_schema(build.surveys[survey])
    found = [pa.schema([schema.field(name) for name in wanted]).empty_table()]
    for partition in sorted(partitions, key=lambda item: item.cell.range):
        start, stop = max(int(ranges[0, 0]), partition.cell.range[0]), min(int(ranges[-1, 1]), partition.cell.range[1])
        if start < stop:
            whole = partition.rows <= CACHED_ROWS
            table = _partition(build.root, partition, wanted) if whole else _part(build.root, partition, wanted, start, stop)
            bounds = np.searchsorted(table["_healpix_29"].to_numpy(), ranges)
            found += [table.slice(first, last - first) for first, last in bounds[bounds[:, 0] < bounds[:, 1]].tolist()]
    return pa.concat_tables(found)


@cached(LRUCache(CACHED_BYTES, getsizeof=lambda table: table.nbytes), lock=Lock())
def _partition(root: Root, partition: Partition, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a small partition; kept a while, since its neighbours in the sky will want its margin."""
    return root.read_table(partition.path, list(columns)).combine_chunks()


def _part(root: Root, partition: Partition, columns: tuple[str, ...], start: int, stop: int) -> pa.Table:
    """The rows of a large partition from one `_healpix_29` to before another."""
    return root.read_table(partition.path, list(columns), [("_healpix_29", ">=", start), ("_healpix_29", "<", stop)])

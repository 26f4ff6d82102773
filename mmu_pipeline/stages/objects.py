"""Pieces of a survey's object table to one partition of it: a HATS catalog that LSDB opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cachetools import LRUCache, cached

from mmu_pipeline.astrometry import widest_motion
from mmu_pipeline.footprint import occupied
from mmu_pipeline.hats import Partition
from mmu_pipeline.parquet_file import ROW_GROUP
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import CELL_ORDER, Cell, Int, overlapping, pixels_at
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.scan import SKIPPED_SCHEMA, counts_of, object_schema, table_digest
from mmu_pipeline.storage import Root, object_folder, partition_path

DUPLICATE = "duplicate object_id"
CACHED_BYTES = 32 * 1024**2
"""Row groups of object tables that a process keeps."""
CACHED_FOOTERS = 8 * 1024**2
"""Bytes of footers of them that it keeps, as they are stored; some five times as much in memory."""
ORDER = [(name, "ascending") for name in ("_healpix_29", "object_id", "source_file", "source_row")]


@dataclass(frozen=True)
class Piece:
    """The objects that one scan found, in `_healpix_29` order."""

    path: str
    """Under the root."""
    digest: str
    """What changes with its rows."""


def run(unit: Unit, build: Build) -> Receipt:
    """Write one partition: the rows of its range from every piece that has some, in `_healpix_29` order.

    Where a survey's ids are unique, a second row of an id is skipped and counted.
    """
    survey = build.surveys[unit.name.split("/")[0]]
    cell = Cell(survey.partition_order, int(unit.name.split("/")[1]))
    start, stop = cell.range
    schema = object_schema(survey)
    pieces = [piece for piece in unit.inputs if isinstance(piece, Piece)]
    found = [rows for piece in pieces for rows in _rows_within(build.root, piece, (start, stop), tuple(schema.names))]
    table = pa.concat_tables([schema.empty_table(), *found]).sort_by(ORDER)
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
            "footprint": occupied(kept["_healpix_29"].to_numpy()),
        },
    )  # fmt: skip


def _rows_within(root: Root, piece: Piece, within: tuple[int, int], columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows of a piece in a range of `_healpix_29`. Its row groups are kept: the next partition begins in one of them."""
    groups = row_groups(root, piece)
    for number in np.flatnonzero((groups.first < within[1]) & (groups.last >= within[0])).tolist():
        table = _group(root, piece, columns, number)
        first, last = np.searchsorted(table["_healpix_29"].to_numpy(), within).tolist()
        yield table.slice(first, last - first)


def _without_duplicates(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The first row of every id in (source_file, source_row) order, and the others as skipped rows."""
    order = pc.sort_indices(table, [("source_file", "ascending"), ("source_row", "ascending")]).to_numpy()
    codes = table["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(table), bool)
    first[order[np.unique(codes[order], return_index=True)[1]]] = True
    lost = table.filter(pa.array(~first)).select(SKIPPED_SCHEMA.names[:3])
    skips = lost.append_column("reason", pa.array([DUPLICATE] * len(lost), pa.string()))
    return table.filter(pa.array(first)), skips.cast(SKIPPED_SCHEMA)


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a partition. Arrays have shape (groups,)."""

    footer: pq.FileMetaData | None
    """None if it was not read."""
    first: Int
    """Smallest `_healpix_29` of each."""
    last: Int
    """Largest of each."""
    rows: Int


def read_objects(build: Build, survey: str, partitions: Sequence[Partition], ranges: Int, columns: Sequence[str]) -> pa.Table:
    """Rows of an object table within sorted, disjoint `_healpix_29` ranges, shape (n, 2): `_healpix_29`, then `columns`.

    Row groups without any such row are not read.
    """
    wanted = tuple(dict.fromkeys(["_healpix_29", *columns]))
    schema = object_schema(build.surveys[survey])
    found = [pa.schema([schema.field(name) for name in wanted]).empty_table()]
    ordered = sorted((partition for partition in partitions if partition.rows), key=lambda item: item.cell.range)
    bounds = np.array([partition.cell.range for partition in ordered], np.int64).reshape(-1, 2)
    for partition in (ordered[place] for place in overlapping(bounds, ranges).tolist()):
        for table in _groups(build.root, partition, wanted, ranges):
            rows = np.searchsorted(table["_healpix_29"].to_numpy(), ranges)
            found += [table.slice(first, last - first) for first, last in rows[rows[:, 0] < rows[:, 1]].tolist()]
    return pa.concat_tables(found)


def _groups(root: Root, partition: Partition, columns: tuple[str, ...], ranges: Int) -> list[pa.Table]:
    """Those row groups of a partition, in order, that may hold rows within ranges."""
    groups = row_groups(root, partition)
    within = np.searchsorted(ranges[:, 1], groups.first, side="right")
    chosen = np.flatnonzero(np.append(ranges[:, 0], np.iinfo(np.int64).max)[within] <= groups.last)
    return [_group(root, partition, columns, int(number)) for number in chosen]


def row_groups(root: Root, stored: Partition | Piece) -> RowGroups:
    """The row groups of a partition or piece. A small partition has a single group, which may lie anywhere in its pixel."""
    if isinstance(stored, Partition) and stored.rows <= ROW_GROUP:
        start, stop = stored.cell.range
        return RowGroups(None, np.array([start]), np.array([stop - 1]), np.array([stored.rows]))
    return _row_groups(root, stored)


@cached(LRUCache(CACHED_FOOTERS, getsizeof=lambda groups: groups.footer.serialized_size), lock=Lock())
def _row_groups(root: Root, stored: Partition | Piece) -> RowGroups:
    """What the footer of a file says of them; kept, since neighbours in the sky ask again."""
    footer = root.read_footer(stored.path)
    groups = [group for number in range(footer.num_row_groups) if (group := footer.row_group(number)).num_rows]
    ends = [(g.column(0).statistics.min, g.column(0).statistics.max, g.num_rows) for g in groups]
    return RowGroups(footer, *np.array(ends, np.int64).reshape(-1, 3).T)


def find_rows(objects: pa.Table, files: pa.ChunkedArray, rows: pa.ChunkedArray) -> Int:
    """Where each (source_file, source_row) stands in an object table, shape (n,); -1 where it does not, or is null."""
    both = pa.chunked_array([*objects["source_file"].chunks, *files.chunks], pa.string()).combine_chunks()
    codes = both.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64) << 40
    known = codes[: len(objects)] + objects["source_row"].to_numpy()
    asked = codes[len(objects) :] + pc.fill_null(rows, 0).to_numpy()
    if not len(known):
        return np.full(len(asked), -1, np.int64)
    order = np.argsort(known, kind="stable")
    place = order[np.minimum(np.searchsorted(known, asked, sorter=order), len(order) - 1)]
    return np.where((known[place] == asked) & pc.is_valid(files).to_numpy(), place, -1)


@cached(LRUCache(CACHED_BYTES, getsizeof=lambda table: table.get_total_buffer_size()), lock=Lock())
def _group(root: Root, stored: Partition | Piece, columns: tuple[str, ...], number: int) -> pa.Table:
    """Some columns of a row group; kept a while, since its neighbours in the sky will want its margin."""
    return root.read_row_group(stored.path, row_groups(root, stored).footer, number, columns).combine_chunks()

"""The rows of every shard, each shard's in sky order -> the index of a set: all rows in one file, in sky order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.index import DIGESTS, INDEX_PATH, ROW_GROUP, IndexFacts, digest_sum, layout, shard_index_path
from mmu_pipeline.sky import Int
from mmu_pipeline.storage import Root

AT_ONCE = 128
"""Files that are merged at a time. More than that are first merged in groups."""
ROWS_HELD = 512_000
"""Rows of all files together that are read ahead."""


def in_sky_order(streams: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """The rows of several streams of tables, each in the order of `_healpix_29`, together in that order.

    Of each stream one table is held. How rows of one pixel follow each other depends on the streams and their tables alone.
    """
    held = [next(stream, None) for stream in streams]
    while any(table is not None for table in held):
        horizon = min(_pixels(table)[-1] for table in held if table is not None)
        ready = []
        for number, table in enumerate(held):
            if table is not None:
                size = int(np.searchsorted(_pixels(table), horizon, side="right"))
                ready.append(table.slice(0, size))
                held[number] = table.slice(size) if size < len(table) else next(streams[number], None)
        together = pa.concat_tables(ready)
        yield together.take(np.argsort(_pixels(together), kind="stable")) if len(ready) > 1 else together


def _pixels(table: pa.Table) -> Int:
    return np.asarray(table["_healpix_29"].to_numpy(), np.int64)


def write_index(root: Root, folder: str, shards: Sequence[str]) -> IndexFacts:
    """Write the index of the set in `folder` from the rows beside its shards. Memory does not grow with the set."""
    if not shards:
        raise BadInput("a set needs at least one shard", folder=folder)
    paths, made = [f"{folder}/{shard_index_path(name)}" for name in shards], list[str]()
    names = (f"{folder}/index/merging-{number:06d}.parquet" for number in count())
    while len(paths) > AT_ONCE:
        groups = [paths[first : first + AT_ONCE] for first in range(0, len(paths), AT_ONCE)]
        paths = [_merged(root, group, next(names)) for group in groups]
        made += paths
    path = _merged(root, paths, f"{folder}/{INDEX_PATH}")
    for one in made:
        root.remove(one)
    rows, repeats, total = 0, 0, 0
    with root.fs.open(root.path(path), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["repeat", "digest"]):
            once = batch.filter(pc.invert(batch["repeat"]))
            rows, repeats = rows + len(batch), repeats + len(batch) - len(once)
            total += digest_sum(once["digest"])
    return IndexFacts(rows, repeats, f"{total % DIGESTS:016x}", root.size(path) or 0, root.digest_of(path))


def _merged(root: Root, paths: Sequence[str], target: str) -> str:
    """Write the rows of some files into one. Gives its path."""
    schema = pq.read_schema(root.path(paths[0]), filesystem=root.fs)
    streams = [_read(root, path, max(1, ROWS_HELD // len(paths))) for path in paths]
    with root.writing(target) as file, pq.ParquetWriter(file, schema, **layout(schema)) as writer:
        for table in _grouped(in_sky_order(streams)):
            writer.write_table(table, row_group_size=ROW_GROUP)
    return target


def _read(root: Root, path: str, rows: int) -> Iterator[pa.Table]:
    with root.fs.open(root.path(path), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(rows, use_threads=False):
            yield pa.table(batch)


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP, the last one less."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROW_GROUP:
            together = pa.concat_tables(held)
            whole = len(together) // ROW_GROUP * ROW_GROUP
            yield together.slice(0, whole)
            held = [together.slice(whole)]
    if sum(map(len, held)):
        yield pa.concat_tables(held)

"""Tables with rows of many objects in any order -> files sorted by object, of which the rows of chosen objects are read alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.readers.bounded import check_held

BUCKET_BYTES = 64 * 1024**2
"""Of the tables' text, about what one bucket holds: it is sorted in memory."""
MOST_BUCKETS = 256
"""All are open for writing at once."""
ROW_GROUP = 8192
"""Rows that are read for one object: some 300 kB."""


def gather(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, nbytes: int) -> None:
    """Deal the rows of some tables into files of a folder by the first column, an id (string), each sorted by it.

    Rows of one id keep their order; those without one are left out. `nbytes` is the size of the tables, as text; about
    `BUCKET_BYTES` of that are held. Raises BrokenSource if the rows of a bucket are more than may be held.
    """
    count = min(max(1, -(-nbytes // BUCKET_BYTES)), MOST_BUCKETS)
    dealt = [folder / f"{number:03d}.arrow" for number in range(count)]
    held = np.zeros(count, np.int64)
    with ExitStack() as stack:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        files = [stack.enter_context(pa.ipc.new_file(str(path), schema, options=options)) for path in dealt]
        for batch in batches:
            for number, part in _parts(batch, count):
                files[number].write_table(part)
                held[number] += part.nbytes
    for path, size in zip(dealt, held, strict=True):
        check_held(int(size), "a part of the rows, dealt out by object,")
        _sort(path, schema)


def rows_of(folder: Path, object_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The id and some columns of all rows of some objects that `gather` wrote, each object's in their order."""
    paths = sorted(folder.glob("*.parquet"))
    id_name = pq.read_schema(paths[0]).names[0]
    buckets: dict[int, list[str]] = {}
    for one in dict.fromkeys(object_ids):
        buckets.setdefault(_bucket(one, len(paths)), []).append(one)
    return pa.concat_tables(
        pq.read_table(paths[number], columns=[id_name, *columns], filters=pc.field(id_name).isin(ids), use_threads=False)
        for number, ids in sorted(buckets.items())
    )


def _bucket(object_id: str, count: int) -> int:
    return int(xxhash.xxh3_64_intdigest(object_id.encode()) % count)


def _parts(batch: pa.RecordBatch, count: int) -> Iterator[tuple[int, pa.Table]]:
    """Buckets of which there are rows, and these."""
    ids = batch.column(0).dictionary_encode()
    numbers = np.array([*(_bucket(one, count) for one in ids.dictionary.to_pylist()), count])
    bucket = numbers[ids.indices.fill_null(len(numbers) - 1).to_numpy()]
    order = np.argsort(bucket, kind="stable")
    dealt = pa.Table.from_batches([batch.take(pa.array(order))])
    ends = np.searchsorted(bucket[order], np.arange(count + 1))
    for number in np.flatnonzero(np.diff(ends)):
        yield int(number), dealt.slice(ends[number], ends[number + 1] - ends[number])


def _sort(path: Path, schema: pa.Schema) -> None:
    """A bucket as Parquet, sorted by id; the unsorted file goes."""
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
        order = pc.sort_indices(table, sort_keys=[(schema.names[0], "ascending")])
        pq.write_table(table.take(order), path.with_suffix(".parquet"), row_group_size=ROW_GROUP, compression="zstd")
    path.unlink()

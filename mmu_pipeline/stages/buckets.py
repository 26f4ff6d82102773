"""Object tables to the rows of one hash bucket: what a bucket holds bounds memory, not what the sky holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Selection
from mmu_pipeline.expressions import columns_of, select
from mmu_pipeline.hats import Partition
from mmu_pipeline.scramble import UInt, scrambled
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.scan import object_schema


@dataclass(frozen=True)
class Bucket:
    """One of the parts into which keys are dealt by their hash."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class Whole:
    """All of a survey's object table that a build may read."""

    survey: str
    partitions: tuple[Partition, ...]
    precision_arcsec: float = 0.0
    """How far its positions may be off because of the type in which they were published."""

    @property
    def rows(self) -> int:
        return sum(partition.rows for partition in self.partitions)


def buckets(rows: int, most: int) -> list[Bucket]:
    """Buckets that hold about `most` of so many rows each."""
    of = max(1, -(-rows // most))
    return [Bucket(number, of) for number in range(of)]


def key_hash(columns: Sequence[pa.ChunkedArray], types: Sequence[pa.DataType]) -> UInt:
    """A hash of each row's key once its columns have these types (int or string); the same on any machine. No nulls."""
    result = np.zeros(len(columns[0]), np.uint64)
    for column, type_ in zip(columns, types, strict=True):
        array = pc.cast(column, type_).combine_chunks()
        part = _text_hash(array) if pa.types.is_string(type_) else array.to_numpy().astype(np.int64).view(np.uint64)
        result = scrambled(result * np.uint64(31) + part)
    return result


def _text_hash(array: pa.StringArray) -> UInt:
    """Sum over the bytes of each text of (byte + 1) times a power of an odd number that tells its place, modulo 2**64."""
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    text = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    bounds = bounds - bounds[0]
    lengths = np.diff(bounds)
    place = np.arange(len(text)) - np.repeat(bounds[:-1], lengths)
    powers = np.cumprod(np.full(lengths.max(initial=0), 0x9E3779B97F4A7C15, np.uint64))
    total = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text.astype(np.uint64) + np.uint64(1)) * powers[place], out=total[1:])
    return np.asarray(total[bounds[1:]] - total[bounds[:-1]])


def in_bucket(table: pa.Table, keys: Sequence[str], types: Sequence[pa.DataType], bucket: Bucket) -> pa.Table:
    """The rows of a table whose key falls into a bucket. A key with a null falls into none."""
    known = np.ones(len(table), bool)
    for key in keys:
        known &= table[key].is_valid().to_numpy()
    table = table.filter(pa.array(known))
    mine = key_hash([table[key] for key in keys], types) % np.uint64(bucket.of) == bucket.number
    return table.filter(pa.array(mine))


def gathered(
    build: Build, whole: Whole, selection: Selection, columns: Sequence[str], keep: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """The rows of a survey that pass the selection's `where` and then `keep`, read a row group at a time, in NESTED order."""
    schema = object_schema(build.surveys[whole.survey])
    wanted = list(dict.fromkeys(columns))
    found = [pa.schema([schema.field(name) for name in wanted]).empty_table()]
    found += [keep(part).combine_chunks() for part in _batches(build, whole, selection, wanted)]
    return pa.concat_tables(found)


def _batches(build: Build, whole: Whole, selection: Selection, wanted: list[str]) -> Iterator[pa.Table]:
    read = list(dict.fromkeys([*wanted, *sorted(columns_of(selection.where))]))
    for partition in sorted(whole.partitions, key=lambda item: item.cell.range):
        footer = build.root.read_footer(partition.path)
        for number in range(footer.num_row_groups):
            yield select(build.root.read_row_group(partition.path, footer, number, read), selection.where).select(wanted)

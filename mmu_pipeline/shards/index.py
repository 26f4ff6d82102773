"""Indexes of pieces and the plan -> the index of a set: one row per sample, with its place and scalars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.catalog import Recipe
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.plan import NOT_DEALT, PieceSizes, ShardPlan, tied
from mmu_pipeline.shards.samples import training_order
from mmu_pipeline.shards.splits import split_of
from mmu_pipeline.shards.tar import WRITTEN
from mmu_pipeline.sky import Float, Int
from mmu_pipeline.storage import Root

INDEX_PATH = "index/samples.parquet"
"""Where the index lies in the folder of a set."""
POSITION = [
    pa.field("_healpix_29", pa.int64(), nullable=False),
    pa.field("ra", pa.float64(), nullable=False),
    pa.field("dec", pa.float64(), nullable=False),
]
PLANNED = [pa.field("split", pa.int8(), nullable=False), pa.field("training_order", pa.uint64(), nullable=False)]
PLACE = [
    pa.field("split", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("repeat", pa.bool_(), nullable=False),
]
"""Where a sample went. `repeat`: it stands in the set before, and fills a shard to a multiple of its count."""
ROW_GROUP = 20_000
"""Rows that are read together: what a search of a small part of the sky costs."""
DIGESTS = 2**128


@dataclass(frozen=True)
class IndexFacts:
    """What an index says of its set."""

    samples: int
    """Repeats included."""
    repeats: int
    set_digest: str
    """Sum of the samples' digests modulo 2**128, in hexadecimal, each sample once: the same however they are dealt out."""
    nbytes: int
    """Size of the index."""
    digest: str
    """xxh3-128 of the index."""


def piece_schema(scalars: pa.Schema) -> pa.Schema:
    """Columns of a piece's index: where each sample lies in the piece, where on the sky, its split and order, its JSON."""
    return _without_clash([*WRITTEN, *POSITION, *PLANNED, *scalars])


def index_schema(scalars: pa.Schema) -> pa.Schema:
    """Columns of a set's index, for the scalars of its samples."""
    return _without_clash([WRITTEN.field("key"), *POSITION, *PLACE, *list(WRITTEN)[1:], *scalars])


def _without_clash(fields: list[pa.Field]) -> pa.Schema:
    names = [field.name for field in fields]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput("a scalar has the name of a column of the index", column=", ".join(clash), hint="rename the field")
    return pa.schema(fields)


def piece_index(written: pa.Table, healpix29: Int, ra: Float, dec: Float, scalars: pa.Table, recipe: Recipe) -> pa.Table:
    """The index of a piece from what `write_samples` gave, the primaries' positions and the JSON as columns, row by row.

    Raises BrokenArtefact if the rows are not in sky order or the columns differ in length.
    """
    if not len(written) == len(healpix29) == len(ra) == len(dec) == len(scalars):
        raise BrokenArtefact("not as many samples written as described", written=len(written), described=len(scalars))
    if np.any(np.diff(healpix29) < 0):
        raise BrokenArtefact("the samples of a piece are not in sky order")
    order = training_order(written["key"].to_pylist(), recipe.shards.seed)
    planned = [healpix29, ra, dec, split_of(healpix29, recipe.split), order]
    return pa.table([*written.columns, *planned, *scalars.columns], schema=piece_schema(scalars.schema))


def piece_sizes(root: Root, path: str) -> PieceSizes:
    """What planning needs, read from a piece's index."""
    table = root.read_table(path, columns=["split", "training_order", "nbytes"])
    return PieceSizes(*(table[name].to_numpy() for name in ("split", "training_order", "nbytes")))


def repeated_keys(root: Root, pieces: Sequence[str], sizes: Sequence[PieceSizes]) -> list[tuple[int, str, int]]:
    """Samples whose key an earlier one has: its number over all pieces, the key, and the number of that earlier one."""
    first = np.cumsum([0, *(len(piece.nbytes) for piece in sizes)])
    dealt = [np.flatnonzero(piece.split != NOT_DEALT) + start for piece, start in zip(sizes, first, strict=False)]
    numbers = np.concatenate([np.zeros(0, np.int64), *dealt])
    order = np.concatenate([np.zeros(0, np.uint64), *(piece.order for piece in sizes)])
    suspects = numbers[tied(order[numbers])]
    seen: dict[str, int] = {}
    found = []
    for number, path in enumerate(pieces):
        here = suspects[(suspects >= first[number]) & (suspects < first[number + 1])]
        if len(here):
            keys = root.read_table(path, columns=["key"])["key"].take(here - first[number]).to_pylist()
            for row, key in zip(here.tolist(), keys, strict=True):
                if seen.setdefault(key, row) != row:
                    found.append((row, key, seen[key]))
    return found


def write_index(
    root: Root, folder: str, pieces: Sequence[str], plan: ShardPlan, digests: npt.NDArray[np.void] | None = None
) -> IndexFacts:
    """Write the index of the set in `folder` from the indexes of its pieces, in the plan's order, one piece at a time.

    `digests`, one of 16 bytes for each sample of the plan, stand in for those of the pieces. Raises BrokenArtefact if a piece is
    not what was planned, out of sky order, or repeats a key of another.
    """
    if not pieces:
        raise BadInput("a set needs at least one piece", folder=folder)
    scalars = pa.schema(list(pq.read_schema(root.path(pieces[0]), filesystem=root.fs))[len([*WRITTEN, *POSITION, *PLANNED]) :])
    schema = index_schema(scalars.remove_metadata())
    total = 0
    with root.writing(f"{folder}/{INDEX_PATH}") as file, pq.ParquetWriter(file, schema, **_layout(schema)) as writer:
        for table in _grouped(_placed(root, pieces, plan, digests, schema)):
            writer.write_table(table, row_group_size=ROW_GROUP)
            total += digest_sum(table.filter(pc.invert(table["repeat"]))["digest"])
    path = f"{folder}/{INDEX_PATH}"
    with root.fs.open(root.path(path), "rb") as written:
        digest = hashlib.file_digest(written, xxhash.xxh3_128).hexdigest()
    return IndexFacts(len(plan.by_shard), len(plan.repeats), f"{total % DIGESTS:032x}", root.size(path) or 0, digest)


def digest_sum(digests: pa.ChunkedArray | pa.Array) -> int:
    """Sum of digests as numbers: what set_digest is made of."""
    return sum(int.from_bytes(digest, "big") for digest in digests.to_pylist())


def _placed(
    root: Root, pieces: Sequence[str], plan: ShardPlan, digests: npt.NDArray[np.void] | None, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The index's rows of each piece: every sample that was dealt out, and again where it is repeated."""
    names, splits = pa.array(plan.names, pa.string()), pa.array(plan.splits, pa.string())
    seen: dict[str, str] = {}
    last = -1
    again = plan.by_shard[plan.repeats]
    shard_again = np.searchsorted(plan.bounds, plan.repeats, side="right") - 1
    offset_again = _offsets(plan, shard_again, plan.repeats)
    for number, path in enumerate(pieces):
        table, rows = root.read_table(path), plan.piece(number)
        index = table["_healpix_29"].to_numpy()
        if len(table) != rows.stop - rows.start:
            raise BrokenArtefact("a piece has changed since the shards were planned", file=path, hint="plan again")
        if len(index) and index[0] < last:
            raise BrokenArtefact("pieces are not in sky order", file=path)
        last = int(index[-1]) if len(index) else last
        for row in plan.ties[(plan.ties >= rows.start) & (plan.ties < rows.stop)]:
            key = table["key"][int(row) - rows.start].as_py()
            if key in seen and plan.shard[row] != NOT_DEALT:
                raise BrokenArtefact("two samples have the same key", key=key, file=path, other=seen[key])
            if plan.shard[row] != NOT_DEALT:
                seen[key] = path
        once = np.flatnonzero(plan.shard[rows] != NOT_DEALT)
        twice = np.flatnonzero((again >= rows.start) & (again < rows.stop))
        taken = np.concatenate([once, again[twice] - rows.start])
        order = np.argsort(taken, kind="stable")
        shard = np.concatenate([plan.shard[rows][once], shard_again[twice]])[order]
        place = {
            "split": splits.take(pa.array(shard)),
            "shard": names.take(pa.array(shard)),
            "repeat": pa.array(order >= len(once)),
            "offset": pa.array(np.concatenate([plan.offset[rows][once], offset_again[twice]])[order]),
        }
        if digests is not None:
            place["digest"] = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(order), [None, pa.py_buffer(digests[rows][taken[order]].tobytes())]
            )
        table = table.take(pa.array(taken[order]))
        yield pa.table([place[name] if name in place else table[name] for name in schema.names], schema=schema)


def _offsets(plan: ShardPlan, shards: Int, places: Int) -> Int:
    """Where the samples at some places of `by_shard` start in their shards."""
    found = [plan.sample_offsets(int(shard))[place - plan.bounds[shard]] for shard, place in zip(shards, places, strict=True)]
    return np.array(found, np.int64)


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about ROW_GROUP."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _layout(schema: pa.Schema) -> dict[str, object]:
    """How the columns are packed: what repeats by dictionary, integers by difference, floats by byte plane."""
    encoding = {
        **{field.name: "BYTE_STREAM_SPLIT" for field in schema if field.type in (pa.float32(), pa.float64())},
        **{field.name: "DELTA_BINARY_PACKED" for field in schema if field.type in (pa.int32(), pa.int64())},
        "key": "DELTA_BYTE_ARRAY",
    }
    plain = [field.name for field in schema if field.name not in encoding and field.name != "digest"]
    lists = [f"{name}.list.element" if pa.types.is_list(schema.field(name).type) else name for name in plain]
    return {"compression": "zstd", "column_encoding": encoding, "use_dictionary": lists, "write_page_index": True}

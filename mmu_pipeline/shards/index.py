"""What the index of a set and those of its pieces hold: one row per sample, with its place on the sky and in the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Recipe
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.plan import NOT_DEALT, PieceSizes, tied
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
    pa.field("edge", pa.bool_(), nullable=False),
]
"""Where a sample went. `repeat`: it stands in the set before, and fills a shard to a multiple of its count. `edge`: it lies
within EDGE_ARCSEC of sky of another split, whatever guard is kept."""
EDGE_ARCSEC = 60.0
ROW_GROUP = 25_000
"""Rows that are read together: what a search of a small part of the sky costs."""
DIGESTS = 2**64


@dataclass(frozen=True)
class IndexFacts:
    """What an index says of its set."""

    samples: int
    """Repeats included."""
    repeats: int
    set_digest: str
    """Sum of the samples' digests modulo 2**64, in hexadecimal, each sample once: the same however they are dealt out."""
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
    table = root.read_table(path, columns=["split", "training_order", "nbytes", "digest"])
    return PieceSizes(*(table[name].to_numpy() for name in ("split", "training_order", "nbytes", "digest")))


def shard_index_path(shard: str) -> str:
    """Where the rows of a shard lie: beside it, columns as the set's index."""
    return f"{shard.removesuffix('.tar')}.parquet"


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


def digest_sum(digests: pa.ChunkedArray | pa.Array) -> int:
    """Sum of digests modulo DIGESTS: what set_digest is made of."""
    return int(np.sum(digests.to_numpy(), dtype=np.uint64))


def layout(schema: pa.Schema) -> dict[str, object]:
    """How columns are packed: pixels by difference, floats and offsets by byte plane, digests as they are, else by dictionary."""
    encoding = {
        **{field.name: "BYTE_STREAM_SPLIT" for field in schema if field.type in (pa.float32(), pa.float64())},
        "_healpix_29": "DELTA_BINARY_PACKED",
        "offset": "BYTE_STREAM_SPLIT",
        "key": "DELTA_BYTE_ARRAY",
        "digest": "PLAIN",
    }
    plain = [field.name for field in schema if field.name not in encoding]
    lists = [f"{name}.list.element" if pa.types.is_list(schema.field(name).type) else name for name in plain]
    return {"compression": "zstd", "column_encoding": encoding, "use_dictionary": lists, "write_page_index": True}

"""A set's folder, its shards and a condition -> where each sample that passes lies, in the order of the shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.expressions import parse_where
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.side_files import tar_index_path
from mmu_pipeline.shards.ustar import END_OF_ARCHIVE
from mmu_pipeline.sky import Int
from mmu_pipeline.storage import Root, each


@dataclass(frozen=True)
class Shard:
    """A tar of a set, as its manifest says."""

    name: str
    nbytes: int
    digest: str
    samples: int


@dataclass(frozen=True)
class Places:
    """Where samples lie. Arrays of shape (n,), 20 bytes a sample."""

    shard: npt.NDArray[np.int32]
    """Number of its shard in the list of the split's shards."""
    offset: Int
    nbytes: Int
    digest: npt.NDArray[np.uint64] | None = None
    """xxh3-64 of each sample; None if they were not asked for."""

    def __len__(self) -> int:
        return len(self.shard)

    def at(self, rows: Int) -> Places:
        """Those of some rows."""
        held = None if self.digest is None else self.digest[rows]
        return Places(self.shard[rows], self.offset[rows], self.nbytes[rows], held)

    def each(self) -> Iterator[tuple[int, int, int, int | None]]:
        """Shard, offset, size and digest of one sample after the other."""
        held = itertools.repeat(None) if self.digest is None else self.digest.tolist()
        return zip(self.shard.tolist(), self.offset.tolist(), self.nbytes.tolist(), held, strict=False)


def joined_places(parts: Sequence[Places], shards: Sequence[int]) -> Places:
    """Places in several lists of shards, of these lengths, as places in one list. Digests are kept if all have them."""
    firsts = np.cumsum([0, *shards[:-1]])
    digests = [part.digest for part in parts if part.digest is not None]
    return Places(
        np.concatenate([part.shard + np.int32(first) for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.nbytes for part in parts]),
        np.concatenate(digests) if len(digests) == len(parts) else None,
    )


def shards_of(manifest: Mapping[str, Any], split: str | None) -> tuple[Shard, ...]:
    """The shards of a split, or of all splits. Raises BadInput if there is no such split."""
    splits = manifest["splits"]
    if split is not None and split not in splits:
        raise BadInput(f"the set has no split {split!r}", hint=f"it has: {', '.join(splits)}")
    listed = [shard for name, part in splits.items() if split in (None, name) for shard in part["shards"]]
    return tuple(Shard(shard["name"], shard["nbytes"], shard["digest"], shard["samples"]) for shard in listed)


def find_places(folder: Root, shards: Sequence[Shard], where: str | None, digests: bool, repeats: bool = False) -> Places:
    """The samples of these shards that pass a condition on columns of the index, each once.

    All of them are found by the small index beside each shard; the set's index is read for a condition, for digests, or
    if there are `repeats`, samples that fill a shard to a round number. Raises BadInput for a condition that it does not
    understand, BrokenArtefact if an index is not that of the set.
    """
    if where is None and not digests and not repeats:
        places = _from_side_files(folder, shards)
        if places is not None:
            return places
    table = index_rows(folder, shards, where, ["nbytes", *(["digest"] if digests else [])])
    shard, offset = (table[name].to_numpy() for name in ("shard", "offset"))
    held = table["digest"].to_numpy() if digests else None
    return Places(shard, offset, table["nbytes"].to_numpy(), held)


def index_rows(folder: Root, shards: Sequence[Shard], where: str | None, columns: Sequence[str]) -> pa.Table:
    """Columns of the index for the samples of these shards that pass a condition, each once, in the order of the shards.

    `shard` (int32, its number) and `offset` are always among them.
    """
    path = folder.path(INDEX_PATH)
    names = {shard.name: number for number, shard in enumerate(shards)}
    schema = pq.read_schema(path, filesystem=folder.fs)
    if unknown := [name for name in columns if name not in schema.names]:
        raise BadInput(f"the index has no column {unknown[0]!r}", hint=f"it has: {', '.join(schema.names)}")
    wanted = list(dict.fromkeys(["shard", "offset", *columns]))
    passes = pc.scalar(True) if where is None else parse_where(where, schema.names)
    if "repeat" in schema.names:
        passes = passes & ~pc.field("repeat")
    try:
        table = pq.read_table(
            path,
            columns=wanted,
            filters=passes,
            filesystem=folder.fs,
            read_dictionary=["shard"],
            partitioning=None,
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise BadInput("the condition does not fit the types of the index", where=where, reason=str(error)) from error
    table = table.set_column(wanted.index("shard"), "shard", _numbers(table["shard"], names))
    table = table.filter(pc.field("shard") >= 0)
    order = np.lexsort((table["offset"].to_numpy(), table["shard"].to_numpy()))
    return table.take(pa.array(order))


def _numbers(column: pa.ChunkedArray, names: Mapping[str, int]) -> pa.ChunkedArray:
    """Number of each shard's name, -1 for those of other splits."""
    chunks = []
    for chunk in column.chunks:
        coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        numbers = np.array([names.get(name, -1) for name in coded.dictionary.to_pylist()], np.int32)
        chunks.append(pa.array(numbers[coded.indices.to_numpy()], pa.int32()))
    return pa.chunked_array(chunks, pa.int32())


def _from_side_files(folder: Root, shards: Sequence[Shard]) -> Places | None:
    """Every sample of the shards, None if a shard has no index beside it."""

    def read(shard: Shard) -> Int | None:
        try:
            return np.frombuffer(folder.read_bytes(tar_index_path(shard.name)), "<u8").astype(np.int64)
        except FileNotFoundError:
            return None

    found = each(folder, read, shards)
    starts = [bounds for bounds in found if bounds is not None]
    if len(starts) < len(shards):
        return None
    for shard, bounds in zip(shards, starts, strict=True):
        whole = len(bounds) == shard.samples + 1 and bounds[0] == 0 and bounds[-1] + len(END_OF_ARCHIVE) == shard.nbytes
        if not whole or np.any(np.diff(bounds) <= 0):
            raise BrokenArtefact("an index of a shard is not that of the set", file=folder.path(tar_index_path(shard.name)))
    counts = [shard.samples for shard in shards]
    none = np.zeros(0, np.int64)
    return Places(
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        np.concatenate([none, *(bounds[:-1] for bounds in starts)]),
        np.concatenate([none, *(np.diff(bounds) for bounds in starts)]),
    )

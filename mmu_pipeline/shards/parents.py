"""The URLs of some sets of shards -> sets that can become one, the rows of their indexes together in sky order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.manifest import shards_in
from mmu_pipeline.shards.merge import in_sky_order
from mmu_pipeline.shards.opened import locate, read_manifest
from mmu_pipeline.storage import Root

ROWS = 100_000
"""Rows of each index that are held at a time."""


@dataclass(frozen=True)
class Parent:
    """A set that another one is made from."""

    folder: Root
    manifest: Mapping[str, Any]

    @property
    def shards(self) -> list[str]:
        """File names of its shards."""
        return [shard["name"] for shard in shards_in(self.manifest)]

    @property
    def columns(self) -> list[str]:
        """Columns of its index that hold one value each."""
        plain = ["key", "_healpix_29", "ra", "dec", "split", "shard", "nbytes"]
        return [*plain, *(scalar["name"] for scalar in self.manifest["scalars"] if "length" not in scalar)]


def open_parents(urls: Sequence[str]) -> tuple[Parent, ...]:
    """The sets at some URLs. Raises BadInput if one is no set, or if their samples do not hold the same, naming what differs."""
    if not urls:
        raise BadInput("there is no set to take samples from", hint="name at least one")
    parents = tuple(Parent(folder, read_manifest(folder)) for folder in map(locate, urls))
    first = parents[0]
    for other in parents[1:]:
        for what in ("members", "scalars"):
            ours, theirs = ({entry["name"]: entry for entry in each.manifest[what]} for each in (first, other))
            differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            if differing or list(ours) != list(theirs):
                raise BadInput(
                    f"the {what} of the two sets are not the same, so they cannot be one",
                    differing=", ".join(differing) or "their order",
                    one=first.folder.url,
                    other=other.folder.url,
                    hint="build both from recipes that select the same fields",
                )
    return parents


def shard_places(parents: Sequence[Parent]) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """The shards of all sets, as paths of one filesystem that reads them all."""
    systems = [parent.folder.fs for parent in parents]
    if all(fs is systems[0] for fs in systems):
        return systems[0], [parent.folder.path(name) for parent in parents for name in parent.shards]
    paths = [parent.folder.fs.unstrip_protocol(parent.folder.path(name)) for parent in parents for name in parent.shards]
    return fsspec.filesystem("generic"), paths


def rows_of(parents: Sequence[Parent]) -> Iterator[pa.Table]:
    """All rows of the indexes but repeats, in sky order; the column `source` is the row's shard as a place in `shard_places`."""
    firsts = itertools.accumulate((len(parent.shards) for parent in parents), initial=0)
    return in_sky_order([_rows(parent, first) for parent, first in zip(parents, firsts, strict=False)])


def _rows(parent: Parent, first: int) -> Iterator[pa.Table]:
    names, path = pa.array(parent.shards, pa.string()), parent.folder.path(INDEX_PATH)
    with parent.folder.fs.open(path, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(ROWS):
            table = pa.table(batch).filter(pc.invert(batch["repeat"]))
            if len(table):
                place = pc.index_in(table["shard"], value_set=names)
                if place.null_count:
                    unknown = table["shard"].filter(pc.is_null(place))[0].as_py()
                    raise BrokenArtefact("the index names shards that its manifest does not", file=path, shard=unknown,
                                         hint="mmu verify tells more")  # fmt: skip
                yield table.append_column("source", pc.add(place, pa.scalar(first, pa.int32())))

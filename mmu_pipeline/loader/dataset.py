"""The URL of a set, a split and a condition -> a dataset: samples by number, one at a time or as a batch of arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.loader.batches import Batch, Filling, Ragged
from mmu_pipeline.loader.buffers import Buffers, Memory
from mmu_pipeline.loader.faults import Faults
from mmu_pipeline.loader.layout import Bytes, Choice, Layout, chosen, layout_of
from mmu_pipeline.loader.local_shards import LocalShards
from mmu_pipeline.loader.places import Places, Shard, find_places, index_rows, joined_places, shards_of
from mmu_pipeline.loader.remote_shards import CACHE_BYTES, RemoteShards, cache_folder
from mmu_pipeline.shards.opened import read_manifest, set_folder
from mmu_pipeline.sky import Int
from mmu_pipeline.storage import Root, digest


@dataclass(frozen=True)
class Part:
    """What a dataset takes of one set."""

    folder: Root
    manifest: Mapping[str, Any]
    split: str | None
    where: str | None
    shards: Sequence[Shard]
    source: LocalShards | RemoteShards
    choice: Choice

    @property
    def identity(self) -> str:
        """What its rows are, wherever the set lies."""
        return f"{self.manifest['set_digest']} {self.split} {self.where} {[shard.digest for shard in self.shards]}"


class ShardDataset:
    """Samples of a set, numbered as they lie in its shards.

    `url` is the folder of a version, or of a recipe (then its latest version), on any filesystem that fsspec knows.
    `members` and `columns` are what is given of each sample, by default all; a survey's name stands for its members.
    `where` is a condition on columns of the index, such as "i_mag < 22 and has_sdss". With `check`, every sample is held
    against its digest. Of a remote set, at most `cache_bytes` are kept in `cache`.

    It holds 20 bytes a sample (28 with `check`), may be used by several threads, and can be pickled.
    Raises BadInput if there is no such set, split, member or column, or the condition cannot be understood.
    """

    def __init__(
        self,
        url: str | Path,
        split: str | None = "train",
        members: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        *,
        check: bool = False,
        cache: str | Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        folder = set_folder(str(url))
        manifest = read_manifest(folder)
        layout, shards = layout_of(manifest), shards_of(manifest, split)
        self.wanted: Layout = chosen(layout, members, columns)
        """What is given of each sample."""
        self.places: Places = find_places(folder, shards, where, check, manifest.get("repeats", 0) > 0)
        source: LocalShards | RemoteShards = LocalShards(folder.path(""), shards)
        if not folder.is_local:
            source = RemoteShards(folder, shards, str(cache or cache_folder()), cache_bytes)
        self._own((Part(folder, manifest, split, where, shards, source, Choice(layout, self.wanted)),))

    def _own(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        firsts = itertools.accumulate((len(part.shards) for part in parts), initial=0)
        self._starts = list(zip(firsts, parts, strict=False))
        self._owners = [(first, part) for first, part in self._starts for _ in part.shards]

    @classmethod
    def joined(cls, datasets: Sequence[ShardDataset]) -> ShardDataset:
        """The rows of several datasets, one after the other. Raises BadInput unless all give the same members and columns."""
        first = datasets[0]
        for other in datasets[1:]:
            if other.wanted != first.wanted:
                raise BadInput(
                    "the sets do not have the same members and columns",
                    one=first.parts[0].folder.url,
                    other=other.parts[0].folder.url,
                    hint="choose `members` and `columns` that all of them have",
                )
        joined = cls.__new__(cls)
        joined.wanted = first.wanted
        joined.places = joined_places([dataset.places for dataset in datasets], [len(dataset._owners) for dataset in datasets])
        joined._own(tuple(part for dataset in datasets for part in dataset.parts))
        return joined

    @property
    def identity(self) -> str:
        """A digest of which samples these are, in which order: the same wherever the sets lie."""
        return digest("\n".join(part.identity for part in self.parts).encode())

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One sample: `key`, an array for each member, and the scalars as the JSON has them, None where missing."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.samples([row % len(self)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples. This is what PyTorch's DataLoader calls with the rows of a batch."""
        return self.samples(rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every sample, in the order of the shards."""
        for row in range(len(self)):
            yield self[row]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the index, row by row as the dataset: positions, ids, whatever is to be known without reading shards."""
        tables = [index_rows(part.folder, part.shards, part.where, columns) for part in self.parts]
        return pa.concat_tables([table.select(list(columns)) for table in tables], promote_options="permissive")

    def samples(self, rows: Sequence[int] | Int, *, faults: Faults | None = None) -> list[dict[str, Any]]:
        """Several samples. Raises BrokenArtefact for one that `faults` does not let pass."""
        found: list[dict[str, Any]] = []
        self._visit(rows, faults, lambda row, choice, content: found.append(choice.sample(content)))
        return found

    def batch(
        self,
        rows: Sequence[int] | Int,
        *,
        ragged: Ragged = "padded",
        memory: Memory | None = None,
        faults: Faults | None = None,
    ) -> Batch:
        """Several samples as one dict of arrays, see `Batch`. Raises BrokenArtefact for one that `faults` does not let pass."""
        filling = Filling(self.wanted, len(rows), memory or Buffers().take)
        self._visit(rows, faults, filling.add)
        return filling.batch(ragged)

    def _visit(self, rows: Sequence[int] | Int, faults: Faults | None, use: Callable[[int, Choice, Bytes], None]) -> None:
        """Call `use` with the bytes of one sample after the other."""
        wanted: npt.NDArray[np.int64] = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows from {wanted.min()} to {wanted.max()} of {len(self)}")
        places = self.places.at(wanted)
        for first, part in self._starts:
            part.source.fetch(places, first)
        for row, (shard, offset, nbytes, held) in zip(wanted.tolist(), places.each(), strict=True):
            first, part = self._owners[shard]
            try:
                content = part.source.sample(shard - first, offset, nbytes)
                if held is not None and xxhash.xxh3_64_intdigest(content.data) != held:
                    raise BrokenArtefact("a sample is not what its digest says")
                use(row, part.choice, content)
            except BrokenArtefact as error:
                (faults or Faults()).note(_placed(error, part, shard - first, offset, row))


def _placed(error: BrokenArtefact, part: Part, shard: int, offset: int, row: int) -> BrokenArtefact:
    """The error, with the place of the sample."""
    where = {"file": part.folder.path(part.shards[shard].name), "offset": offset, "row": row, **error.where}
    return BrokenArtefact(error.what, hint=error.hint or "check the set with `mmu verify`, and fetch that shard again", **where)

"""The URL of a set, a split and a condition -> a dataset: samples by number, one at a time or as a batch of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.loader.batches import Batch, Filling, Ragged
from mmu_pipeline.loader.buffers import Buffers
from mmu_pipeline.loader.faults import Faults
from mmu_pipeline.loader.layout import Bytes, chosen, key, layout_of, numbers, record
from mmu_pipeline.loader.local_shards import LocalShards
from mmu_pipeline.loader.places import find_places, index_rows, shards_of
from mmu_pipeline.loader.remote_shards import CACHE_BYTES, RemoteShards, cache_folder
from mmu_pipeline.report.shard_set import set_folder
from mmu_pipeline.shards.manifest import MANIFEST_PATH
from mmu_pipeline.storage import digest


class ShardDataset:
    """Samples of a set, numbered as they lie in its shards.

    `url` is the folder of a version, or of a recipe (then its latest version), on any filesystem that fsspec knows.
    `members` and `columns` are what is given of each sample, by default all; a survey's name stands for its members.
    `where` is a condition on columns of the index, such as "i_mag < 22 and has_sdss". With `check`, every sample is held
    against its digest. Of a remote set, at most `cache_bytes` are kept in `cache`.

    It holds 20 bytes a sample (36 with `check`), may be used by several threads, and can be pickled.
    Raises BadInput if there is no such set, split, member, column, or no such condition can be put.
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
        self.folder = set_folder(url)
        self.manifest = self.folder.read_json(MANIFEST_PATH)
        self.split, self.where = split, where
        self.layout = layout_of(self.manifest)
        self.wanted = chosen(self.layout, members, columns)
        self.shards = shards_of(self.manifest, split)
        self.places = find_places(self.folder, self.shards, where, check)
        self.source: LocalShards | RemoteShards
        if self.folder.is_local:
            self.source = LocalShards(self.folder.path(""), self.shards)
        else:
            self.source = RemoteShards(self.folder, self.shards, str(cache or cache_folder()), cache_bytes)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One sample: `key`, an array for each member, and the scalars as the JSON has them, None where missing."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.__getitems__([row % len(self)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples. This is what PyTorch's DataLoader calls with the rows of a batch."""
        chosen_rows = np.asarray(rows, np.int64)
        places = self.places.at(chosen_rows)
        self.source.fetch(places)
        return [self._sample(*place) for place in zip(chosen_rows.tolist(), places.each(), strict=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every sample, in the order of the shards."""
        for row in range(len(self)):
            yield self[row]

    @property
    def identity(self) -> str:
        """A digest of which samples these are, in which order: the same wherever the set lies."""
        return digest(f"{self.manifest['set_digest']} {self.split} {self.where} {[s.digest for s in self.shards]}".encode())

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the index, row by row as the dataset: positions, ids, whatever is to be known without reading shards."""
        return index_rows(self.folder, self.shards, self.where, columns).select(list(columns))

    def batch(
        self,
        rows: Sequence[int] | npt.NDArray[np.int64],
        *,
        ragged: Ragged = "padded",
        buffers: Buffers | None = None,
        faults: Faults | None = None,
    ) -> Batch:
        """Several samples as one dict of arrays, see `Batch`. Raises BrokenArtefact for a sample that is not let pass."""
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of {len(self)}")
        places, faults = self.places.at(rows), faults or Faults()
        filling = Filling(self.layout, self.wanted, len(rows), buffers or Buffers())
        self.source.fetch(places)
        for row, place in zip(rows.tolist(), places.each(), strict=True):
            try:
                filling.add(row, self._bytes(place))
            except BrokenArtefact as error:
                faults.note(self._placed(error, row))
        return filling.batch(ragged)

    def _bytes(self, place: tuple[int, int, int, bytes | None]) -> Bytes:
        shard, offset, nbytes, wanted = place
        content = self.source.sample(shard, offset, nbytes)
        if wanted is not None and xxhash.xxh3_128_digest(content.data) != wanted:
            raise BrokenArtefact("a sample is not what its digest says")
        return content

    def _sample(self, row: int, place: tuple[int, int, int, bytes | None]) -> dict[str, Any]:
        try:
            content = self._bytes(place)
            spans, span = self.layout.spans(content)
            found: dict[str, Any] = {"key": key(content)}
            for member, (start, stop) in zip(self.layout.members, spans, strict=True):
                if member in self.wanted.members:
                    shape = (-1, *member.row_shape) if member.is_ragged else member.row_shape
                    found[member.name] = numbers(content, member, start, stop).copy().view(member.dtype).reshape(shape)
            scalars = record(content, *span)
            return found | {column.name: scalars[column.name] for column in self.wanted.columns}
        except BrokenArtefact as error:
            raise self._placed(error, row) from error

    def _placed(self, error: BrokenArtefact, row: int) -> BrokenArtefact:
        """The error, with the place of the sample."""
        shard, offset = self.shards[self.places.shard[row]], int(self.places.offset[row])
        where = {"file": self.folder.path(shard.name), "offset": offset, "row": row, **error.where}
        hint = error.hint or "check the set with `mmu verify`; fetch the shard again, or let the loader pass a few such samples"
        return BrokenArtefact(error.what, hint=hint, **where)


def check_same(datasets: Sequence[ShardDataset]) -> None:
    """Raise BadInput unless batches of all of them have the same arrays and scalars."""
    for other in datasets[1:]:
        if other.wanted != datasets[0].wanted:
            raise BadInput(
                "the sets do not have the same members and scalars",
                one=datasets[0].folder.url,
                other=other.folder.url,
                hint="choose `members` and `columns` that all of them have",
            )

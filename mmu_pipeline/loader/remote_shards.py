"""Shards on an object store or a web server -> the bytes of any sample, by ranged reads and a bounded cache on the local disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from platformdirs import user_cache_path

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.loader.layout import Bytes
from mmu_pipeline.loader.places import Places, Shard
from mmu_pipeline.remote import retried
from mmu_pipeline.storage import Root

BLOCK_BYTES = 256 * 1024
"""A shard is cached in blocks of this size."""
REQUEST_BLOCKS = 32
"""Neighbouring blocks that are asked for in one request: 8 MiB."""
READS = 3
"""Times that a block is looked for in the cache: another process may remove it just when it has been written."""
CACHE_BYTES = 16 * 1024**3


def cache_folder() -> Path:
    """Where blocks of remote shards are kept unless said otherwise."""
    return user_cache_path("mmu_pipeline") / "shards"


@dataclass
class _Written:
    """Bytes written to the cache since it was last looked over; None before the first look."""

    nbytes: int | None = None


@dataclass(frozen=True)
class RemoteShards:
    """The shards of a dataset elsewhere. Blocks are cached under the digest of their shard: any process may share the cache."""

    folder: Root
    shards: Sequence[Shard]
    cache: str
    cache_bytes: int = CACHE_BYTES
    _checked: set[int] = field(default_factory=set, repr=False)
    _written: _Written = field(default_factory=_Written, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteShards, (self.folder, self.shards, self.cache, self.cache_bytes)

    def fetch(self, places: Places, first: int) -> None:
        """Bring the blocks of some samples into the cache: those that are not there, neighbours in one request.

        These shards are the places' from number `first` on; samples in others are left alone.

        Raises Unreachable if they cannot be had, BrokenArtefact if a shard is not of the size that the manifest says.
        """
        needed = {
            (shard - first, block)
            for shard, offset, nbytes, _ in places.each()
            if first <= shard < first + len(self.shards)
            for block in range(offset // BLOCK_BYTES, (offset + nbytes - 1) // BLOCK_BYTES + 1)
        }
        missing = sorted(entry for entry in needed if not os.path.exists(self._path(*entry)))
        if missing:
            self._download(runs(missing))

    def sample(self, shard: int, offset: int, nbytes: int) -> Bytes:
        """The bytes of one sample. Raises as `fetch`."""
        content = np.empty(nbytes, np.uint8)
        done = 0
        while done < nbytes:
            block, skip = divmod(offset + done, BLOCK_BYTES)
            size = min(BLOCK_BYTES - skip, nbytes - done)
            content[done : done + size] = self._read(shard, block, skip, size)
            done += size
        return content

    def _read(self, shard: int, block: int, skip: int, size: int) -> Bytes:
        path = self._path(shard, block)
        for _ in range(READS):
            try:
                found = np.fromfile(path, np.uint8, size, offset=skip)
            except FileNotFoundError:
                found = np.zeros(0, np.uint8)
            if len(found) == size:
                return found
            self._download([(shard, block, block + 1)])  # evicted by this process or another, or cut short
        raise BrokenArtefact("a block in the cache is gone as soon as it was written", cache=path, hint="choose a larger cache")

    def _path(self, shard: int, block: int) -> str:
        digest = self.shards[shard].digest
        return f"{self.cache}/{digest[:2]}/{digest}-{BLOCK_BYTES}-{block}"

    def _download(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        for shard in {shard for shard, _, _ in wanted} - self._checked:
            self._check_size(shard)
        paths = [self.folder.path(self.shards[shard].name) for shard, _, _ in wanted]
        starts = [begin * BLOCK_BYTES for _, begin, _ in wanted]
        stops = [min(end * BLOCK_BYTES, self.shards[shard].nbytes) for shard, _, end in wanted]

        def ranges() -> list[bytes]:
            found = self.folder.fs.cat_ranges(paths, starts, stops, on_error="raise")
            if wrong := [path for path, content, a, b in zip(paths, found, starts, stops, strict=True) if len(content) != b - a]:
                raise OSError(f"not as many bytes came as were asked for: {wrong[0]}")
            return list(found)

        contents = retried(ranges, self.folder.url)
        for (shard, begin, end), content in zip(wanted, contents, strict=True):
            for block in range(begin, end):
                self._keep(self._path(shard, block), memoryview(content)[(block - begin) * BLOCK_BYTES :][:BLOCK_BYTES])

    def _check_size(self, number: int) -> None:
        shard = self.shards[number]
        size = self.folder.size(shard.name)
        if size != shard.nbytes:
            raise BrokenArtefact(
                "a shard is not of the size that the manifest says",
                file=self.folder.path(shard.name),
                wanted=shard.nbytes,
                found=size,
            )
        self._checked.add(number)

    def _keep(self, path: str, content: memoryview) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        aside = f"{path}.{uuid.uuid4().hex[:8]}"
        with open(aside, "wb") as file:
            file.write(content)
        os.replace(aside, path)
        with self._lock:
            if self._written.nbytes is None or self._written.nbytes + len(content) > self.cache_bytes // 10:
                trim(self.cache, self.cache_bytes - self.cache_bytes // 10)
                self._written.nbytes = 0
            self._written.nbytes += len(content)


def runs(blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Sorted (shard, block) -> (shard, first block, end) of neighbours, none longer than REQUEST_BLOCKS."""
    found: list[tuple[int, int, int]] = []
    for shard, block in blocks:
        if found and found[-1][0] == shard and found[-1][2] == block and block - found[-1][1] < REQUEST_BLOCKS:
            found[-1] = (shard, found[-1][1], block + 1)
        else:
            found.append((shard, block, block + 1))
    return found


def trim(folder: str, nbytes: int) -> None:
    """Remove the oldest files below a folder until no more than so many bytes are left."""
    entries = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:  # removed by another process
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
    excess = sum(size for _, size, _ in entries) - nbytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= size

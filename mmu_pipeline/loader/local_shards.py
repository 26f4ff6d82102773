"""Shards on a local disk -> the bytes of any sample, as views of the mapped files."""

from __future__ import annotations

import mmap
import resource
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.loader.layout import Bytes
from mmu_pipeline.loader.places import Places, Shard

_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
OPEN_AT_ONCE = 65_536 if _LIMIT == resource.RLIM_INFINITY else max(_LIMIT // 2, 1)
"""Shards that are held open: each takes a file descriptor. Half of what the process may have."""


@dataclass(frozen=True)
class LocalShards:
    """The shards of a dataset, mapped when first read. Each one's size is checked before."""

    folder: str
    shards: Sequence[Shard]
    _mapped: OrderedDict[int, Bytes] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalShards, (self.folder, self.shards)

    def fetch(self, places: Places, first: int) -> None:
        """Nothing is fetched from a local disk."""

    def sample(self, shard: int, offset: int, nbytes: int) -> Bytes:
        """The bytes of one sample, read-only. Raises BrokenArtefact if its shard is not of the size that the manifest says."""
        content = self._mapped.get(shard)
        if content is None:
            content = self._opened(shard)
        return content[offset : offset + nbytes]

    def _opened(self, number: int) -> Bytes:
        shard = self.shards[number]
        path = Path(self.folder, shard.name)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                if size != shard.nbytes:
                    raise BrokenArtefact(
                        "a shard is not of the size that the manifest says", file=str(path), wanted=shard.nbytes, found=size
                    )
                content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except OSError as error:
            raise BrokenArtefact("a shard cannot be opened", file=str(path), reason=error.strerror) from error
        with self._lock:
            self._mapped[number] = content
            while len(self._mapped) > OPEN_AT_ONCE:
                self._mapped.popitem(last=False)
        return content

"""Records -> the files of other libraries and back, where these are installed: what ours is measured against.

`pip install "mmu-pipeline[bench]"` brings litdata. mosaicml-streaming 0.13 wants torchvision and numpy before 2.2: give it an
environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from mmu_pipeline.shards.samples import Sample

CHUNK = "512MB"


@dataclass(frozen=True)
class Peer:
    """A library that writes records into a folder and reads all of them back, one after the other, decoded."""

    name: str
    write: Callable[[Path, Iterable[Sample]], None]
    read: Callable[[Path], int]


def installed() -> list[Peer]:
    """The peers that can be imported here."""
    return [peer for package, peer in PEERS.items() if find_spec(package) is not None]


def _plain(sample: Sample) -> dict[str, Any]:
    return {"key": sample.key, **sample.arrays, **sample.record}


def write_litdata(folder: Path, samples: Iterable[Sample]) -> None:
    os.environ.setdefault("DATA_OPTIMIZER_DATA_CACHE_FOLDER", str(folder.parent / "litdata-cache"))
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(str(folder), chunk_bytes=CHUNK)
    for number, sample in enumerate(samples):
        cache[number] = _plain(sample)
    cache.done()
    cache.merge()


def read_litdata(folder: Path) -> int:
    from litdata import StreamingDataset

    return sum(1 for _ in StreamingDataset(str(folder), shuffle=False))


def write_mosaic(folder: Path, samples: Iterable[Sample]) -> None:
    from streaming import MDSWriter

    rows = iter(samples)
    first = next(rows)
    columns = {name: f"ndarray:{array.dtype.name}:{','.join(map(str, array.shape))}" for name, array in first.arrays.items()}
    with MDSWriter(columns={"key": "str", "json": "json", **columns}, out=str(folder), size_limit=CHUNK.lower()) as writer:
        for sample in chain([first], rows):
            writer.write({"key": sample.key, "json": sample.record, **sample.arrays})


def read_mosaic(folder: Path) -> int:
    from streaming import StreamingDataset

    return sum(1 for _ in StreamingDataset(local=str(folder), shuffle=False, batch_size=64))


PEERS = {
    "litdata": Peer("litdata", write_litdata, read_litdata),
    "streaming": Peer("mosaic streaming", write_mosaic, read_mosaic),
}

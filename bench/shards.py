"""What does it cost to write samples as a tar, from arrays in memory?

    python -m bench.shards [--records 20000] [--rounds 7] [--folder DIR]

Peer: `webdataset.ShardWriter`, given the same arrays and scalars. Limit: a plain write of the same bytes, already encoded.
Ours also takes a digest of every sample and notes where its members lie. Records per CPU-second (user and system time of the
process) in rounds that alternate between the three, after one that is not counted; medians. Goals: 3.5x the peer, 0.7x the limit.
Written to memory unless a folder is named: on a disk, finding free pages makes the limit itself vary fourfold between rounds.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import webdataset
from rich.console import Console
from rich.table import Table

from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.tar import write_samples

DISTINCT = 256
"""Records that are held in memory, 25 MB, and written over and over under new keys."""
BATCH = 10
"""Records of one plain write: 1 MB, as our writer's."""
MEMORY = Path("/dev/shm")
GOALS = {"webdataset.ShardWriter": 3.5, "plain write": 0.7}


def records() -> list[dict[str, object]]:
    """5 x 64 x 64 and 4096 float32, and a small JSON: 98.5 kB."""
    rng = np.random.default_rng(0)
    return [
        {
            "hsc.image": rng.normal(size=(5, 64, 64)).astype("<f4"),
            "sdss.flux": rng.normal(size=4096).astype("<f4"),
            "json": {"healpix": 1104, "hsc_object_id": str(row), "hsc_ra": 150.0 + row, "hsc_dec": 2.2, "has_sdss": True},
        }
        for row in range(DISTINCT)
    ]


def samples(held: list[dict[str, object]], count: int) -> Iterator[Sample]:
    """The records as our writer takes them."""
    for number in range(count):
        record = held[number % DISTINCT]
        arrays = {"hsc.image": record["hsc.image"], "sdss.flux": record["sdss.flux"]}
        yield Sample(f"object-{number:016x}", arrays, record["json"])  # type: ignore[arg-type]


def write_ours(path: Path, held: list[dict[str, object]], count: int) -> None:
    with path.open("wb") as file:
        write_samples(file, samples(held, count))


def write_peer(path: Path, held: list[dict[str, object]], count: int) -> None:
    with webdataset.ShardWriter(f"{path}-%06d", maxcount=count, maxsize=1e15, verbose=0) as writer:
        for number in range(count):
            record = held[number % DISTINCT]
            writer.write(
                {
                    "__key__": f"object-{number:016x}",
                    "hsc.image.npy": record["hsc.image"],
                    "sdss.flux.npy": record["sdss.flux"],
                    "json": record["json"],
                }
            )


def plain_writer(held: list[dict[str, object]]) -> Callable[[Path, list[dict[str, object]], int], None]:
    """A writer of records that were encoded before."""
    encoded = io.BytesIO()
    rows = write_samples(encoded, samples(held, DISTINCT)).select(["offset", "nbytes"]).to_pylist()
    view = memoryview(encoded.getvalue())
    ready = [view[row["offset"] : row["offset"] + row["nbytes"]] for row in rows]

    def write_plain(path: Path, held: list[dict[str, object]], count: int) -> None:
        with path.open("wb") as file:
            for first in range(0, count, BATCH):
                os.writev(file.fileno(), [ready[number % DISTINCT] for number in range(first, min(first + BATCH, count))])

    return write_plain


def cpu_seconds(
    write: Callable[[Path, list[dict[str, object]], int], None], folder: Path, held: list[dict[str, object]], count: int
) -> float:
    """User and system time of one writer, which starts with no file."""
    start = time.process_time()
    write(folder / "a.tar", held, count)
    spent = time.process_time() - start
    for path in folder.iterdir():
        path.unlink()
    return spent


def main(
    records_: Annotated[int, typer.Option("--records", help="Records that each writer writes in a round.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 7,
    folder: Annotated[Path | None, typer.Option(help="Where to write; a file system in memory if there is one.")] = None,
) -> None:
    held = records()
    writers = {"ours": write_ours, "webdataset.ShardWriter": write_peer, "plain write": plain_writer(held)}
    spent: dict[str, list[float]] = {name: [] for name in writers}
    with tempfile.TemporaryDirectory(dir=folder or (MEMORY if MEMORY.is_dir() else None)) as place:
        for number in range(rounds + 1):
            for name in np.roll(list(writers), number).tolist():
                spent[name].append(cpu_seconds(writers[name], Path(place), held, records_))
    rate = {name: records_ / statistics.median(seconds[1:]) for name, seconds in spent.items()}
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(spent[name][1:], spent["ours"][1:], strict=True))
        for name in writers
    }
    size = sum(array.nbytes for array in held[0].values() if isinstance(array, np.ndarray)) / 1e6
    table = Table(
        "writer", "records / CPU-s", "MB / CPU-s", "ours is", "goal", title=f"{records_:,} records of {size * 1e3:.1f} kB"
    )
    for name in writers:
        goal = f"{GOALS[name]}x {'met' if ratios[name] >= GOALS[name] else 'MISSED'}" if name in GOALS else ""
        table.add_row(name, f"{rate[name]:,.0f}", f"{rate[name] * size:,.0f}", f"{ratios[name]:.2f}x", goal)
    Console().print(table)
    raise typer.Exit(not all(ratios[name] >= goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    typer.run(main)

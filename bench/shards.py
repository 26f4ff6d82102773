"""What does it cost to write samples as a tar, from arrays in memory?

    python -m bench.shards [--megabytes 2000] [--rounds 7] [--folder DIR]

Peers, given the same arrays and scalars: `webdataset.ShardWriter`, and litdata and mosaic streaming where they are installed.
Limit: a plain write of the same bytes, already encoded. Ours also takes a digest of every sample and notes where its members
lie. Records per CPU-second (user and system time of the process) in rounds that alternate between all, after one that is not
counted; medians; for records of 98 kB and of 1.2 MB. Goals: 3.5x ShardWriter, 0.8x the limit. What the plain write itself is
against each peer stands beside: no writer that hands its bytes to the kernel can be more. Written to memory unless a folder
is named: on a disk, finding free pages makes the limit itself vary fourfold between rounds.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import webdataset
from rich.console import Console
from rich.table import Table

from bench.loading_set import LARGE, SMALL, record_nbytes
from bench.peers import installed
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.tar import write_samples

DISTINCT = 256
"""Records that are held in memory and written over and over under new keys; fewer, 25 MB in all, where they are large."""
BATCH_BYTES = 1024**2
"""Of one plain write, as our writer's."""
MEMORY = Path("/dev/shm")
LIMIT = "plain write"
GOALS = {"webdataset.ShardWriter": 3.5, LIMIT: 0.8}
Held = list[dict[str, object]]
Writer = Callable[[Path, Sequence[Sample]], None]


def records(shapes: dict[str, tuple[int, ...]] = SMALL) -> Held:
    """Arrays of float32, and a small JSON."""
    rng = np.random.default_rng(0)
    return [
        {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
        | {"json": {"healpix": 1104, "hsc_object_id": str(row), "hsc_ra": 150.0 + row, "hsc_dec": 2.2, "has_sdss": True}}
        for row in range(min(DISTINCT, 25 * 10**6 // record_nbytes(shapes)))
    ]


def samples(held: Held, count: int) -> list[Sample]:
    """The records over and over, under keys of their own. Their arrays are shared, so this takes little memory."""
    arrays = [{name: value for name, value in record.items() if name != "json"} for record in held]
    return [
        Sample(f"object-{number:016x}", arrays[number % len(held)], held[number % len(held)]["json"])  # type: ignore[arg-type]
        for number in range(count)
    ]


def write_ours(path: Path, ready: Sequence[Sample]) -> None:
    with path.open("wb") as file:
        write_samples(file, ready)


def write_webdataset(path: Path, ready: Sequence[Sample]) -> None:
    with webdataset.ShardWriter(f"{path}-%06d", maxcount=len(ready), maxsize=1e15, verbose=0) as writer:
        for sample in ready:
            arrays = {f"{name}.npy": array for name, array in sample.arrays.items()}
            writer.write({"__key__": sample.key, **arrays, "json": sample.record})


def plain_writer(held: Held) -> Writer:
    """A writer of records that were encoded before."""
    encoded = io.BytesIO()
    rows = write_samples(encoded, samples(held, len(held))).select(["offset", "nbytes"]).to_pylist()
    view = memoryview(encoded.getvalue())
    contents = [view[row["offset"] : row["offset"] + row["nbytes"]] for row in rows]
    batch = max(1, BATCH_BYTES // len(contents[0]))

    def write_plain(path: Path, ready: Sequence[Sample]) -> None:
        with path.open("wb") as file:
            for first in range(0, len(ready), batch):
                numbers = range(first, min(first + batch, len(ready)))
                os.writev(file.fileno(), [contents[number % len(contents)] for number in numbers])

    return write_plain


def cpu_seconds(write: Writer, folder: Path, ready: Sequence[Sample]) -> float:
    """User and system time of one writer, which starts with no file."""
    start = time.process_time()
    write(folder / "a.tar", ready)
    spent = time.process_time() - start
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return spent


def measure(shapes: dict[str, tuple[int, ...]], count: int, rounds: int, folder: Path) -> bool:
    """Measure and print the writers of one size of record, and say whether the goals are met."""
    held = records(shapes)
    ready = samples(held, count)
    writers = {"ours": write_ours, "webdataset.ShardWriter": write_webdataset, LIMIT: plain_writer(held)}
    writers |= {peer.name: peer.write for peer in installed()}
    spent: dict[str, list[float]] = {name: [] for name in writers}
    for number in range(rounds + 1):
        for name in np.roll(list(writers), number).tolist():
            spent[name].append(cpu_seconds(writers[name], folder, ready))
    size = record_nbytes(shapes)
    table = Table(
        "writer", "records / CPU-s", "MB / CPU-s", "ours is", "goal", "plain write is",
        title=f"{count:,} records of {size / 1e3:,.1f} kB",
    )  # fmt: skip
    met = True
    for name in writers:
        rate = count / statistics.median(spent[name][1:])
        ratio, limit = (_ratio(spent[name], spent[one]) for one in ("ours", LIMIT))
        good = ratio >= GOALS.get(name, 0.0)
        goal = f"{GOALS[name]}x {'met' if good else 'MISSED'}" if name in GOALS else ""
        table.add_row(name, f"{rate:,.0f}", f"{rate * size / 1e6:,.0f}", f"{ratio:.2f}x", goal, f"{limit:.2f}x")
        met = met and good
    Console().print(table)
    return met


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """Median over the rounds that count."""
    return statistics.median(one / other for one, other in zip(theirs[1:], ours[1:], strict=True))


def main(
    megabytes: Annotated[int, typer.Option(help="What each writer writes in a round.")] = 2000,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 7,
    folder: Annotated[Path | None, typer.Option(help="Where to write; a file system in memory if there is one.")] = None,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder or (MEMORY if MEMORY.is_dir() else None)) as place:
        met = [measure(shapes, megabytes * 10**6 // record_nbytes(shapes), rounds, Path(place)) for shapes in (SMALL, LARGE)]
    raise typer.Exit(not all(met))


if __name__ == "__main__":
    typer.run(main)

"""What does it cost to read samples into batches, in a shuffled order?

    python -m bench.loading [--megabytes 1000] [--rounds 3] [--folder DIR]

Peers on the same shards: `webdataset` decoding them one after the other, and in a DataLoader with 2 workers; on the same records
in their own files, where they are installed: litdata and mosaic streaming, one record after the other. Limit: a copy of the same
arrays from memory into batches, in the same order, by as many threads. Records per CPU-second (user and system time of all
processes) with the files in the page cache, in rounds that alternate, after one that is not counted; medians of the ratios.
Also one record at random, opening a set of ten million samples, and resuming among 100 million.
"""

from __future__ import annotations

import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
import webdataset as wds
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from bench.loading_set import LARGE, SMALL, make_set, record_nbytes, samples
from bench.peers import installed
from mmu_pipeline.loader import ShardDataset, ShardLoader
from mmu_pipeline.loader.buffers import Buffers
from mmu_pipeline.loader.deal import Deal
from mmu_pipeline.loader.order import order_of
from mmu_pipeline.loader.places import Shard, find_places
from mmu_pipeline.shards.side_files import tar_index, tar_index_path
from mmu_pipeline.storage import Root

BATCH = 64
THREADS = 2
"""That fill batches, in our loader and in the copy."""
SHUFFLED, BATCHES = "ShardLoader, global shuffle", "ShardDataset.batch, in order"
PEER, PEER_WORKERS, LIMIT = "webdataset .decode()", "webdataset, DataLoader of 2 workers", "copy from memory"
READING = {"litdata": 2.5, "mosaic streaming": 6.0}
"""Goals against peers that may be installed."""
Reader = Callable[[], int]


def readers(folder: Path, shapes: dict[str, tuple[int, ...]], count: int) -> dict[str, Reader]:
    """Name -> a function that reads every record of the set once, and says how many there were."""
    dataset, nbytes = ShardDataset(folder), record_nbytes(shapes)
    urls = [str(folder / shard.name) for shard in dataset.parts[0].shards]
    loaders = {
        f"ShardLoader, {shuffle} shuffle": ShardLoader(dataset, BATCH, shuffle=shuffle, threads=THREADS)
        for shuffle in ("global", "block")
    }
    memory, buffers = np.ones((count, nbytes), np.uint8), Buffers()
    order = order_of("global", count, 0)

    def ours(loader: ShardLoader) -> int:
        return sum(len(batch["key"]) for batch in loader)

    def batches() -> int:
        rows = range(0, count, BATCH)
        return sum(len(dataset.batch(range(first, min(first + BATCH, count)), memory=buffers.take)["key"]) for first in rows)

    def peer() -> int:
        return sum(1 for _ in wds.WebDataset(urls, shardshuffle=False).decode())

    def peer_workers() -> int:
        data = DataLoader(
            wds.WebDataset(urls, shardshuffle=100).shuffle(1000).decode().batched(BATCH), batch_size=None, num_workers=2
        )
        return sum(len(batch["__key__"]) for batch in data)

    def copy() -> int:
        everything = order.rows(0, np.arange(count))
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(copied, np.split(everything, np.arange(BATCH, count, BATCH))))

    def copied(rows: npt.NDArray[np.int64]) -> int:
        target = buffers.take(BATCH * nbytes).reshape(BATCH, nbytes)
        for place, row in enumerate(rows.tolist()):
            target[place] = memory[row]
        return len(rows)

    ready: dict[str, Reader] = {name: lambda loader=loader: ours(loader) for name, loader in loaders.items()}  # type: ignore[misc]
    others = {other.name: lambda other=other: other.read(folder / other.name) for other in installed()}  # type: ignore[misc]
    return ready | {BATCHES: batches, PEER: peer, PEER_WORKERS: peer_workers, LIMIT: copy, **others}


def cpu_seconds(read: Reader, count: int) -> float:
    """User and system time of a reader, in this process and in those that it started and that have ended."""
    gc.collect()
    before = _spent()
    if read() != count:
        raise RuntimeError("a reader did not give every record")
    return _spent() - before


def _spent() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def throughput(
    folder: Path, shapes: dict[str, tuple[int, ...]], count: int, rounds: int, goals: dict[tuple[str, str], float]
) -> bool:
    """Measure, print, and say whether the goals are met: (ours, other) -> at least so many times its records per CPU-second."""
    make_set(folder, shapes, count)
    for peer in installed():
        peer.write(folder / peer.name, samples(shapes, 0, count))
    ready = readers(folder, shapes, count)
    spent: dict[str, list[float]] = {name: [] for name in ready}
    alternating = [name for name in ready if name != PEER_WORKERS]
    for number in range(rounds + 1):
        for name in np.roll(alternating, number).tolist():
            spent[name].append(cpu_seconds(ready[name], count))
    for _ in range(rounds + 1):  # apart: after its processes, every page of ours has to be faulted in again
        spent[PEER_WORKERS].append(cpu_seconds(ready[PEER_WORKERS], count))
    nbytes = record_nbytes(shapes)
    table = Table(
        "reader", "records / CPU-s", "MB / CPU-s", title=f"{count:,} records of {nbytes / 1e3:,.1f} kB, batches of {BATCH}"
    )
    for name, seconds in spent.items():
        rate = count / statistics.median(seconds[1:])
        table.add_row(name, f"{rate:,.0f}", f"{rate * nbytes / 1e6:,.0f}")
    Console().print(table)
    ratios = {
        pair: statistics.median(theirs / ours for ours, theirs in zip(spent[pair[0]][1:], spent[pair[1]][1:], strict=True))
        for pair in goals
    }
    return report([(f"{one}\nagainst {other}", ratios[one, other], goal, "x") for (one, other), goal in goals.items()])


def report(found: list[tuple[str, float, float, str]]) -> bool:
    """Print what was found beside its goal: at least, for ratios; at most, for times."""
    table = Table("", "found", "goal", "")
    met = [value >= goal if unit == "x" else value <= goal for _, value, goal, unit in found]
    for (name, value, goal, unit), good in zip(found, met, strict=True):
        table.add_row(name, f"{value:.3g} {unit}", f"{goal:g} {unit}", "met" if good else "MISSED")
    Console().print(table)
    return all(met)


def random_access(folder: Path) -> float:
    """Median time of one record, all arrays and scalars, in microseconds; every record was read before."""
    dataset = ShardDataset(folder)
    list(ShardLoader(dataset, BATCH, ahead=1, transform=len))
    times = []
    for row in np.random.default_rng(0).integers(0, len(dataset), 5000).tolist():
        start = time.perf_counter()
        dataset[row]
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def opening(folder: Path, samples: int = 10_000_000, shards: int = 2000) -> float:
    """Seconds to find every sample of a large set."""
    root, each = Root(str(folder)), samples // shards
    listed = [Shard(f"train-{number:06d}.tar", each * 102_400 + 1024, f"{number:032x}", each) for number in range(shards)]
    for shard in listed:
        root.write_bytes(tar_index_path(shard.name), tar_index(np.arange(each + 1) * 102_400))
    start = time.perf_counter()
    assert len(find_places(root, listed, None, False)) == samples
    return time.perf_counter() - start


def resuming(samples: int = 100_000_000) -> float:
    """Milliseconds to the rows of the batch at which a rank goes on in mid-epoch."""
    times = []
    for number in range(20):
        start = time.perf_counter()
        order, deal = order_of("global", samples, number), Deal(samples, 256, 64, start=61_000_000 + number)
        order.rows(3, deal.positions(0, 17))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def main(
    megabytes: Annotated[int, typer.Option(help="Size of each set.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where to write: a disk, or memory such as /dev/shm.")] = None,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        small, large = (megabytes * 10**6 // record_nbytes(shapes) for shapes in (SMALL, LARGE))
        goals = {(BATCHES, PEER): 10.0, (SHUFFLED, PEER_WORKERS): 10.0}
        goals |= {(BATCHES, peer.name): READING[peer.name] for peer in installed()}
        met = [throughput(Path(place, "small"), SMALL, small, rounds, goals)]
        met.append(throughput(Path(place, "large"), LARGE, large, rounds, {(SHUFFLED, LIMIT): 0.8}))
        single = [
            ("one record at random", random_access(Path(place, "small")), 40.0, "us"),
            ("opening ten million samples", opening(Path(place, "many")), 1.0, "s"),
            ("resuming among 100 million samples", resuming(), 50.0, "ms"),
        ]
        met.append(report(single))
    raise typer.Exit(not all(met))


if __name__ == "__main__":
    typer.run(main)

"""What does orchestration cost? A build of thousands of nearly empty cells, one with nothing to do, bare fan-out against peers.

    python -m bench.orchestration [--cells 3072] [--units 500 --units 5000] [--workers 2]

Goals on 2 workers: below 10 ms of wall time a cell and stage, memory of driver and scheduler flat, a second run below 15 s.
Fan-out is compared with Dask's `client.map` and with one Prefect task run per unit, on the same workers.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import h5py
import healpy as hp
import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from mmu_pipeline.catalog import Recipe, Selection
from mmu_pipeline.cluster import open_client, run_units
from mmu_pipeline.stages.build import Build, Outcome, Unit
from mmu_pipeline.storage import Receipt, Root

SURVEY = """
name: tiny
title: One object per cell
modality: spectrum
release: none
summary: Made by a benchmark.
licence: none
citation: none
forms:
  cells: {reader: mmu_v1, files: ["healpix=*/*.hdf5"], cut_by_cell: true}
fields:
  - {name: flux, dtype: float32, shape: [8]}
  - {name: mag, dtype: float32, unit: mag}
"""
RECIPE = """
name: tiny
primary: {survey: tiny}
shards: {target_bytes: 8 MiB}
"""


def write_survey(folder: Path, cells: int) -> None:
    """A survey of `cells` files with one row each, its YAML in `surveys/`, and the recipe that builds it."""
    (folder / "surveys").mkdir(parents=True)
    (folder / "surveys" / "tiny.yaml").write_text(SURVEY)
    (folder / "tiny.yaml").write_text(RECIPE)
    ra, dec = hp.pix2ang(16, np.arange(cells), nest=True, lonlat=True)
    for cell in range(cells):
        place = folder / "data" / f"healpix={cell}"
        place.mkdir(parents=True)
        with h5py.File(place / "001-of-001.hdf5", "w") as file:
            file["object_id"] = np.array([f"{cell:05d}"], "S5")
            file["ra"], file["dec"] = ra[cell : cell + 1], dec[cell : cell + 1]
            file["flux"], file["mag"] = np.full((1, 8), cell, np.float32), np.array([20.0], np.float32)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """MB by which this process (driver and scheduler) grows within the block: at its peak, and from the middle to the end."""
    process, grown, stop = psutil.Process(), dict[str, float](), threading.Event()
    seen = [process.memory_info().rss / 1e6]

    def watch() -> None:
        while not stop.wait(0.1):
            seen.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield grown
    stop.set()
    thread.join()
    grown |= {"peak": max(seen) - seen[0], "second_half": seen[-1] - seen[len(seen) // 2]}


def nothing(unit: Unit, build: Build) -> Outcome:
    """The smallest unit: an outcome and no work."""
    return Outcome(unit, "done", Receipt(unit.stage, unit.name, ""))


def nothing_of(number: int) -> int:
    """The same for peers that know no units."""
    return number


def fan_out(client: Any, peer: str, count: int) -> float:
    """Seconds that `count` trivial units take through one peer."""
    start = time.perf_counter()
    if peer == "run_units":
        build = Build(Recipe(name="tiny", primary=Selection(survey="tiny")), {}, {}, Root("memory://bench"))
        units = [Unit("scan", f"tiny/{number}") for number in range(count)]
        assert sum(1 for _ in run_units(client, nothing, build, units)) == count
    elif peer == "client.map":
        assert len(client.gather(client.map(nothing_of, range(count), pure=False))) == count
    else:
        assert _prefect_tasks(client, count) == count
    return time.perf_counter() - start


def _prefect_tasks(client: Any, count: int) -> int:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_runners import ThreadPoolTaskRunner

    import flows  # noqa: F401  its defaults, before prefect reads them

    @task(cache_policy=NO_CACHE, persist_result=False)
    def one(number: int) -> int:
        return int(client.submit(nothing_of, number, pure=False).result())

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8), persist_result=False)
    def each() -> int:
        return len([future.result() for future in [one.submit(number) for number in range(count)]])

    return int(each())


def build_twice(cells: int, workers: int, table: Table) -> None:
    """Build the tiny survey, then again with nothing to do, and add both to the table."""
    from flows.build import build

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_survey(place, cells)
        for goal, what in ((cells * 0.01, "first build"), (15.0, "second build, nothing to do")):
            start = time.perf_counter()
            with peak_memory() as grown:
                result = build(
                    str(place / "tiny.yaml"),
                    root=str(place / "out"),
                    cluster=f"local:{workers}",
                    sources={"tiny": str(place / "data")},
                    survey_dirs=[str(place / "surveys")],
                    cache=str(place / "cache"),
                    quiet=True,
                )
            seconds = time.perf_counter() - start
            assert result.samples == cells
            for tally in result.stages:
                table.add_row(
                    f"{what}: {tally.stage}", f"{tally.units}", f"{tally.seconds:.1f}", _each(tally.seconds, tally.units), "", ""
                )
            memory = f"+{grown['peak']:.0f} (2nd half {grown['second_half']:+.0f})"
            table.add_row(f"[bold]{what}", f"{cells}", f"{seconds:.1f}", _each(seconds, cells), f"{goal:.1f} s", memory)


def _each(seconds: float, count: int) -> str:
    return f"{1000 * seconds / count:.2f}" if count else ""


def main(
    cells: Annotated[int, typer.Option(help="Cells of the nearly empty survey, 3072 at most.")] = 3072,
    units: Annotated[list[int] | None, typer.Option(help="Sizes of the fan-out. Repeatable.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
) -> None:
    """Print both tables."""
    import flows  # noqa: F401

    logging.getLogger("prefect").setLevel(logging.ERROR)
    console = Console()
    _prefect_tasks_warm()
    builds = Table("build", "units", "s", "ms each", "goal", "driver MB", title=f"{cells} cells of one object, {workers} workers")
    build_twice(cells, workers, builds)
    console.print(builds)
    fans = Table("fan-out", "units", "s", "ms each", "ratio to run_units", title="trivial units on the same workers")
    with open_client(f"local:{workers}") as client:
        for count in units or [500, 5000]:
            ours = 0.0
            for peer in ("run_units", "client.map", "Prefect task per unit"):
                seconds = fan_out(client, peer, count)
                ours = ours or seconds
                fans.add_row(peer, f"{count}", f"{seconds:.2f}", _each(seconds, count), f"{seconds / ours:.1f}")
    console.print(fans)


def _prefect_tasks_warm() -> None:
    """Start the embedded Prefect server, which its first flow pays for."""
    from prefect import flow

    start = time.perf_counter()
    flow(lambda: None, name="warm")()
    Console().print(f"embedded Prefect server ready after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    typer.run(main)

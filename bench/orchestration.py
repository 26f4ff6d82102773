"""What does orchestration cost? A build of thousands of nearly empty cells, one with nothing to do, bare fan-out against peers.

    python -m bench.orchestration [--cells 3072] [--units 500 --units 5000] [--workers 2]

The build is compared with a plain loop over the same units in one process, which is their own work; a second build must stay
below 15 s. Fan-out is compared with Dask's `client.map` and with a Prefect task run per unit, on the same workers: goals are
below 10 ms a cell, and memory of driver and scheduler that does not grow with the number of units.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from mmu_pipeline.client import open_client
from mmu_pipeline.cluster import run_units
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.stages.build import Build, Outcome, Unit
from mmu_pipeline.storage import Root

PEERS_UP_TO = 10_000
"""Units beyond which the fan-out is run without peers."""
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


@dataclass
class Measure:
    """What a block took."""

    seconds: float = 0.0
    grown_mb: float = 0.0
    """By which this process (driver and scheduler) grew at its peak."""


@contextmanager
def measured() -> Iterator[Measure]:
    """Wall time and growth of memory within the block."""
    found, process, over = Measure(), psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.1):
            found.grown_mb = max(found.grown_mb, (process.memory_info().rss - before) / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - start
        over.set()
        thread.join()


def nothing(unit: Unit, build: Build) -> Outcome:
    """The smallest unit: an outcome and no work."""
    return Outcome(unit, "done", Receipt(unit.stage, unit.name, ""))


def nothing_of(number: int) -> int:
    """The same for peers that know no units."""
    return number


def fan_out(client: Any, peer: str, count: int) -> None:
    """Send `count` trivial units through one peer."""
    if peer == "run_units":
        build = Build(Recipe(name="tiny", primary=Selection(survey="tiny")), {}, {}, Root("memory://bench"))
        units = [Unit("scan", f"tiny/{number}") for number in range(count)]
        done = sum(1 for _ in run_units(client, nothing, build, units))
    elif peer == "client.map":
        done = len(client.gather(client.map(nothing_of, range(count), pure=False)))
    else:
        done = _prefect_tasks(client, count)
    assert done == count


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


def builds(cells: int, workers: int) -> Table:
    """A plain loop over the stages of the tiny survey, then the flow, then the flow with nothing to do."""
    from flows.build import build
    from mmu_pipeline.stages.build import STAGES
    from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
    from mmu_pipeline.stages.prepare import prepare
    from mmu_pipeline.stages.publish import publish

    columns = ("", "units", "s", "ms a unit", "ratio to the loop", "driver grows by MB")
    table = Table(*columns, title=f"{cells} cells of one object, {workers} workers")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_survey(place, cells)
        sources, cache, surveys = {"tiny": str(place / "data")}, str(place / "cache"), place / "surveys"
        with measured() as loop:
            plain = prepare(
                str(place / "tiny.yaml"), root=str(place / "loop"), sources=sources, survey_dirs=[surveys], cache=cache
            )
            for stage in STAGES:
                finish_stage(stage, plain, [run_unit(unit, plain) for unit in units_of(stage, plain)])
            assert publish(plain).samples == cells
        table.add_row("plain loop, one process", f"{4 * cells}", *_figures(loop, 4 * cells, loop))
        for what in ("first build", "second build, nothing to do"):
            with measured() as found:
                result = build(
                    str(place / "tiny.yaml"),
                    root=str(place / "out"),
                    cluster=f"local:{workers}",
                    sources=sources,
                    survey_dirs=[str(surveys)],
                    cache=cache,
                    quiet=True,
                )
            assert result.samples == cells
            for tally in result.stages:
                if tally.done:
                    table.add_row(f"  {tally.stage}", f"{tally.units}", f"{tally.seconds:.1f}", _each(tally.seconds, tally.units))
            table.add_row(f"[bold]{what}", f"{4 * cells}", *_figures(found, 4 * cells, loop))
    return table


def fan_outs(sizes: list[int], workers: int) -> Table:
    """Trivial units through each peer on the same workers."""
    columns = ("", "units", "s", "ms a unit", "ratio to run_units", "driver grows by MB")
    table = Table(*columns, title="fan-out of trivial units")
    with open_client(f"local:{workers}") as client:
        for count in sizes:
            ours: Measure | None = None
            for peer in ("run_units", "client.map", "Prefect task per unit") if count <= PEERS_UP_TO else ("run_units",):
                with measured() as found:
                    fan_out(client, peer, count)
                ours = ours or found
                table.add_row(peer, f"{count}", *_figures(found, count, ours))
    return table


def _figures(found: Measure, units: int, peer: Measure) -> tuple[str, ...]:
    return f"{found.seconds:.1f}", _each(found.seconds, units), f"{found.seconds / peer.seconds:.2f}", f"{found.grown_mb:.0f}"


def _each(seconds: float, count: int) -> str:
    return f"{1000 * seconds / count:.2f}"


def main(
    cells: Annotated[int, typer.Option(help="Cells of the nearly empty survey, 3072 at most.")] = 3072,
    units: Annotated[list[int] | None, typer.Option(help="Sizes of the fan-out. Repeatable.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
) -> None:
    """Print both tables."""
    from prefect import flow

    import flows  # noqa: F401  its defaults, before prefect reads them

    logging.getLogger("prefect").setLevel(logging.ERROR)
    console = Console(width=110)
    with measured() as start:
        flow(lambda: None, name="nothing")()
    console.print(f"embedded Prefect server ready after {start.seconds:.1f} s, paid once by each command")
    console.print(builds(cells, workers))
    console.print(fan_outs(units or [500, 5000], workers))


if __name__ == "__main__":
    typer.run(main)

"""Do memory and time of a unit stay what they are from 4,000 (cell, survey) units to 400,000?

    python -m bench.units [--units 4000 --units 40000 --units 400000] [--workers 2]

A recipe of as many surveys of 3,072 cells as it takes is planned and run as a build does it: its sources are listed, units
planned, receipts looked for, units dealt out to Dask workers, their outcomes noted, each stage finished, and the next one
planned from the receipts. The work is empty: a unit of the scan writes its receipt, one of the objects a partition of one
row besides. Then all is planned again, which finds every receipt. Each size runs in a process of its own, whose memory (driver
and Dask scheduler) is compared with what it was before. Goal: memory and time of a unit at 400,000 as at 4,000.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from flows.build import reusable
from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey
from mmu_pipeline.client import open_client
from mmu_pipeline.cluster import run_units
from mmu_pipeline.journal import Journal
from mmu_pipeline.receipt import Receipt, write_receipt
from mmu_pipeline.sky import CELL_ORDER, Cell
from mmu_pipeline.stages.build import Build, Outcome, Source, Unit
from mmu_pipeline.stages.pipeline import finish_stage, units_of
from mmu_pipeline.stages.receipts import write_stage
from mmu_pipeline.stages.scan import object_schema
from mmu_pipeline.storage import Root, object_folder, partition_path

CELLS = 12 * 4**CELL_ORDER
STAGES = ("scan", "objects")


def survey(name: str) -> Survey:
    """A survey of positions alone."""
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True)
    return Survey(
        name=name, title=name, modality="table", release="none", summary="Made by a benchmark.", forms={"cells": form},
        fields=(), licence="none", citation="none",
    )  # fmt: skip


def build_of(folder: Path, units: int) -> Build:
    """A build of about so many (cell, survey) units; all surveys are listed from one folder of empty files."""
    surveys = max(2, round(units / CELLS))
    cells = min(CELLS, -(-units // surveys))
    for cell in range(cells):
        place = folder / "data" / f"healpix={cell}"
        place.mkdir(parents=True)
        (place / "001-of-001.hdf5").touch()
    names = [f"s{number:03d}" for number in range(surveys)]
    counterparts = tuple(Counterpart(survey=name, radius_arcsec=1.0, pick="nearest", how="left") for name in names[1:])
    recipe = Recipe(name="many", primary=Selection(survey=names[0]), counterparts=counterparts)
    sources = {name: Source("cells", str(folder / "data")) for name in names}
    return Build(recipe, {name: survey(name) for name in names}, sources, Root(str(folder / "root")))


@cache
def one_row() -> bytes:
    """A partition of an object table."""
    values: dict[str, Any] = {"_healpix_29": 0, "ra": 0.0, "dec": 0.0, "object_id": "a", "source_file": "f", "source_row": 0}
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([values], object_schema(survey("any"))), stream)
    return stream.getvalue()


def receipt_of(unit: Unit) -> Receipt:
    """What a unit says, had it read one row."""
    name, cell = unit.name.split("/")
    receipt = Receipt(unit.stage, unit.name, unit.fingerprint, rows_in=1, rows_out=1, seconds=0.001, worker="host/1/1")
    if unit.stage == "scan":
        return replace(receipt, facts={"partitions": {cell: 1}, "digest": unit.fingerprint, "files": 1})
    path = partition_path(object_folder(name), Cell(CELL_ORDER, int(cell)))
    return replace(receipt, outputs={path: len(one_row())}, facts={"cells": {cell: 1}, "digest": unit.fingerprint})


def empty(unit: Unit, build: Build) -> Outcome:
    """What a unit leaves, and no work."""
    receipt = receipt_of(unit)
    for path in receipt.outputs:
        build.root.write_bytes(path, one_row())
    return Outcome(unit, "done", write_receipt(build.root, receipt))


@contextmanager
def timed(found: dict[str, float], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    found[what] = found.get(what, 0.0) + time.perf_counter() - start


def run(units: int, workers: int) -> dict[str, float]:
    """Seconds of each step, and by how many bytes this process grew at its peak; without workers nothing is run, only planned."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        build = build_of(Path(stack.enter_context(tempfile.TemporaryDirectory())), units)
        client = stack.enter_context(open_client(f"local:{workers}")) if workers else None
        stack.enter_context(watching(found))
        journal = Journal()
        for stage in STAGES:
            with timed(found, f"plan {stage}"):
                todo = units_of(stage, build)
            with timed(found, "look for receipts"):
                assert not reusable(build, todo)
            planned, outcomes = {unit.name: unit for unit in todo}, {}
            with timed(found, f"run {stage}"):
                came = (Outcome(unit, "done", receipt_of(unit)) for unit in todo)
                for outcome in run_units(client, empty, build, todo) if client else came:
                    outcomes[outcome.unit.name] = replace(outcome, unit=planned[outcome.unit.name])
                    journal.add(outcome)
            with timed(found, f"finish {stage}"):
                if client or stage == "scan":
                    finish_stage(stage, build, [outcomes[unit.name] for unit in todo])
                else:  # there are no partitions whose footers could be put together
                    write_stage(build, stage, sorted((o.receipt for o in outcomes.values()), key=lambda receipt: receipt.unit))
            found["units"] = found.get("units", 0) + len(todo)
        with timed(found, "plan match"):
            assert units_of("match", build)
        assert len(journal.table()) == found["units"]
        for stage in STAGES if client else ():
            with timed(found, "plan again"):
                todo = units_of(stage, build)
            with timed(found, "find receipts again"):
                assert len(reusable(build, todo)) == len(todo)
    return found


@contextmanager
def watching(found: dict[str, float]) -> Iterator[None]:
    """Note the peak of this process's memory above what it is now."""
    process, over = psutil.Process(), threading.Event()
    before, cpu = process.memory_info().rss, time.process_time()

    def watch() -> None:
        while not over.wait(0.2):
            found["grown"] = max(found.get("grown", 0.0), process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        found["cpu"] = time.process_time() - cpu
        over.set()
        thread.join()


def in_a_process(units: int, workers: int) -> dict[str, float]:
    code = f"import json; from bench.units import run; print(json.dumps(run({units}, {workers})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(
    units: Annotated[list[int] | None, typer.Option(help="Sizes. Repeatable.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; 0 to plan from made-up receipts and run nothing.")] = 2,
) -> None:
    """Print a column per size: milliseconds of a unit by step, and memory of a unit."""
    found = [in_a_process(count, workers) for count in units or [4000, 40_000, 400_000]]
    table = Table("ms a unit", *(f"{int(each['units']):,} units" for each in found))
    steps = [name for name in found[0] if name not in ("units", "grown", "cpu")]
    for name in steps:
        table.add_row(name, *(f"{1000 * each[name] / each['units']:.3f}" for each in found))
    table.add_row("all", *(f"{1000 * sum(each[name] for name in steps) / each['units']:.3f}" for each in found))
    table.add_row("CPU of driver and scheduler", *(f"{1000 * each['cpu'] / each['units']:.3f}" for each in found))
    table.add_row("seconds in all", *(f"{sum(each[name] for name in steps):.1f}" for each in found))
    table.add_row("driver and scheduler grow by", *(f"{each['grown'] / 1e6:.0f} MB" for each in found))
    table.add_row("of a unit", *(f"{each['grown'] / each['units']:.0f} B" for each in found))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)

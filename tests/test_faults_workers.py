"""Workers and schedulers that die, run out of memory or lose the network: the bytes are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from mmu_pipeline.client import open_client
from mmu_pipeline.cluster import ClusterLost
from mmu_pipeline.stages.build import STAGES, Build, Outcome, Unit
from mmu_pipeline.stages.pipeline import run_unit
from tests.faults import OBJECTS, dask_scheduler, dask_worker, drive, dying, prepared, published_bytes


def test_a_worker_killed_in_each_stage_changes_nothing(sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    with open_client("local:2") as client:
        published = drive(prepared(sky, tmp_path / "root"), client, dying(tmp_path / "died"))
    with_units = set(STAGES) - {"keys"}  # nothing is joined by key in this sky
    assert {mark.name for mark in (tmp_path / "died").iterdir()} == with_units
    assert published.set_aside == ()
    assert published_bytes(tmp_path / "root") == undisturbed
    assert not list((tmp_path / "root").rglob("*.partial"))


def slowly(seconds: float, unit: Unit, build: Build) -> Outcome:
    time.sleep(seconds)
    return run_unit(unit, build)


def test_a_scheduler_killed_in_mid_run_ends_it_and_the_next_run_goes_on(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    build = prepared(sky, tmp_path)
    with (
        dask_scheduler() as scheduler,
        dask_worker(scheduler.address),
        open_client(scheduler.address) as client,
        pytest.raises(ClusterLost),
    ):
        drive(build, client, partial(slowly, 0.05), after={"scan": lambda: threading.Timer(0.4, scheduler.kill).start()})
    assert not (tmp_path / "shards" / "pair" / "LATEST").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("receipts/objects/**/*.json")}
    assert before
    drive(build)
    assert published_bytes(tmp_path) == undisturbed
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "finished cells were done again"


def test_workers_whose_batch_system_ends_them_hand_their_work_back(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """SIGTERM to all processes of a job, while its units run: the worker that is left does them, and no cell is suspected."""
    seen = []
    with (
        dask_scheduler() as scheduler,
        dask_worker(scheduler.address) as ended,
        dask_worker(scheduler.address),
        open_client(scheduler.address) as client,
    ):

        def end_soon() -> None:
            threading.Timer(0.2, os.killpg, (ended.popen.pid, signal.SIGTERM)).start()

        published = drive(prepared(sky, tmp_path), client, partial(slowly, 0.05), after={"scan": end_soon})
        ended.popen.wait(timeout=30)
        seen.append(len(client.scheduler_info()["workers"]))
    assert seen == [1]
    assert published.set_aside == ()
    assert published_bytes(tmp_path) == undisturbed


def test_a_worker_whose_lifetime_ends_in_mid_run_changes_nothing(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """As jobs have that end before their batch system ends them: the other worker does what is left."""
    with (
        dask_scheduler() as scheduler,
        dask_worker(scheduler.address),
        dask_worker(scheduler.address, "--lifetime", "4s") as ended,
        open_client(scheduler.address) as client,
    ):
        published = drive(
            prepared(sky, tmp_path), client, partial(slowly, 0.2), after={"match": lambda: ended.popen.wait(timeout=30)}
        )
        assert len(client.scheduler_info()["workers"]) == 1
    assert published.set_aside == ()
    assert published_bytes(tmp_path) == undisturbed


def hungry(cell: str, unit: Unit, build: Build) -> Outcome:
    """One unit takes memory until its worker is stopped."""
    held = []
    while unit.stage == "samples" and unit.name.endswith(f"/{cell}"):
        held.append(bytearray(os.urandom(1024) * (16 * 1024)))
        time.sleep(0.01)
    return run_unit(unit, build)


@pytest.mark.long
def test_a_cell_that_takes_all_memory_is_set_aside_and_the_run_goes_on(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    build = prepared(sky, tmp_path)
    cell = sorted(path.name.split("=")[1] for path in (sky / "one").iterdir())[3]
    with dask_scheduler() as scheduler:
        limit = ("--memory-limit", "800MB")  # of which the libraries take some 350; from 640 on a worker takes no more work
        with dask_worker(scheduler.address, *limit), open_client(scheduler.address) as client:
            published = drive(build, client, partial(hungry, cell))
    assert [(entry["stage"], entry["unit"]) for entry in published.set_aside] == [("samples", f"pair/{cell}")]
    assert "out of memory" in published.set_aside[0]["reason"]
    assert published.samples == OBJECTS - 1
    again = drive(build)
    assert (again.samples, again.set_aside) == (OBJECTS, ())
    assert published_bytes(tmp_path) == undisturbed

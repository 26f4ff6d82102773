"""Units on Dask: batches, a bounded window, deaths put down to the guilty unit, and what is said when nothing moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import psutil
import pytest
from distributed import get_worker
from hypothesis import given
from hypothesis import strategies as st

from mmu_pipeline.catalog import Recipe, Selection
from mmu_pipeline.client import open_client
from mmu_pipeline.cluster import BATCH_BYTES, ClusterLost, Patience, batches, required, run_units
from mmu_pipeline.errors import BadInput, PipelineError
from mmu_pipeline.receipt import Receipt, read_receipt
from mmu_pipeline.stages.build import Build, Outcome, Unit
from mmu_pipeline.storage import Root
from tests.faults import dask_scheduler, dask_worker, wait_for


def build_at(folder: Path) -> Build:
    recipe = Recipe(name="tiny", primary=Selection(survey="tiny"))
    return Build(recipe=recipe, surveys={}, sources={}, root=Root(str(folder)))


def units_named(*names: str, weight: int = 1) -> list[Unit]:
    return [Unit(stage="scan", name=name, weight=weight) for name in names]


def outcome(unit: Unit, **facts: object) -> Outcome:
    return Outcome(unit=unit, status="done", receipt=Receipt(unit.stage, unit.name, "f", facts=facts))


def where_it_ran(unit: Unit, build: Build) -> Outcome:
    return outcome(unit, pid=os.getpid(), omp=os.environ.get("OMP_NUM_THREADS"), prefect="prefect" in sys.modules)


def die_if_guilty(unit: Unit, build: Build) -> Outcome:
    with open(build.root.path("attempts.txt"), "a") as log:
        log.write(f"{unit.name}\n")
    if "guilty" in unit.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome(unit)


def die_once(unit: Unit, build: Build) -> Outcome:
    mark = Path(build.root.path(f"{unit.name}.died"))
    if unit.name == "unlucky" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome(unit)


def full_disk(unit: Unit, build: Build) -> Outcome:
    if unit.name == "7":
        raise PipelineError("the disk is full", unit=unit.name, hint="free some space")
    return outcome(unit)


def forever(unit: Unit, build: Build) -> Outcome:
    time.sleep(60)
    return outcome(unit)


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 20), st.integers(1, 300))
def test_batches_hold_every_unit_once_in_order_within_both_limits(weights: list[int], most_units: int, most_bytes: int) -> None:
    units = [Unit(stage="scan", name=str(i), weight=weight) for i, weight in enumerate(weights)]
    made = list(batches(units, most_units, most_bytes))
    assert [unit for batch in made for unit in batch] == units
    for batch in made:
        assert 1 <= len(batch) <= most_units
        assert len(batch) == 1 or sum(unit.weight for unit in batch) <= most_bytes


def test_local_runs_in_this_process_and_listens_on_loopback_only(tmp_path: Path) -> None:
    before = {c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN"}
    with open_client("local") as client:
        done = list(run_units(client, where_it_ran, build_at(tmp_path), units_named("a", "b", "c")))
        open_ports = {c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN"} - before
    assert {o.receipt.facts["pid"] for o in done} == {os.getpid()}
    assert {address.ip for address in open_ports} <= {"127.0.0.1"}


def test_local_n_runs_in_n_processes_without_prefect_and_with_one_thread_each(tmp_path: Path) -> None:
    with open_client("local:2") as client:
        ports = [c for p in psutil.Process().children(recursive=True) for c in p.net_connections() if c.status == "LISTEN"]
        done = list(run_units(client, where_it_ran, build_at(tmp_path), units_named(*(str(i) for i in range(100)))))
    assert {c.laddr.ip for c in ports} == {"127.0.0.1"}
    assert len(done) == len({o.unit.name for o in done}) == 100
    assert len({o.receipt.facts["pid"] for o in done} - {os.getpid()}) == 2
    assert {o.receipt.facts["omp"] for o in done} == {"1"}
    assert not any(o.receipt.facts["prefect"] for o in done)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[object]:
    with open_client("local:2") as client:
        yield client


def test_units_that_kill_their_worker_are_set_aside_and_the_others_finish(tmp_path: Path, two_workers: object) -> None:
    names = [f"cell-{i}" for i in range(40)]
    names[11] = "guilty-11"
    names[30] = "guilty-30"
    build = build_at(tmp_path)
    done = {o.unit.name: o for o in run_units(two_workers, die_if_guilty, build, units_named(*names))}
    assert set(done) == set(names)
    assert {name for name, o in done.items() if o.status == "set_aside"} == {"guilty-11", "guilty-30"}
    receipt = read_receipt(build.root, "scan", "guilty-11")
    assert receipt is not None
    assert receipt.status == "set_aside"
    assert "worker process died" in receipt.reason
    attempts = (tmp_path / "attempts.txt").read_text().split()
    assert attempts.count("guilty-11") == 3


def test_a_unit_whose_worker_died_by_chance_is_done_in_the_end(tmp_path: Path, two_workers: object) -> None:
    done = list(run_units(two_workers, die_once, build_at(tmp_path), units_named("a", "unlucky", "b")))
    assert {o.unit.name: o.status for o in done} == {"a": "done", "unlucky": "done", "b": "done"}


def test_an_error_that_stops_the_build_arrives_with_its_hint(tmp_path: Path, two_workers: object) -> None:
    with pytest.raises(PipelineError, match="the disk is full") as caught:
        list(run_units(two_workers, full_disk, build_at(tmp_path), units_named(*(str(i) for i in range(20)))))
    assert caught.value.hint == "free some space"
    assert caught.value.where == {"unit": "7"}


def test_the_window_bounds_what_is_in_flight(tmp_path: Path) -> None:
    """The driver stops reading outcomes: no more units may run than two tasks a thread beyond those that it took."""

    def ran() -> int:
        return len((tmp_path / "attempts.txt").read_text().split())

    with open_client("local") as client:
        width = sum(client.nthreads().values())
        names = [str(i) for i in range(300)]
        stream = run_units(client, die_if_guilty, build_at(tmp_path), units_named(*names), batch_units=1)
        for _ in range(10):
            next(stream)
        time.sleep(0.5)
        assert 10 <= ran() <= 10 + 2 * width
        assert len(list(stream)) == 290
    assert ran() == 300


def test_no_worker_at_all_ends_with_a_clear_error(tmp_path: Path) -> None:
    with scheduler_alone() as (address, _), open_client(address) as client, pytest.raises(ClusterLost, match="no worker for"):
        list(run_units(client, where_it_ran, build_at(tmp_path), units_named("a"), patience=Patience(without_worker=0.5)))


def test_a_scheduler_that_dies_ends_with_a_clear_error(tmp_path: Path) -> None:
    with scheduler_alone() as (address, process), open_client(address) as client:
        threading.Timer(1.0, process.kill).start()
        started = time.monotonic()
        with pytest.raises(ClusterLost, match="scheduler"):
            list(run_units(client, where_it_ran, build_at(tmp_path), units_named("a")))
        assert time.monotonic() - started < 60


def test_a_scheduler_that_dies_before_it_gives_a_result_ends_with_a_clear_error(tmp_path: Path) -> None:
    with dask_scheduler() as scheduler, dask_worker(scheduler.address), open_client(scheduler.address) as client:

        def halt_and_end_it(units: int) -> None:
            wait_for((tmp_path / "attempts.txt").exists)
            time.sleep(0.5)  # now what was submitted is finished, and lies with the worker
            os.killpg(scheduler.popen.pid, signal.SIGSTOP)  # it is asked for the result, and does not answer
            threading.Timer(1.0, scheduler.kill).start()

        with pytest.raises(ClusterLost, match="forgot its work"):
            list(run_units(client, die_if_guilty, build_at(tmp_path), units_named("innocent"), running=halt_and_end_it))


def test_no_outcome_names_the_units_that_are_in_flight(tmp_path: Path, two_workers: object) -> None:
    with pytest.raises(ClusterLost, match="nothing has finished for 1 s") as caught:
        list(run_units(two_workers, forever, build_at(tmp_path), units_named("hsc/1104"), patience=Patience(without_outcome=1.0)))
    assert caught.value.where["units"] == "hsc/1104"


@pytest.mark.parametrize(
    "spec",
    ["", "locally", "local:0", "local:-1", "local:x", "local:2:many", "http://host:80", "tcp://host", "slurm:", "cloud:a.yaml"],
)
def test_another_word_for_a_cluster_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="no such cluster"), open_client(spec):
        pass


def test_a_batch_takes_the_resources_that_fit_it_and_that_workers_offer() -> None:
    light, heavy = Unit("scan", "a"), Unit("scan", "b", weight=BATCH_BYTES + 1)
    every = frozenset({"download", "write", "heavy"})
    assert required([light], [every]) == {"download": 1}
    assert required([heavy], [every]) == {"download": 1, "heavy": 1}
    assert required([heavy], [frozenset(), frozenset({"download"})]) == {"download": 1}  # no one worker has both
    assert required([Unit("shards", "c")], [every]) == {"write": 1}
    assert required([Unit("match", "d")], [every]) == {}
    assert required([heavy], []) == required([heavy], [frozenset()]) == {}


def most_at_once(path: Path) -> int:
    """Of lines `1` and `-1`, one for each begin and end, the highest sum."""
    return max(accumulate(map(int, path.read_text().split())))


def slowly(unit: Unit, build: Build) -> Outcome:
    path = Path(build.root.path(f"{unit.stage}.log"))
    for change in (1, -1):
        with path.open("a") as log:
            log.write(f"{change}\n")
        time.sleep(0.05)
    return outcome(unit)


def test_stages_are_bounded_apart_by_what_workers_offer(tmp_path: Path) -> None:
    """Four threads, of which one may download and two may write; matching is not bounded."""
    with scheduler_alone() as (address, _):
        asked = ["--nthreads", "4", "--nworkers", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *asked, "--resources", "download=1 write=2"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        try:
            with open_client(address) as client:
                client.wait_for_workers(1, timeout=60)
                for stage in ("scan", "shards", "match"):
                    units = [Unit(stage=stage, name=str(number)) for number in range(12)]
                    assert len(list(run_units(client, slowly, build_at(tmp_path), units, batch_units=1))) == 12
        finally:
            worker.terminate()
            worker.wait(30)
    assert most_at_once(tmp_path / "scan.log") == 1
    assert most_at_once(tmp_path / "shards.log") == 2
    assert most_at_once(tmp_path / "match.log") > 2


def memory_limit() -> int:
    return int(get_worker().memory_manager.memory_limit)


def test_the_memory_of_local_workers_can_be_limited() -> None:
    with open_client("local:1:600MB") as client:
        assert client.submit(memory_limit, pure=False).result(timeout=60) == 600_000_000


@pytest.mark.parametrize("memory", ["1KB", "400MB", "0"])
def test_memory_that_the_libraries_of_a_worker_would_fill_is_refused(memory: str) -> None:
    with pytest.raises(BadInput, match="too little memory for a worker") as caught, open_client(f"local:1:{memory}"):
        pass
    assert caught.value.where == {"least": "500MB"}


def test_an_address_where_nothing_listens_is_refused() -> None:
    with pytest.raises(BadInput, match="no Dask scheduler answers"), open_client("tcp://127.0.0.1:9"):
        pass


class scheduler_alone:  # noqa: N801
    """A `dask scheduler` process on a free loopback port: (address, process)."""

    def __enter__(self) -> tuple[str, subprocess.Popen[str]]:
        command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
        sees_this_module = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, env=sees_this_module)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Scheduler at:" in line:
                return line.split()[-1], self.process
        raise AssertionError("the scheduler did not start")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

"""Clusters by name: batch systems that start workers, and addresses that want certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import dask
import psutil
import pytest
import trustme
import yaml

from mmu_pipeline.client import open_client, patience_at, read_profile
from mmu_pipeline.cluster import run_units
from mmu_pipeline.errors import BadInput
from mmu_pipeline.stages.build import Build, Outcome, Unit
from tests.faults import dask_scheduler, dask_worker, wait_for
from tests.test_cluster import build_at, units_named, where_it_ran

TOP = str(Path(__file__).parents[1])
SBATCH = """#!/bin/bash
# As sbatch does, but here and now: runs the script in a session of its own and says its number.
cp "$1" "$JOBS/$$.sh"
PYTHONPATH="$TOP" setsid bash "$JOBS/$$.sh" > "$JOBS/$$.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
kill -- -"$1"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs that a batch system of two commands starts on this machine."""
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, value in {"PATH": f"{programs}:{os.environ['PATH']}", "JOBS": str(jobs), "TOP": TOP}.items():
        monkeypatch.setenv(name, value)
    return jobs


def profile(folder: Path, **content: object) -> Path:
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


OPTIONS = {
    "queue": "astro", "account": "mmu", "cores": 1, "processes": 1, "memory": "1GiB", "walltime": "00:10:00", "interface": "lo",
    "worker_extra_args": ["--resources", "download=1"], "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
}  # fmt: skip


@pytest.mark.parametrize("workers", [2, {"at_least": 0, "at_most": 2}])
def test_units_run_in_jobs_of_a_batch_system(slurm: Path, tmp_path: Path, workers: object) -> None:
    path = profile(tmp_path, workers=workers, cluster=OPTIONS)
    with open_client(f"slurm:{path}") as client:
        done = list(run_units(client, where_it_ran, build_at(tmp_path), units_named(*(str(i) for i in range(20)))))
        pids = {int(str(outcome.receipt.facts["pid"])) for outcome in done}
    assert len(done) == 20
    assert os.getpid() not in pids
    script = next(slurm.glob("*.sh")).read_text()
    for line in ("#SBATCH -p astro", "#SBATCH -A mmu", "#SBATCH --cpus-per-task=1", "#SBATCH -t 00:10:00", "#SBATCH --mem=1G"):
        assert line in script
    assert "--resources download=1" in script
    assert "--memory-limit 1.00GiB" in script
    end = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < end, "a job outlived its run"
        time.sleep(0.2)


def until_there_are_two(unit: Unit, build: Build) -> Outcome:
    """Short work, as long as one worker does it alone."""
    (seen := Path(build.root.path("workers"))).mkdir(exist_ok=True)
    (seen / str(os.getpid())).touch()
    if len(list(seen.iterdir())) < 2:
        time.sleep(0.2)
    return where_it_ran(unit, build)


def test_a_cluster_grows_with_work_that_waits_and_shrinks_without(slurm: Path, tmp_path: Path) -> None:
    path = profile(tmp_path, workers={"at_least": 0, "at_most": 2}, cluster=OPTIONS)
    with dask.config.set({"distributed.adaptive.interval": "50ms"}), open_client(f"slurm:{path}") as client:
        assert client.nthreads() == {}
        units = units_named(*(str(i) for i in range(200)))
        done = list(run_units(client, until_there_are_two, build_at(tmp_path), units, batch_units=1))
        assert {(outcome.status, outcome.attempts) for outcome in done} == {("done", 1)}
        pids = {int(path.name) for path in (tmp_path / "workers").iterdir()}
        assert len(pids) == 2
        wait_for(lambda: not client.nthreads() and not any(map(psutil.pid_exists, pids)), 60)
    assert len(list(slurm.glob("*.sh"))) == 2


def test_a_run_waits_for_a_queue_as_long_as_for_an_outcome() -> None:
    assert patience_at("slurm:a.yaml", 7200.0).without_worker == 7200.0
    assert patience_at("tcp://host:8786", 7200.0).without_worker == 120.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"cluster": {}}, "Field required"),
        ({"workers": {"at_most": 0}}, "greater than or equal to 1"),
        ({"workers": 2, "clustre": {}}, "Extra inputs"),
        ({"workers": 2, "cluster": {"cores": 1, "memory": "1GB", "cluster_name": "x"}}, "does not take the options"),
    ],
)
def test_a_wrong_profile_is_told_with_its_key(tmp_path: Path, content: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught, open_client(f"slurm:{profile(tmp_path, **content)}"):
        pass
    assert str(caught.value.where["file"]).endswith("profile.yaml")


def test_a_profile_that_is_not_there_and_a_package_that_is_not_installed_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_profile(tmp_path / "nowhere.yaml")
    with (
        pytest.raises(BadInput, match="dask-kubernetes, which is not installed"),
        open_client(f"kubernetes:{profile(tmp_path, workers=1)}"),
    ):
        pass


@pytest.mark.parametrize("addition", ["", "# changed\n"], ids=["same code", "other code"])
def test_workers_with_other_code_of_the_same_version_are_refused(tmp_path: Path, addition: str) -> None:
    package = shutil.copytree(Path(TOP, "mmu_pipeline"), tmp_path / "mmu_pipeline")
    with (package / "sky.py").open("a") as module:
        module.write(addition)
    told = pytest.raises(BadInput, match="a worker runs another mmu_pipeline") if addition else nullcontext()
    elsewhere = {"prefix": ("env", "-C", str(tmp_path)), "env": {"PYTHONPATH": str(tmp_path)}}
    with (
        dask_scheduler() as scheduler,
        dask_worker(scheduler.address, **elsewhere),
        told,
        open_client(scheduler.address) as client,
    ):
        assert len(client.nthreads()) == 1


def test_over_tls_who_has_no_certificate_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    everyone = {f"{who}.{what}": f"{what}.pem" for who in ("scheduler", "worker", "client") for what in ("cert", "key")}
    names = {"ca-file": "ca.pem", **everyone}
    config = {f"distributed.comm.tls.{name}": str(tmp_path / file) for name, file in names.items()}
    variables = {"DASK_" + name.upper().replace(".", "__").replace("-", "_"): value for name, value in config.items()}
    environment = os.environ | variables | {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true", "PYTHONPATH": TOP}
    place = ["--host", "127.0.0.1", "--no-dashboard"]
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", *place, "--port", "0", "--protocol", "tls", "--no-show"]
    scheduler = subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert scheduler.stderr is not None
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        assert address.startswith("tls://127.0.0.1:")
        start = [sys.executable, "-m", "distributed.cli.dask_worker", address, *place, "--no-nanny", "--nthreads", "1"]
        worker = subprocess.Popen(start, env=environment, stderr=subprocess.DEVNULL)
        try:
            with dask.config.set(config), open_client(address) as client:
                client.wait_for_workers(1, timeout=60)
                done = list(run_units(client, where_it_ran, build_at(tmp_path), units_named("a", "b")))
            assert len(done) == 2
            with pytest.raises(BadInput, match="wants TLS"), open_client(address):
                pass
            with pytest.raises(BadInput, match="no Dask scheduler answers"), open_client(address.replace("tls", "tcp")):
                pass
            stranger = trustme.CA().issue_cert("127.0.0.1")
            stranger.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
            stranger.private_key_pem.write_to_path(tmp_path / "key.pem")
            with dask.config.set(config), pytest.raises(BadInput, match="no Dask scheduler answers"), open_client(address):
                pass
        finally:
            worker.terminate()
            worker.wait(30)
    finally:
        scheduler.terminate()
        scheduler.wait(30)

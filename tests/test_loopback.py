"""`make cluster`: PostgreSQL, Prefect, Dask and S3 as processes here; a scheduled build, and runs on demand, through them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import psutil
import pytest
import s3fs

from flows.loopback.__main__ import Settings
from flows.loopback.swift import ACCESS_KEY
from mmu_pipeline.simulate.write import FOLDERS
from tests.faults import wait_for

TOP = Path(__file__).parents[1]
SWIFT = Path(os.environ.get("MMU_SWIFT", TOP / ".venv-s3" / "bin"))
NAMES = {
    "postgres", "prefect-server", "prefect-worker", "dask-scheduler", "dask-worker-1", "dask-worker-2",
    "s3-memory", "s3-object", "s3-container", "s3-account", "s3-proxy",
}  # fmt: skip
RECIPE = "hsc-sdss-gaia"
SHARDS = f"s3://mmu/runs/shards/{RECIPE}"


def loopback(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.loopback", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1100, env=environment, cwd=TOP, check=False)


def started(folder: Path) -> dict[str, int]:
    return {path.stem: json.loads(path.read_text())["pid"] for path in folder.glob("*.pid")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder of a running cluster, and what its start said."""
    there = which("initdb") or list(Path("/usr/lib/postgresql").glob("*"))
    if not (there and which("memcached") and (SWIFT / "swift-proxy-server").exists()):
        pytest.skip("PostgreSQL, memcached or Swift is not installed: make cluster installs them; MMU_SWIFT says where Swift is")
    folder = tmp_path_factory.mktemp("cluster")
    try:
        ran = loopback("up", "--folder", folder, "--s3-programs", SWIFT)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        yield folder, ran.stdout
    finally:
        loopback("down", "--folder", folder, "--purge")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_prefect_and_its_database_killed_and_started_again_in_mid_run_lose_nothing(cluster: tuple[Path, str]) -> None:
    """kill -9 of PostgreSQL and of the server while a run on demand works; then `up` brings back what is gone."""
    folder, _ = cluster
    settings = Settings(**json.loads((folder / "settings.json").read_text()))
    sources = {name: str(folder / "sky" / place) for name, place in FOLDERS.items()}
    asked = {"recipe": RECIPE, "root": "s3://mmu/again", "sources": sources, "cache": str(folder / "cache")}
    run = started_run(settings.api, "build/on-demand", asked)
    store = s3fs.S3FileSystem(
        endpoint_url=settings.environment["AWS_ENDPOINT_URL"], key=ACCESS_KEY, secret=settings.s3_secret, use_listings_cache=False
    )
    wait_for(lambda: store.exists("mmu/again/receipts/objects"))
    for name in ("prefect-server", "postgres"):
        process = psutil.Process(started(folder)[name])
        for member in (process, *process.children(recursive=True)):
            member.kill()
    assert loopback("up", "--folder", folder, "--s3-programs", SWIFT).returncode == 0
    if ended(settings.api, run)["type"] != "COMPLETED":  # its process met a server that was away: the next one goes on
        found = ended(settings.api, started_run(settings.api, "build/on-demand", asked))
        assert found["type"] == "COMPLETED", found["message"]
    here, there = (shards_at(store, root) for root in ("mmu/runs", "mmu/again"))
    assert len(here) > 10
    assert there == here


def shards_at(store: s3fs.S3FileSystem, root: str) -> dict[str, bytes]:
    """Every file of the published version, by its name."""
    folder = f"{root}/shards/{RECIPE}"
    version = store.cat_file(f"{folder}/LATEST").decode().strip()
    return {path.split(version)[1]: store.cat_file(path) for path in store.find(f"{folder}/{version}")}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_scheduled_build_and_runs_on_demand_and_the_end_of_just_these_processes(cluster: tuple[Path, str]) -> None:
    folder, said = cluster
    settings = json.loads((folder / "settings.json").read_text())
    api = f"http://127.0.0.1:{settings['ports']['prefect']}/api"
    assert f"Prefect  http://127.0.0.1:{settings['ports']['prefect']}" in said
    assert f"Dask     http://127.0.0.1:{settings['ports']['dashboard']}/status" in said
    assert "ended: Cells set aside" in said  # the simulated sky holds one broken file
    assert "all is as the manifest says" in said
    assert set(started(folder)) == NAMES

    complete = {"state": {"type": {"any_": ["COMPLETED"]}}}
    runs = httpx.post(f"{api}/flow_runs/filter", json={"flow_runs": complete}).json()
    made_by = [(run["name"], (run["created_by"] or {}).get("type")) for run in runs]  # of a run that nobody asked for: None
    assert (f"build {RECIPE}", "SCHEDULE") in made_by
    scheduled = min(
        (run for run in runs if (run["created_by"] or {}).get("type") == "SCHEDULE"), key=lambda run: str(run["start_time"])
    )
    asked = {"artifacts": {"flow_run_id": {"any_": [scheduled["id"]]}}}
    artifacts = {artifact["key"]: artifact for artifact in httpx.post(f"{api}/artifacts/filter", json=asked).json()}
    stages = {f"{RECIPE}-{stage}" for stage in ("scan", "objects", "match", "samples", "shards", "check")}
    assert {artifacts[key]["data"] for key in stages} == {100.0}, "a progress artifact of each stage"
    tables = json.loads(artifacts[f"{RECIPE}-done"]["data"])
    assert {f"{RECIPE}-{row['stage']}" for row in tables if row["units"]} == stages
    assert f"http://127.0.0.1:{settings['ports']['dashboard']}/status" in artifacts[f"{RECIPE}-dask"]["data"]
    assert "run.html" in artifacts[f"{RECIPE}-page"]["data"]
    assert "HDF5" in artifacts[f"{RECIPE}-set-aside"]["data"]
    of_run = {"logs": {"flow_run_id": {"any_": [artifacts[f"{RECIPE}-done"]["flow_run_id"]]}}}
    log = [line["message"] for line in httpx.post(f"{api}/logs/filter", json=of_run).json()]
    assert any(line.startswith("scan: 49 units") for line in log), "by the level of a server, not of a flow without one"
    assert any(line.startswith("scan sdss/1688: set aside: not a readable HDF5 file") for line in log)

    again = run_now(api, "build/nightly", {})
    assert "nothing new in the sources" in again["message"], "the broken file is tried again, and stays as it is"
    found = run_now(api, "verify/weekly", {"shards": SHARDS})
    assert found["type"] == "COMPLETED", found["message"]
    found = run_now(api, "reshard/on-demand", {"inputs": [SHARDS], "out": "s3://mmu/other", "rule": {"samples_per_shard": 7}})
    assert found["type"] == "COMPLETED", found["message"]
    found = run_now(api, "clean/monthly", {})
    assert found["type"] == "COMPLETED", found["message"]

    sockets = [c for pid in started(folder).values() for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    listening = {socket.laddr.ip for socket in sockets}
    assert listening == {"127.0.0.1"}
    assert {oct((folder / name).stat().st_mode)[-3:] for name in ("settings.json", "environment")} == {"600"}
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    pids = started(folder).values()
    down = loopback("down", "--folder", folder)
    assert down.returncode == 0
    assert all(name in down.stdout for name in NAMES)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert "nothing of this folder was running" in loopback("down", "--folder", folder).stdout


def run_now(api: str, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Start a deployment's flow and wait for its end; its last state."""
    return ended(api, started_run(api, deployment, parameters))


def started_run(api: str, deployment: str, parameters: dict[str, Any]) -> str:
    """Start a deployment's flow as the form in the user interface does; the number of the run."""
    known = httpx.get(f"{api}/deployments/name/{deployment}").json()
    made = httpx.post(f"{api}/deployments/{known['id']}/create_flow_run", json={"parameters": parameters})
    assert made.is_success, made.text
    return str(made.json()["id"])


def ended(api: str, run: str) -> dict[str, Any]:
    """The last state of a run, once it has ended."""
    environment = os.environ | {"PREFECT_API_URL": api}
    subprocess.run(
        [sys.executable, "-m", "prefect", "flow-run", "watch", run],
        env=environment,
        capture_output=True,
        timeout=400,
        check=False,
    )
    state: dict[str, Any] = httpx.get(f"{api}/flow_runs/{run}").json()["state"]
    return state

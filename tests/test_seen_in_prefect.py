"""What an operator finds in Prefect's web page: the log of a run, the progress of its stages, tables, names of states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.build import build
from flows.maintain import verify
from flows.reshard import reshard
from tests.faults import build_command, small_sky
from tests.servers import prefect_server
from tests.test_cli import mmu

RESHARD = ("--samples-per-shard", "2", "--cluster", "local:1", "--json")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The API of a Prefect server of our own."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def built(api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Root of a build that had to set a broken file aside, and what it said on stderr."""
    folder = tmp_path_factory.mktemp("built")
    sky = small_sky(folder / "sky")
    broken = min((sky / "one").glob("healpix=*/*.hdf5"))
    broken.write_bytes(broken.read_bytes()[:100])
    words = build_command(sky, folder / "root", "--cluster", "local:1")[3:]
    ran = mmu(*words, **known(api), MMU_LOG="json")
    assert ran.returncode == 3, ran.stderr
    return folder / "root", ran.stderr


def known(api: httpx.Client) -> dict[str, str]:
    """What a client of the server has in its environment; the level is Prefect's own, which the flows here lower without one."""
    return {"PREFECT_API_URL": str(api.base_url).rstrip("/"), "PREFECT_LOGGING_LEVEL": "INFO"}


def last_run(api: httpx.Client, flow: str) -> dict[str, Any]:
    asked = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 1}
    found: list[dict[str, Any]] = api.post("/flow_runs/filter", json=asked).json()
    return found[0]


def artifacts_of(api: httpx.Client, run: dict[str, Any]) -> dict[str, Any]:
    found = api.post("/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_the_log_of_a_run_tells_its_stages_and_why_a_cell_is_missing(api: httpx.Client, built: tuple[Path, str]) -> None:
    run = last_run(api, build.name)
    lines = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}}).json()
    said = [line["message"] for line in lines if line["name"] == "mmu_pipeline"]
    stages = [line.split(":")[0] for line in said if " units, " in line]
    assert stages == ["scan", "objects", "keys", "match", "samples", "shards", "check"]
    assert any(line.startswith("scan one/") and "not a readable HDF5 file" in line for line in said)


def test_mmu_log_makes_every_line_json(built: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in built[1].splitlines()]
    assert {line["recipe"] for line in lines} == {"pair"}
    aside = next(line for line in lines if line["level"] == "WARNING")
    assert (aside["stage"], aside["survey"], aside["status"]) == ("scan", "one", "set_aside")
    assert aside["cell"] == int(aside["unit"].split("/")[1])


def test_progress_of_every_stage_and_of_the_check(api: httpx.Client, built: tuple[Path, str]) -> None:
    found = artifacts_of(api, last_run(api, build.name))
    for stage in ("scan", "objects", "match", "samples", "shards", "check"):
        assert found[f"pair-{stage}"] == 100.0


def test_a_reshard_shows_its_progress_and_what_came_of_it(api: httpx.Client, built: tuple[Path, str], tmp_path: Path) -> None:
    words = ("reshard", str(built[0] / "shards" / "pair"), "--out", str(tmp_path), *RESHARD)
    made = json.loads(mmu(*words, **known(api)).stdout)
    run = last_run(api, reshard.name)
    found = artifacts_of(api, run)
    assert (found["pair-reshard"], found["pair-check"]) == (100.0, 100.0)
    (row,) = json.loads(found["pair-resharded"])
    assert (row["samples"], row["shards"]) == (made["samples"], made["shards"]["units"])
    assert run["state"]["name"] == "Completed"
    assert json.loads(mmu(*words, **known(api)).stdout)["reused"]
    assert last_run(api, reshard.name)["state"]["name"] == "Nothing new"


def test_a_check_says_what_it_saw_in_its_state(built: tuple[Path, str]) -> None:
    state = verify(str(built[0] / "shards" / "pair"), return_state=True)
    assert "9 samples in " in str(state.message)
    assert state.result().samples == 9

"""Deployments: what the shipped file deploys, as a real server takes it, and the forms that its user interface draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.utilities.callables import parameter_schema

from flows.build import build
from flows.deploy import deployments_file
from flows.maintain import clean, verify
from flows.reshard import reshard
from tests.faults import build_command, small_sky
from tests.servers import prefect_server
from tests.test_cli import MMU, mmu


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API address of a Prefect server on loopback that asks for a password."""
    with prefect_server(tmp_path_factory.mktemp("prefect"), PREFECT_SERVER_API_AUTH_STRING="operator:secret") as url:
        yield url


def test_every_parameter_has_a_type_and_a_line_of_help() -> None:
    for flow in (build, reshard, verify, clean):
        schema = parameter_schema(flow).model_dump()
        for form in (schema, *schema["definitions"].values()):
            for name, said in form["properties"].items():
                assert said.get("description"), f"{flow.name}: {name}"
                assert {"type", "anyOf", "$ref", "enum"} & set(said), f"{flow.name}: {name}"
    values = parameter_schema(verify).model_dump()["properties"]["values"]
    assert values["enum"] == ["sampled", "all"]
    rule = parameter_schema(reshard).model_dump()["definitions"]["ReshardRule"]["properties"]
    assert rule["where"]["description"].startswith("An expression over columns")


def test_deploy_applies_all_to_a_server_with_a_password(server: str) -> None:
    known = {"PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": "operator:secret"}
    asked = ("deploy", "--root", "s3://sky/runs", "--cluster", "tcp://scheduler:8786", "--recipe", "snls", "--json")
    ran = mmu(*asked, **known)
    assert ran.returncode == 0, ran.stderr
    names = ["build/nightly", "build/on-demand", "reshard/on-demand", "verify/weekly", "clean/monthly"]
    assert json.loads(ran.stdout) == names
    assert mmu(*asked, **known).returncode == 0  # again: nothing is doubled
    with httpx.Client(base_url=server, auth=("operator", "secret")) as client:
        found = {d["name"] if d["name"] != "on-demand" else d["entrypoint"]: d for d in client.post("/deployments/filter").json()}
        pool = client.get("/work_pools/mmu").json()
    assert len(found) == 5
    assert pool["type"] == "process"
    nightly = found["nightly"]
    assert [(s["schedule"]["cron"], s["schedule"]["timezone"], s["active"]) for s in nightly["schedules"]] == [
        ("0 3 * * *", "Europe/Paris", True)
    ]
    assert nightly["parameters"]["root"] == "s3://sky/runs"
    assert nightly["parameters"]["cluster"] == "tcp://scheduler:8786"
    assert nightly["parameters"]["recipe"] == "snls"
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert found["weekly"]["parameters"]["shards"] == "s3://sky/runs/shards/snls"
    assert found["monthly"]["parameters"]["dry_run"] is True
    assert found["monthly"]["schedules"][0]["parameters"] == {"dry_run": False}
    form = found["flows.build.build"]["parameter_openapi_schema"]["properties"]
    assert form["cells"]["description"].startswith("Only these cells")


def test_a_run_with_a_parameter_of_another_type_is_refused_by_the_server(server: str) -> None:
    with httpx.Client(base_url=server, auth=("operator", "secret")) as client:
        found = client.get("/deployments/name/verify/weekly").json()
        refused = client.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": {"values": "some"}})
    assert refused.status_code == 409
    assert "'some' is not one of" in refused.text


@pytest.mark.long
def test_of_two_runs_of_one_recipe_on_one_server_the_later_waits_for_the_end_of_the_other(server: str, tmp_path: Path) -> None:
    """Without the limit of the server the lease beside the data would turn the second away, with exit code 2."""
    command = [*build_command(small_sky(tmp_path / "sky"), tmp_path / "root"), "--json"]
    known = {**os.environ, "PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": "operator:secret"}
    running = [subprocess.Popen(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    results = [json.loads(out) for out, _ in said]
    assert sorted(result["reused"] for result in results) == [False, True], "one builds, the other finds nothing to do"
    assert results[0]["version"] == results[1]["version"]
    built, looked = sorted(results, key=lambda result: bool(result["reused"]))
    assert looked["seconds"] < built["seconds"], "it waited for the other for about so long, and says its own time"
    with httpx.Client(base_url=server, auth=("operator", "secret")) as client:
        limits = client.post("/v2/concurrency_limits/filter", json={}).json()
    assert [(limit["limit"], limit["active_slots"]) for limit in limits if limit["name"].startswith("pair-in-")] == [(1, 0)]


def test_a_slot_that_nobody_knows_the_holder_of_is_freed_where_nobody_writes(server: str) -> None:
    """As a server leaves it that was restarted in mid-run: it keeps leases in memory unless told otherwise."""
    code = """
from flows.one_at_a_time import one_at_a_time
looks = []
with one_at_a_time("this", lambda: looks.append(1) or len(looks) == 2, 0.5):
    print(len(looks))
"""
    known = {**os.environ, "PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": "operator:secret"}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=known, timeout=60) == b"0\n", "it was free"
    with httpx.Client(base_url=server, auth=("operator", "secret")) as client:
        found = client.post("/v2/concurrency_limits/filter", json={}).json()
        limit = next(limit for limit in found if limit["name"].startswith("this-"))
        assert client.patch(f"/v2/concurrency_limits/{limit['id']}", json={"active_slots": 1}).is_success
        assert subprocess.check_output(command, env=known, timeout=60) == b"4\n", "one look saw a writer"
        assert client.get(f"/v2/concurrency_limits/{limit['id']}").json()["active_slots"] == 0


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    [
        ({}, [], "no Prefect server is named"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, [], "no Prefect server answers"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, ["--file", "nowhere.yaml"], "not a file of deployments"),
    ],
)
def test_what_cannot_be_deployed_ends_with_2(environment: dict[str, str], words: list[str], said: str) -> None:
    ran = mmu("deploy", "--root", "x", *words, PREFECT_CLIENT_MAX_RETRIES="0", **environment)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_server_that_only_a_profile_of_prefect_names_is_the_server(tmp_path: Path) -> None:
    (tmp_path / ".prefect").mkdir()
    profiles = 'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n[profiles.none]\n'
    (tmp_path / ".prefect" / "profiles.toml").write_text(profiles)
    without = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    for chosen, said in (({}, "no Prefect server answers"), ({"PREFECT_PROFILE": "none"}, "no Prefect server is named")):
        known = {**without, "HOME": str(tmp_path), "PREFECT_CLIENT_MAX_RETRIES": "0", **chosen}
        ran = subprocess.run([*MMU, "deploy", "--root", "x"], env=known, capture_output=True, text=True, timeout=240, check=False)
        assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr


def test_without_its_password_the_server_says_nothing(server: str) -> None:
    assert httpx.post(f"{server}/deployments/filter").status_code == 401
    ran = mmu("deploy", "--root", "x", PREFECT_API_URL=server)
    assert ran.returncode != 0
    assert "401" in ran.stderr


def test_the_wheel_carries_the_file(tmp_path: Path) -> None:
    top = deployments_file().parent
    assert '"prefect.yaml" = "flows/prefect.yaml"' in (top / "pyproject.toml").read_text()

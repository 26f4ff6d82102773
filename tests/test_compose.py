"""docker-compose.yml and docker/Dockerfile, as far as they can be checked where no docker runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import dask.config
import pytest
import yaml

import mmu_pipeline
from flows.loopback.__main__ import SCHEDULER_ENVIRONMENT
from mmu_pipeline.client import OF_SCHEDULER
from tests.faults import started, wait_for
from tests.servers import free_port

TOP = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
COMPOSE = TOP / "docker-compose.yml"
OURS = f"mmu-pipeline:{mmu_pipeline.__version__}"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def checked(*words: object) -> None:
    ran = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_it_follows_the_compose_specification() -> None:
    checked(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_schema_would_find_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchekc:", 1))
    with pytest.raises(AssertionError, match="healthchekc"):
        checked(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong)


def test_the_dockerfile_passes_its_linter() -> None:
    checked(PROGRAMS / "hadolint", "--failure-threshold", "info", TOP / "docker" / "Dockerfile")


def test_what_is_referred_to_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]
        for network in service["networks"]:
            assert network in compose["networks"]
        for config in service.get("configs", ()):
            assert config["source"] in compose["configs"]
    assert {"postgres", "prefect-server", "scheduler", "worker", "prefect-worker", "s3"} <= set(services)


def test_every_process_that_stays_has_a_health_check_and_comes_back(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "bucket":
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
            assert service["restart"] == "unless-stopped", f"{name}: a Dask worker ends with 0 when its scheduler dies"


def test_both_schedulers_tell_a_run_at_once_of_a_worker_that_died(compose: dict[str, Any]) -> None:
    """Dask's default is to run its tasks again unseen: four workers die for one cell, and no page shows a retry."""
    for environment in (compose["services"]["scheduler"]["environment"], SCHEDULER_ENVIRONMENT):
        found = dask.config.collect_env(environment)
        assert {name: dask.config.get(name, config=found) for name in OF_SCHEDULER} == OF_SCHEDULER


def test_images_are_pinned_and_one_is_ours(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert all(re.search(r":\d+\.\d+", image) for image in images.values()), images
    assert [name for name, image in images.items() if image != OURS] == ["postgres", "s3"]
    assert [name for name, service in compose["services"].items() if "build" in service] == ["prefect-server"]


def test_only_loopback_is_published_and_the_database_is_not(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"s3", "prefect-server", "scheduler"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert compose["services"]["postgres"]["networks"] == ["records"]
    assert compose["networks"]["records"] == {"internal": True}


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    used = dict(re.findall(r"\$\{([A-Z0-9_]+)(:[^}]*)?\}", COMPOSE.read_text()))
    lines = (TOP / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert set(used) == set(example)
    secrets = [name for name in used if not name.startswith("DASK_")]
    assert all(example[name] == "" for name in secrets)
    for name in secrets:
        assert f"${{{name}:?" in COMPOSE.read_text(), f"{name} must be asked for"


def test_the_images_of_ours_run_without_root_and_without_writing_into_themselves(compose: dict[str, Any]) -> None:
    assert re.search(r"^USER \d+:\d+$", (TOP / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in compose["services"].items():
        if service["image"] == OURS:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


@pytest.mark.parametrize("name", ["prefect-server", "scheduler", "worker", "prefect-worker"])
def test_the_commands_know_the_options_that_they_are_given(compose: dict[str, Any], name: str) -> None:
    words = compose["services"][name]["command"]
    if words[0] == "sh":
        words = words[2].split("exec ")[1].split()
    helps = {
        "dask": [sys.executable, "-m", f"distributed.cli.dask_{words[1]}"],
        "prefect": [sys.executable, "-m", *words[:3]],
    }
    text = subprocess.run([*helps[words[0]], "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in text, option


CONFINED = """
set -e
mount --make-rprivate /
mount --bind "$0/data" "$0/data"
for volume in $1; do mount -t tmpfs tmpfs "$0$volume"; done
mount -o remount,bind,ro "$0/data"
mount --bind "$2" "$2"
mount -o remount,bind,ro "$2"
shift 2
exec "$@"
"""
"""A command for which /data, but for the volumes of its service, and the place where packages are installed cannot be written."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Text of the files with places and ports of this machine in it."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    folder = tmp_path_factory.mktemp("container")
    for name in ("data/cache", "data/prefect", "data/scratch", "tmp"):
        (folder / name).mkdir(parents=True)
    ports = {port: str(free_port()) for port in ("4200", "8786", "8787", "8788")}
    known = {"0.0.0.0": "127.0.0.1", "tcp://scheduler": "tcp://127.0.0.1", **ports}
    pattern = re.compile("|".join(map(re.escape, known)) + "|(?<![\\w/])/(?=data|tmp)")
    return lambda text: pattern.sub(lambda found: known.get(found[0], f"{folder}/"), text)


@pytest.mark.parametrize("names", [("prefect-server",), ("scheduler", "worker")])
def test_services_start_where_they_can_write_their_volumes_and_tmp_only(
    compose: dict[str, Any], elsewhere: Callable[[str], str], names: Sequence[str]
) -> None:
    """By the environment of the image, their own commands and health checks."""
    image = (TOP / "docker" / "Dockerfile").read_text().rpartition("FROM ")[2]
    environment = {name: elsewhere(value) for name, value in re.findall(r"(\w+)=([^\s$]+)(?: \\|$)", image, re.MULTILINE)}
    with ExitStack() as running:
        for name in names:
            service = compose["services"][name]
            volumes = " ".join(volume.split(":")[1] for volume in service.get("volumes", ()))
            words = [elsewhere(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word)) for word in service["command"]]
            words[:1] = {"prefect": [sys.executable, "-m", "prefect"], "dask": [sys.executable, "-m", "dask"]}[words[0]]
            own = {"TMPDIR": elsewhere("/tmp"), "PATH": os.environ["PATH"], "PYTHONPATH": str(TOP), **environment}
            confined = ["unshare", "--mount", "sh", "-c", CONFINED, elsewhere("/tmp")[:-4], volumes, sys.prefix, *words]
            running.enter_context(started(*confined, env=own))
            wait_for(partial(is_healthy, [elsewhere(word) for word in service["healthcheck"]["test"]]), 90)
        if names == ("prefect-server",):
            assert urlopen(elsewhere("http://127.0.0.1:4200/"), timeout=10).status == 200
            assert Path(environment["PREFECT_UI_STATIC_DIRECTORY"]).is_dir(), "the web page needs a place of its own"


def is_healthy(check: Sequence[str]) -> bool:
    assert check[:2] == ["CMD", "python"]
    return subprocess.run([sys.executable, *check[2:]], capture_output=True, timeout=30, check=False).returncode == 0


def test_what_the_image_copies_is_there() -> None:
    lines = re.findall(r"^COPY ([^-].*) \S+$", (TOP / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_through = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through
    assert all((TOP / name).exists() for name in copied)

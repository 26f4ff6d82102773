"""`python -m flows.loopback up`: start a cluster here, deploy, wait for a scheduled build of a simulated sky; `down`: end it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path
from secrets import token_hex
from shlex import quote
from shutil import rmtree
from subprocess import run
from typing import Annotated, Any

import httpx
import typer
import yaml

from flows import EMBEDDED_DEFAULTS, QUIET_DEFAULTS
from flows.deploy import deployments_file
from flows.loopback.postgres import data_folder, postgres
from flows.loopback.processes import Service, answers, start, stop_all
from flows.loopback.swift import ACCESS_KEY, swift
from mmu_pipeline.client import OF_SCHEDULER
from mmu_pipeline.errors import PipelineError
from mmu_pipeline.simulate.write import FOLDERS, write_sky

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
WORKERS = 2
RECIPE = "hsc-sdss-gaia"
BUCKET = "mmu"
PREFERRED_PORTS = {
    "postgres": 5433, "prefect": 4200, "prefect_worker": 8080, "scheduler": 8786, "dashboard": 8787,
    "proxy": 8333, "object": 6200, "container": 6201, "account": 6202, "memory": 11211,
}  # fmt: skip
PYTHON = sys.executable
SCHEDULER_ENVIRONMENT = {
    f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value) for name, value in OF_SCHEDULER.items()
}

Folder = Annotated[Path, typer.Option(help="Where logs, data and process numbers lie.")]


@dataclass(frozen=True)
class Settings:
    """What is chosen at the first start and stays: ports that were free, and passwords. Kept in a file for its owner alone."""

    ports: dict[str, int]
    database_password: str
    s3_secret: str

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs to know."""
        return {
            **QUIET_DEFAULTS,
            "PREFECT_API_URL": self.api,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['proxy']}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.s3_secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",  # docs/cluster.md
        }

    @property
    def scheduler(self) -> str:
        return f"tcp://127.0.0.1:{self.ports['scheduler']}"


@app.command()
def up(
    folder: Folder = Path("cluster"),
    s3_programs: Annotated[Path, typer.Option(help="Where the programs of Swift are installed.")] = Path(".venv-s3/bin"),
) -> None:
    """Start what is not running, deploy, and wait for one scheduled build of the simulated sky onto s3://."""
    for name, _ in EMBEDDED_DEFAULTS.items() & os.environ.items():  # for a server of a flow's own, which none has here
        del os.environ[name]
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(folder / "settings.json")
    _write_environment(settings, folder / "environment")
    for service in _services(folder, settings, s3_programs.absolute()):
        print(f"starting {service.name}", flush=True)
        start(service, folder)
    _make_bucket(settings)
    sky = folder / "sky"
    if not (sky / "truth.parquet").exists():
        write_sky(sky)
    soon = _deploy(settings, folder, {name: str(sky / place) for name, place in FOLDERS.items()})
    print(f"waiting for the scheduled build of {soon:%H:%M} UTC", flush=True)
    found = _scheduled_run(settings, soon)
    print(f"the scheduled run {found['name']!r} ended: {found['state']['name']}", flush=True)
    if found["state"]["type"] != "COMPLETED":
        raise PipelineError("the scheduled build failed", said=found["state"].get("message"), log=folder / "prefect-worker.log")
    shards = f"s3://{BUCKET}/runs/shards/{RECIPE}"
    run([PYTHON, "-m", "mmu_pipeline", "verify", shards], env=os.environ | settings.environment, check=True)  # noqa: S603
    _say(settings, shards, folder)


@app.command()
def down(
    folder: Folder = Path("cluster"),
    purge: Annotated[bool, typer.Option("--purge", help="Remove the folder and the database too.")] = False,
) -> None:
    """End the processes that `up` started from this folder, and no others. Data and logs stay."""
    stopped = stop_all(folder.resolve())
    print(f"ended: {', '.join(stopped)}" if stopped else "nothing of this folder was running")
    if purge:
        for place in (folder.resolve(), data_folder(folder.resolve())):
            if place.exists():
                rmtree(place)


def _settings(path: Path) -> Settings:
    if path.exists():
        return Settings(**json.loads(path.read_text()))
    settings = Settings({name: _free(port) for name, port in PREFERRED_PORTS.items()}, token_hex(16), token_hex(16))
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(settings), indent=1))
    return settings


def _write_environment(settings: Settings, path: Path) -> None:
    """A file that a shell reads, so that `mmu` and `prefect` speak with this cluster. For its owner alone."""
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={quote(value)}\n" for name, value in settings.environment.items()))


def _free(preferred: int) -> int:
    for port in (preferred, 0):
        with closing(socket.socket()) as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(found.getsockname()[1])
    raise PipelineError("no port is free on 127.0.0.1")


def _services(folder: Path, settings: Settings, s3_programs: Path) -> list[Service]:
    ports, known = settings.ports, settings.environment
    database, url = postgres(folder, ports["postgres"], settings.database_password)
    prefect = [PYTHON, "-m", "prefect"]
    here = ["--host", "127.0.0.1"]
    server = Service(
        "prefect-server", [*prefect, "server", "start", *here, "--port", str(ports["prefect"])],
        answers(f"{settings.api}/health"),
        {**QUIET_DEFAULTS, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
         "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
         "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"},
    )  # fmt: skip
    dashboard = f"127.0.0.1:{ports['dashboard']}"
    scheduler = Service(
        "dask-scheduler", [PYTHON, "-m", "distributed.cli.dask_scheduler", *here, "--port", str(ports["scheduler"]),
                           "--dashboard-address", dashboard],
        answers(f"http://{dashboard}/health"),
        SCHEDULER_ENVIRONMENT,
    )  # fmt: skip
    workers = [
        Service(
            f"dask-worker-{number}",
            [PYTHON, "-m", "distributed.cli.dask_worker", settings.scheduler, *here, "--nthreads", "1", "--no-dashboard",
             "--memory-limit", "2GiB", "--name", f"worker-{number}", "--local-directory", str(folder / "scratch"),
             "--resources", "download=1 heavy=1 write=1"],
            answers(f"http://{dashboard}/json/counts.json", lambda found, wanted=number: found.json()["workers"] >= wanted),  # type: ignore[misc]
            known,
        )
        for number in range(1, WORKERS + 1)
    ]  # fmt: skip
    flows = Service(
        "prefect-worker",
        [*prefect, "worker", "start", "--pool", "mmu", "--type", "process", "--name", "loopback", "--with-healthcheck"],
        answers(f"http://127.0.0.1:{ports['prefect_worker']}/health"),
        {**known, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
         "PREFECT_WORKER_WEBSERVER_PORT": str(ports["prefect_worker"])},
    )  # fmt: skip
    s3 = swift(folder / "s3", s3_programs, ports, settings.s3_secret, getuser())
    return [database, server, *s3, scheduler, *workers, flows]


def _make_bucket(settings: Settings) -> None:
    os.environ |= settings.environment
    import s3fs

    store = s3fs.S3FileSystem()
    if not store.exists(BUCKET):
        store.mkdir(BUCKET)


def _deploy(settings: Settings, folder: Path, sources: Mapping[str, str], lead_s: float = 30.0) -> datetime:
    """The shipped deployments; the nightly build reads the simulated sky, every hour from a coming minute on, which is told.

    A minute that is over before the server knows of it would be one of the next hour: then a later one is taken.
    """
    soon = datetime.now(UTC) + timedelta(seconds=lead_s)
    soon += timedelta(seconds=-soon.timestamp() % 60)
    content = yaml.safe_load(deployments_file().read_text())
    nightly = next(entry for entry in content["deployments"] if entry["name"] == "nightly")
    nightly["schedules"] = [{"cron": f"{soon.minute} * * * *", "timezone": "UTC", "slug": "hourly", "active": True}]
    nightly["parameters"] |= {"sources": dict(sources), "cache": str(folder / "cache")}
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    words = ["deploy", "--root", f"s3://{BUCKET}/runs", "--cluster", settings.scheduler, "--recipe", RECIPE, "--file", str(file)]
    run([PYTHON, "-m", "mmu_pipeline", *words], env=os.environ | settings.environment, check=True)  # noqa: S603
    return soon if datetime.now(UTC) < soon - timedelta(seconds=5) else _deploy(settings, folder, sources, 2 * lead_s)


def _scheduled_run(settings: Settings, since: datetime, patience_s: float = 900.0) -> dict[str, Any]:
    """The first run of the nightly deployment that its schedule started from then on, once it has ended."""
    asked = {
        "deployments": {"name": {"any_": ["nightly"]}},
        "flow_runs": {
            "expected_start_time": {"after_": (since - timedelta(seconds=1)).isoformat()},
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}},
        },
        "sort": "EXPECTED_START_TIME_ASC",
    }
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        found: list[dict[str, Any]] = httpx.post(f"{settings.api}/flow_runs/filter", json=asked, timeout=30).json()
        if found:
            return found[0]
        time.sleep(2.0)
    raise PipelineError(f"no scheduled run ended within {patience_s:g} s", hint="see the logs beside settings.json")


def _say(settings: Settings, shards: str, folder: Path) -> None:
    for what, where in {
        "Prefect": f"http://127.0.0.1:{settings.ports['prefect']}",
        "Dask": f"http://127.0.0.1:{settings.ports['dashboard']}/status",
        "S3": settings.environment["AWS_ENDPOINT_URL"],
        "shards": shards,
        "logs": folder,
        "to use": f". {folder / 'environment'}",
    }.items():
        print(f"  {what:<8} {where}")


if __name__ == "__main__":
    try:
        app()
    except PipelineError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None

"""How does a whole build scale with workers, and what does a cluster or an object store cost? The same sky, the same bytes.

    python -m bench.builds [--objects 600] [--fields 40] [--rounds 3] [--s3 s3://bucket/prefix]

A simulated sky of HSC stamps, SDSS spectra and Gaia rows is built by one worker process, by two, by a Dask scheduler with two
workers and a Prefect server of their own, and, with `--s3` (its credentials in the environment, as `make cluster` prints them),
onto an object store. Seconds are those of the flow, from its start to the published version. All must give the same shards.
Goals: two workers at least 1.7 times as fast as one; the cluster at most 15 % slower than the embedded one. What the machine
allows is told beside the first: two builds at once, each with one worker, that share nothing but cores, memory and disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import healpy as hp
import httpx
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.simulate.sky import sky_at
from mmu_pipeline.simulate.survey_files import write_archive

SURVEYS = ("hsc", "sdss", "gaia")
RECIPE = """
name: bench-builds
primary: {survey: hsc}
counterparts:
  - {survey: sdss, radius_arcsec: 1.0, pick: mutual, how: left}
  - {survey: gaia, radius_arcsec: 1.0, pick: nearest, how: left}
shards: {target_bytes: 64 MiB}
"""
SERVER_START_S = 120.0
APART = "2 builds at once, 1 worker each"


def write_sources(folder: Path, objects: int, fields: int, surveys: Sequence[str] = SURVEYS) -> dict[str, str]:
    """A sky of `objects` objects in round fields, as surveys publish it. Gives where each lies."""
    rng = np.random.default_rng(0)
    centres = rng.choice(np.arange(12 * 16**2), fields, replace=False)
    weights = np.arange(1, fields + 1) / (fields * (fields + 1) / 2)  # rich fields and poor ones
    ra, dec = hp.pix2ang(16, rng.choice(centres, objects, p=weights), nest=True, lonlat=True)
    ra, dec = ra + rng.normal(0, 0.3, objects), dec + rng.normal(0, 0.3, objects)
    places = pa.table({"ra": ra % 360, "dec": np.clip(dec, -90, 90)})
    write_archive(folder, load_surveys(), [(name, "mmu_v1") for name in surveys], sky_at(places))
    (folder / "bench.yaml").write_text(RECIPE)
    return {name: str(folder / name / "mmu_v1") for name in surveys}


def build(folder: Path, sources: Mapping[str, str], root: str, cluster: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """One build by the command; its result."""
    options = [f"--source={name}={place}" for name, place in sources.items()]
    command = [sys.executable, "-c", "from mmu_pipeline.cli import main; main()", "build", str(folder / "bench.yaml")]
    command += ["--root", root, "--cluster", cluster, "--json", "--quiet", *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the build on {cluster} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def two_apart(folder: Path, sources: Mapping[str, str]) -> float:
    """Seconds until the later of two builds is published that run at the same time, each with a worker and a root of its own."""
    targets = [f"{folder}/{uuid4().hex[:8]}" for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda target: build(folder, sources, target, "local:1", {}), targets)
        slowest = max(float(result["seconds"]) for result in found)
    for target in targets:
        shutil.rmtree(target)
    return slowest


@contextmanager
def started(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A process of ours for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def own_cluster(folder: Path, ports: tuple[int, int] = (18786, 14200)) -> Iterator[tuple[str, dict[str, str]]]:
    """A Dask scheduler with two workers and a Prefect server on loopback: address of the one, environment for the other."""
    scheduler, api = f"tcp://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}/api"
    with ExitStack() as stack:
        home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        stack.enter_context(
            started("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports[1]), environment=home)
        )
        listen = ("--host", "127.0.0.1", "--no-dashboard")
        stack.enter_context(started("distributed.cli.dask_scheduler", "--port", str(ports[0]), *listen))
        for number in range(2):
            place = ("--nthreads", "1", "--local-directory", str(folder / f"worker-{number}"))
            stack.enter_context(started("distributed.cli.dask_worker", scheduler, *listen, *place))
        _wait_for(api)
        yield scheduler, {"PREFECT_API_URL": api}


def _wait_for(api: str) -> None:
    until = time.monotonic() + SERVER_START_S
    while time.monotonic() < until:
        try:
            if httpx.get(f"{api}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError("the Prefect server does not answer")


def main(
    objects: Annotated[int, typer.Option(help="Objects on the sky; a sample is of 1.7 MB.")] = 600,
    fields: Annotated[int, typer.Option(help="Fields, a cell or two each.")] = 40,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are printed.")] = 3,
    s3: Annotated[str | None, typer.Option(help="Folder of an object store to build onto as well.")] = None,
) -> None:
    """Print seconds and ratios."""
    seconds: dict[str, list[float]] = {}
    made: set[tuple[str, int]] = set()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sources = write_sources(folder, objects, fields)
        with own_cluster(folder) as (scheduler, environment):
            roots = {"1 worker": str(folder), "2 workers": str(folder), "cluster of 2 workers": str(folder)}
            roots |= {"2 workers, onto S3": s3.rstrip("/")} if s3 else {}
            for _ in range(rounds):
                for what, root in roots.items():
                    cluster = scheduler if "cluster" in what else f"local:{what[0]}"
                    target = f"{root}/{uuid4().hex[:8]}"
                    found = build(folder, sources, target, cluster, environment if "cluster" in what else {})
                    seconds.setdefault(what, []).append(found["seconds"])
                    made.add((found["version"], found["samples"]))
                    shutil.rmtree(target, ignore_errors=True)  # the next finds as much room; what lies in a store stays there
                seconds.setdefault(APART, []).append(two_apart(folder, sources))
    if len(made) != 1:
        raise RuntimeError(f"the builds differ: {made}")
    table = Table("", "s (median)", "s (best)", "against 2 workers", title=f"{made.pop()[1]} samples in {fields} fields")
    two = statistics.median(seconds["2 workers"])
    for what, taken in seconds.items():
        median = statistics.median(taken)
        table.add_row(what, f"{median:.1f}", f"{min(taken):.1f}", f"{median / two:.2f}")
    console = Console()
    console.print(table)
    one, apart = (statistics.median(seconds[what]) for what in ("1 worker", APART))
    console.print(f"1 -> 2 workers: {one / two:.2f}x; builds that share nothing: {2 * one / apart:.2f}x as many in the same time")


if __name__ == "__main__":
    typer.run(main)

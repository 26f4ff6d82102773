"""A small build that is driven without Prefect, what it published, and ways to hurt the processes that work on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from mmu_pipeline import storage
from mmu_pipeline.cluster import run_units
from mmu_pipeline.stages.build import STAGES, Build, Outcome, Unit
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import Published, publish
from tests.tiny import recipe_yaml, survey_yaml, write_cells

OBJECTS = 10
HERE = Path(__file__).resolve().parents[1]
Run = Callable[[Unit, Build], Outcome]


def small_sky(folder: Path, objects: int = OBJECTS, samples_per_shard: int = 6) -> Path:
    """Two surveys of a band around the sky, about an object in each cell, and the recipe `pair` that matches them."""
    ra, dec = np.linspace(0, 345, objects), 50 * np.sin(np.arange(objects))
    write_cells(folder / "one", ra, dec, [f"A{n:03d}" for n in range(objects)])
    write_cells(folder / "two", ra[::2], dec[::2], [f"B{n:03d}" for n in range(0, objects, 2)])
    for name in ("one", "two"):
        survey_yaml(folder / "surveys", name, folder / name)
    other = {"survey": "two", "radius_arcsec": 1.0, "pick": "mutual", "how": "left"}
    recipe_yaml(folder, "pair", primary={"survey": "one"}, counterparts=[other], shards={"samples_per_shard": samples_per_shard})
    return folder


def prepared(sky: Path, root: object, **options: Any) -> Build:
    options = {"survey_dirs": [sky / "surveys"], "cache": str(sky / "cache"), **options}
    build = prepare(str(sky / "pair.yaml"), root=str(root), **options)
    claim_root(build)
    return build


def drive(
    build: Build, client: Client | None = None, run: Run = run_unit, after: dict[str, Callable[[], object]] | None = None
) -> Published:
    """Run all stages, on a cluster or in this process. `after` names what happens when a stage is finished."""
    for stage in STAGES:
        units = units_of(stage, build)
        if client is None:
            found = {unit.name: run(unit, build) for unit in units}
        else:
            found = {outcome.unit.name: outcome for outcome in run_units(client, run, build, units, batch_units=2)}
        finish_stage(stage, build, [found[unit.name] for unit in units])
        (after or {}).get(stage, lambda: None)()
    return publish(build)


def published_bytes(root: Path) -> dict[str, bytes]:
    """Every file that readers of the newest version see."""
    shards = root / "shards" / "pair"
    folder = shards / (shards / "LATEST").read_text().strip()
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def dying(marks: Path) -> Run:
    """Units run as always, but in each stage one process is killed when it has written a result and not yet named it."""
    marks.mkdir()
    return partial(_dying, marks)


def _dying(marks: Path, unit: Unit, build: Build) -> Outcome:
    mark = marks / unit.stage
    if mark.exists():
        return run_unit(unit, build)
    name, storage.os = storage.os, _DeadlyRename(mark)  # type: ignore[assignment]
    try:
        return run_unit(unit, build)
    finally:
        storage.os = name


class _DeadlyRename:
    """The module `os`, whose first `replace` kills the process."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, source: str, target: str) -> None:
        self.mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Process:
    """A process of its own group, and the last line that it said before its block began."""

    popen: subprocess.Popen[bytes]
    said: str = ""

    @property
    def address(self) -> str:
        """The last word of what it said."""
        return self.said.split()[-1]

    def kill(self) -> None:
        """kill -9 of the process and all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@contextmanager
def started(*command: str, until: str = "", **options: Any) -> Iterator[Process]:
    """A process that is killed with its children at the end; the block starts when it said `until` on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), **options.pop("env", {})}
    with tempfile.NamedTemporaryFile() as log:
        popen = subprocess.Popen(
            command, stderr=log, stdout=subprocess.DEVNULL, start_new_session=True, env=environment, **options
        )
        try:
            wait_for(lambda: until in Path(log.name).read_text() or popen.poll() is not None)
            found = [line for line in Path(log.name).read_text().splitlines() if until in line]
            assert found or not until, Path(log.name).read_text()
            yield Process(popen, found[-1] if found else "")
        finally:
            Process(popen).kill()


def dask_scheduler(*options: str, host: str = "127.0.0.1", env: dict[str, str] | None = None) -> Any:
    """A Dask scheduler as a process; its address is the last word of what it said."""
    words = ["-m", "distributed.cli.dask_scheduler", "--host", host, "--port", "0", "--no-dashboard", "--no-show", *options]
    return started(sys.executable, *words, until="Scheduler at:", env=env or {})


def dask_worker(address: str, *options: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None) -> Any:
    """A Dask worker of one thread under a nanny."""
    words = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", *options]
    return started(*prefix, sys.executable, *words, until="Registered to:", env=env or {})


def build_command(sky: Path, root: Path, *options: str) -> tuple[str, ...]:
    """`mmu build` of the small sky."""
    words = ["-c", "from mmu_pipeline.cli import main; main()", "build", str(sky / "pair.yaml"), "--root", str(root), "--quiet"]
    return (sys.executable, *words, "--survey-dir", str(sky / "surveys"), "--cache", str(sky / "cache"), *options)


def wait_for(what: Callable[[], object], seconds: float = 240.0) -> None:
    """Wait until something is true. Raises AssertionError if it never is."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)

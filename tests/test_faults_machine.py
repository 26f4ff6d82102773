"""Full disks, clocks that disagree, cut networks: the bytes are those of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from mmu_pipeline.client import open_client
from mmu_pipeline.stages.build import STAGES, Build, Outcome, Unit
from mmu_pipeline.stages.pipeline import run_unit
from tests.faults import HERE, dask_scheduler, dask_worker, drive, prepared, published_bytes

FAKETIME = os.environ.get("MMU_LIBFAKETIME") or str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), ""))
SCHEDULER_IP, WORKER_IP = "10.213.77.1", "10.213.77.2"


def is_allowed(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_a_small_disk(sky: str, root: str) -> None:
    """Build on a disk that is nearly full, then on the same disk with room."""
    from mmu_pipeline.errors import PipelineError

    places = Path(sky), Path(root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", root], check=True)
    try:
        drive(prepared(*places))
    except (PipelineError, OSError) as error:
        said = str(error)
    assert "disk is full" in said or "No space left" in said, said
    assert not (places[1] / "shards" / "pair" / "LATEST").exists()
    subprocess.run(["mount", "-o", "remount,size=50m", root], check=True)
    drive(prepared(*places))
    shutil.copytree(root, f"{root}-after")


def test_a_disk_that_fills_up_ends_the_run_and_with_room_the_next_one_goes_on(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    apart = ("unshare", "--mount", "--map-root-user")
    (tmp_path / "root").mkdir()
    if not is_allowed(*apart, "mount", "-t", "tmpfs", "none", str(tmp_path / "root")):
        pytest.skip("this user may not mount a small file system in a namespace of its own")
    work = f"from tests.test_faults_machine import on_a_small_disk; on_a_small_disk({str(sky)!r}, {str(tmp_path / 'root')!r})"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([*apart, sys.executable, "-c", work], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert published_bytes(tmp_path / "root-after") == undisturbed


def test_files_dated_by_wrong_clocks_change_nothing(sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    shifts = cycle([1e8, -1e8, 3e8, -3e8, 0.0])

    def date() -> None:
        moment = time.time() + next(shifts)
        for path in tmp_path.rglob("*"):
            os.utime(path, (moment, moment))

    drive(prepared(sky, tmp_path), after=dict.fromkeys(STAGES, date))
    assert published_bytes(tmp_path) == undisturbed


@pytest.mark.long
def test_workers_whose_clocks_are_days_apart_change_nothing(sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    if not FAKETIME:
        pytest.skip("no libfaketime: install Debian's package, or set MMU_LIBFAKETIME to its path")
    early, late = ({"LD_PRELOAD": FAKETIME, "FAKETIME": shift, "DONT_FAKE_MONOTONIC": "1"} for shift in ("-3d", "+3d"))
    with (
        dask_scheduler() as scheduler,
        dask_worker(scheduler.address, env=early),
        dask_worker(scheduler.address, env=late),
        open_client(scheduler.address) as client,
    ):
        assert {round((then - time.time()) / 86400) for then in client.run(time.time).values()} == {-3, 3}
        drive(prepared(sky, tmp_path), client)
    assert published_bytes(tmp_path) == undisturbed


@pytest.fixture
def other_machine() -> Iterator[str]:
    """A network namespace, joined to this one by a pair of virtual interfaces: its name, and that of our end."""
    name = f"mmu{os.getpid()}"
    if not is_allowed("ip", "netns", "add", name):
        pytest.skip("this user may not make network namespaces")
    try:
        for words in (
            f"link add {name} type veth peer name far netns {name}",
            f"addr add {SCHEDULER_IP}/24 dev {name}",
            f"link set {name} up",
            f"-n {name} addr add {WORKER_IP}/24 dev far",
            f"-n {name} link set far up",
            f"-n {name} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def slowly(seconds: float, unit: Unit, build: Build) -> Outcome:
    time.sleep(seconds)
    return run_unit(unit, build)


@pytest.mark.long
@pytest.mark.parametrize("back", [True, False])
def test_a_network_cut_between_worker_and_scheduler_changes_nothing(
    back: bool, sky: Path, tmp_path: Path, undisturbed: dict[str, bytes], other_machine: str
) -> None:
    """The cut comes in the middle of the samples; the link comes back in three seconds, or never: then others do the work."""

    def link(state: str) -> None:
        subprocess.run(["ip", "link", "set", other_machine, state], check=True)

    def cut() -> None:
        link("down")
        if back:
            threading.Timer(3.0, link, args=("up",)).start()

    inside = ("ip", "netns", "exec", other_machine)
    with (
        dask_scheduler(host=SCHEDULER_IP, env={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s"}) as scheduler,
        dask_worker(scheduler.address, "--host", WORKER_IP, prefix=inside),
        dask_worker(scheduler.address, "--host", SCHEDULER_IP),
        open_client(scheduler.address) as client,
    ):
        assert len(client.nthreads()) == 2
        timer = threading.Timer(0.5, cut)
        published = drive(prepared(sky, tmp_path), client, partial(slowly, 0.3), after={"match": timer.start})
    assert published.set_aside == ()
    assert published_bytes(tmp_path) == undisturbed

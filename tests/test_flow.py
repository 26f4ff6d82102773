"""The flow of a build: groups of cells, the same bytes on any number of workers, and after any death."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.build import UNITS_PER_GROUP, BuildResult, build, neighbours
from mmu_pipeline.errors import BadInput
from mmu_pipeline.leases import writing_alone
from mmu_pipeline.stages.build import Unit
from mmu_pipeline.storage import Root, writers_folder
from tests.faults import dask_scheduler, dask_worker, published_bytes, small_sky, wait_for
from tests.tiny import write_cells

OBJECTS = 120


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two surveys of a band around the sky, an object or so in each of some 100 cells, and a recipe that matches them."""
    return small_sky(tmp_path_factory.mktemp("sky"), OBJECTS, samples_per_shard=16)


def asked(sky: Path, root: Path) -> dict[str, Any]:
    return {
        "recipe": str(sky / "pair.yaml"),
        "root": str(root),
        "survey_dirs": [str(sky / "surveys")],
        "cache": str(sky / "cache"),
        "quiet": True,
    }


@pytest.fixture(scope="module")
def undisturbed(sky: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildResult, Path]:
    root = tmp_path_factory.mktemp("undisturbed")
    return build(**asked(sky, root)), root


@given(st.lists(st.tuples(st.integers(0, 3071), st.integers(0, 10**9)), max_size=200))
def test_groups_hold_every_unit_once_along_the_sky(cells: list[tuple[int, int]]) -> None:
    units = [Unit("match", f"r/{number}", cell, weight) for number, (cell, weight) in enumerate(cells)]
    groups = neighbours(units)
    assert sorted(unit.name for group in groups for unit in group) == sorted(unit.name for unit in units)
    assert all(groups)
    assert len(groups) <= 16
    along = [unit.cell or 0 for group in groups for unit in group]
    assert along == sorted(along)


def test_groups_are_balanced_by_weight() -> None:
    rng = np.random.default_rng(3)
    units = [Unit("samples", str(cell), cell, int(weight)) for cell, weight in enumerate(rng.integers(1, 1000, 800))]
    weights = [sum(unit.weight for unit in group) for group in neighbours(units)]
    assert len(weights) == 16
    assert max(weights) < 1.1 * min(weights)
    assert len(neighbours(units[:UNITS_PER_GROUP])) == 1


def test_a_build_publishes_every_object_and_leaves_its_account_as_artifacts(undisturbed: tuple[BuildResult, Path]) -> None:
    from prefect.artifacts import Artifact

    result, _ = undisturbed
    assert (result.samples, result.reused, result.set_aside) == (OBJECTS, False, ())
    assert [tally.stage for tally in result.stages] == ["scan", "objects", "keys", "match", "samples", "shards", "check"]
    assert all(tally.done == tally.units for tally in result.stages)
    assert [tally.stage for tally in result.stages if not tally.units] == ["keys"], "the recipe has neither keys nor repeats"
    table = Artifact.get("pair-done")
    assert table is not None
    assert [(row["stage"], row["done"]) for row in json.loads(str(table.data))] == [(t.stage, t.done) for t in result.stages]
    progress = Artifact.get("pair-samples")
    assert progress is not None
    assert progress.data == 100.0
    ran = pq.read_table(Path(result.page).parent / "units.parquet", filters=[("stage", "=", "check")])
    assert (ran.num_rows, pc.sum(ran["rows_out"]).as_py()) == (result.stages[-1].units, OBJECTS)
    assert all(ran["worker"].to_pylist())
    page = Artifact.get("pair-page")
    assert page is not None
    assert page.data == f"[page of the run]({result.page})"


def test_a_second_run_does_nothing(sky: Path, undisturbed: tuple[BuildResult, Path]) -> None:
    first, root = undisturbed

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (root / "shards").rglob("*") if ".writers" not in path.parts}

    before = written()
    state = build(**asked(sky, root), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Nothing new")
    assert f"version {first.version} is up to date" in state.message
    again = state.result()
    assert (again.version, again.reused, sum(tally.done for tally in again.stages)) == (first.version, True, 0)
    assert written() == before


def test_what_changed_in_the_sources_is_built_anew_and_the_rest_is_reused(sky: Path, tmp_path: Path) -> None:
    """A changed cell, a new one, one that is gone: by size and time of the files, as a scheduled run finds them."""
    data = shutil.copytree(sky / "two", tmp_path / "two")
    root = tmp_path / "root"
    options = {**asked(sky, root), "sources": {"two": str(data)}, "keep_samples": True}
    first = build(**options)
    files = sorted(data.glob("healpix=*/*.hdf5"))
    with h5py.File(files[3], "r+") as file:
        file["mag"][...] += 1
    shutil.rmtree(files[7].parent)
    write_cells(data, [np.linspace(0, 345, OBJECTS)[1]], [50 * np.sin(1)], ["B999"])
    second = build(**options)
    assert second.version != first.version
    assert {tally.stage: (tally.done, tally.reused) for tally in second.stages}["scan"] == (2, first.stages[0].units - 2)
    cells = {tally.stage: tally for tally in second.stages}
    for stage in ("objects", "match", "samples"):
        assert 0 < cells[stage].done < 30, stage  # the partitions that changed, and cells whose margin reaches into them
        assert cells[stage].reused == cells[stage].units - cells[stage].done
        assert cells[stage].reused > cells[stage].done
    undisturbed = tmp_path / "undisturbed"
    build(**{**options, "root": str(undisturbed)})
    assert published_bytes(root) == published_bytes(undisturbed)
    assert (root / "shards" / "pair" / first.version / "manifest.json").exists()


def test_a_recipe_that_is_being_written_is_not_written_twice(sky: Path, tmp_path: Path) -> None:
    with (
        writing_alone(Root(str(tmp_path)), writers_folder("pair"), "the recipe 'pair'"),
        pytest.raises(BadInput, match="another run writes the recipe 'pair'"),
    ):
        build(**asked(sky, tmp_path))
    assert not (tmp_path / "receipts").exists()


@pytest.mark.parametrize("workers", [2, 4])
def test_worker_processes_give_the_same_bytes_as_one(
    sky: Path, tmp_path: Path, undisturbed: tuple[BuildResult, Path], workers: int
) -> None:
    build(**asked(sky, tmp_path), cluster=f"local:{workers}", batch_units=3)
    assert published_bytes(tmp_path) == published_bytes(undisturbed[1])


def test_what_a_worker_finished_before_it_died_is_done_and_not_reused(
    sky: Path, tmp_path: Path, undisturbed: tuple[BuildResult, Path]
) -> None:
    with dask_scheduler() as scheduler, dask_worker(scheduler.address) as nanny:

        def kill() -> None:
            wait_for(lambda: any((tmp_path / "receipts" / "match").rglob("*.json")))
            next(p for p in psutil.Process(nanny.popen.pid).children() if "spawn_main" in " ".join(p.cmdline())).kill()

        killer = Thread(target=kill)
        killer.start()
        result = build(**asked(sky, tmp_path), cluster=scheduler.address)
        killer.join()
    assert [(tally.done, tally.reused, tally.set_aside) for tally in result.stages] == [
        (tally.units, 0, 0) for tally in undisturbed[0].stages
    ]
    assert published_bytes(tmp_path) == published_bytes(undisturbed[1])


def test_cells_set_aside_show_in_the_state_of_the_flow(sky: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sky / "one", tmp_path / "one")
    broken = min(data.glob("healpix=*/*.hdf5"))
    broken.write_bytes(broken.read_bytes()[:100])
    state = build(**asked(sky, tmp_path / "root"), sources={"one": str(data)}, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Cells set aside")
    result = state.result()
    assert result.samples < OBJECTS
    assert [unit["stage"] for unit in result.set_aside] == ["scan"]


def test_bad_input_fails_the_flow_with_its_own_error(sky: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give either cells or a cone"):
        build(**asked(sky, tmp_path), cells=[1], cone=(0.0, 0.0, 1.0))
    assert not list(tmp_path.iterdir())


def test_killed_in_two_stages_and_run_again_gives_the_bytes_of_an_undisturbed_run(
    sky: Path, tmp_path: Path, undisturbed: tuple[BuildResult, Path]
) -> None:
    for stage in ("scan", "samples"):
        with build_until(sky, tmp_path, stage) as (process, family):
            for member in (process, *family):
                member.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"the run ended before it was killed in {stage}"
        assert not (tmp_path / "shards" / "pair" / "LATEST").exists()
    result = build(**asked(sky, tmp_path), cluster="local:2")
    scans = next(tally for tally in result.stages if tally.stage == "scan")
    assert scans.reused == scans.units, "finished cells were done again"
    assert published_bytes(tmp_path) == published_bytes(undisturbed[1])
    assert not list(tmp_path.rglob("*.partial"))


def test_ctrl_c_ends_the_command_and_all_that_it_started(sky: Path, tmp_path: Path) -> None:
    with build_until(sky, tmp_path, "objects") as (process, family):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
        assert psutil.wait_procs(family, timeout=10)[1] == []
    said = told_by(tmp_path).read_text()
    assert "error  stopped" in said
    assert "Error logging" not in said


def told_by(root: Path) -> Path:
    """What a build below `root` said on stderr."""
    return root.with_name(f"{root.name}.stderr")


@contextmanager
def build_until(sky: Path, root: Path, stage: str) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """`mmu build` on two worker processes, with a unit of a stage done: its process, and all that it started."""
    command = [sys.executable, "-c", "from mmu_pipeline.cli import main; main()", "build", str(sky / "pair.yaml")]
    command += ["--root", str(root), "--survey-dir", str(sky / "surveys"), "--cache", str(sky / "cache"), "--cluster", "local:2"]
    with told_by(root).open("wb") as stderr:
        process = subprocess.Popen(command, start_new_session=True, stderr=stderr, stdout=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        while process.poll() is None and not list((root / "receipts" / stage).rglob("*.json")):
            time.sleep(0.005)
        family += psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        yield process, family
    finally:
        for member in (process, *family):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def test_workers_do_not_load_prefect() -> None:
    loaded = "import mmu_pipeline.cluster, mmu_pipeline.stages.pipeline, sys; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False, env=os.environ).returncode == 0

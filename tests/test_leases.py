"""Leases: one writer at a time, whatever the clocks say; a dead one is followed, a living one never."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from mmu_pipeline.errors import BadInput
from mmu_pipeline.leases import Pace, Superseded, readers, reading, writer, writing_alone
from mmu_pipeline.storage import Root


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    if request.param == "s3":
        yield Root(f"{request.getfixturevalue('bucket')}/leases")
    elif request.param == "disk":
        yield Root(str(tmp_path))
    else:
        yield Root("memory://leases")
        fsspec.filesystem("memory").store.clear()


def test_a_second_writer_is_refused_until_the_first_ends(root: Root) -> None:
    with writing_alone(root, "locks/pair", "the recipe 'pair'") as check:
        check()
        with (
            pytest.raises(BadInput, match="another run writes the recipe 'pair'") as caught,
            writing_alone(root, "locks/pair", "the recipe 'pair'"),
        ):
            pass
        assert str(os.getpid()) in caught.value.where["by"]
        with writing_alone(root, "locks/other", "another recipe"):
            pass
        assert writer(root, "locks/pair") is not None
    assert writer(root, "locks/pair") is None
    with writing_alone(root, "locks/pair", "the recipe 'pair'"):
        pass


def test_of_many_that_start_at_once_one_writes(root: Root) -> None:
    together, inside, most = threading.Barrier(8), [], []

    def run(number: int) -> bool:
        together.wait()
        try:
            with writing_alone(root, "locks/pair", "it"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.3)
                inside.remove(number)
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(run, range(8))) == 1
    assert most == [1]


def test_a_lease_left_by_a_dead_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from mmu_pipeline.leases import writing_alone\n"
        "from mmu_pipeline.storage import Root\n"
        "with writing_alone(Root(sys.argv[1]), 'locks/pair', 'it'): os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    with writing_alone(Root(str(tmp_path)), "locks/pair", "it") as check:
        check()


def test_a_lease_of_another_machine_is_stale_by_the_clock_of_the_store_alone(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder's machine believes to be a year ahead, ours a year behind: only renewals count."""
    slow = root.url.startswith("s3")  # it tells whole seconds
    pace, longer = (Pace(0.1, 1.5), 2.7) if slow else (Pace(0.05, 0.4), 0.6)
    root.create_json("locks/pair/00000007.json", {"host": "elsewhere", "pid": 1, "who": "process 1 of machine elsewhere"})
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(BadInput, match="another run writes"), writing_alone(root, "locks/pair", "it", pace):
        pass
    time.sleep(longer)
    with writing_alone(root, "locks/pair", "it", pace):
        time.sleep(longer)
        with pytest.raises(BadInput, match="another run writes"), writing_alone(root, "locks/pair", "it", pace):
            pass  # it is held for longer than a lease lasts, and renewed


def test_a_holder_that_slept_through_its_lease_learns_that_another_writes(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    with writing_alone(root, "locks/pair", "it", Pace(beat_s=60.0)) as check:  # does not renew in time
        path = tmp_path / "locks" / "pair" / "00000001.json"
        path.write_text(path.read_text().replace('"host": "', '"host": "not-'))
        hour_ago = time.time() - 3600
        os.utime(path, (hour_ago, hour_ago))
        with writing_alone(root, "locks/pair", "it"), pytest.raises(Superseded, match="another run writes it now"):
            check()
    assert writer(root, "locks/pair") is None


def test_readers_are_seen_while_they_read(root: Root) -> None:
    with reading(root, ".readers/one"), reading(root, ".readers/one"):
        assert len(readers(root, ".readers/one")) == 2
        assert readers(root, ".readers/two") == []
    assert readers(root, ".readers/one") == []


def test_a_place_that_cannot_be_written_can_be_read() -> None:
    with reading(Root("https://127.0.0.1:9/shards"), ".readers/one"):
        pass

"""The download cache and its transfers, from real servers on loopback: resumed, checked, bounded, never of two versions."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import fsspec
import pytest
import s3fs

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BadInput, SourceChanged, Unreachable
from mmu_pipeline.limits import Pace, using_host
from mmu_pipeline.settings import settings
from mmu_pipeline.simulate.serve import CutShort, Hangs, serving
from mmu_pipeline.stages.build import SourceFile
from mmu_pipeline.stages.cache import kept
from mmu_pipeline.stages.download import list_files

MB = 1024**2
EVERYTHING = Form(reader="snana", files=("*.bin",))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(os.urandom(5 * MB))
    return folder


def listed(url: str, name: str = "0.bin") -> SourceFile:
    return next(file for file in list_files(EVERYTHING, url) if file.relative == name)


def content(file: SourceFile, cache: Path) -> bytes:
    with kept(file, str(cache)) as path:
        return path.read_bytes()


def test_a_download_that_breaks_off_goes_on_where_it_was(place: Path, tmp_path: Path) -> None:
    with serving(place, {"0.bin": CutShort(3, keep=0.5)}) as server:
        assert content(listed(server.url), tmp_path / "cache") == (place / "0.bin").read_bytes()
        assert server.requests["0.bin"] == 4
        assert server.sent["0.bin"] == 5 * MB


def _download(url: str, cache: str) -> None:
    with kept(listed(url), cache):
        pass


def test_a_download_whose_process_was_killed_goes_on_in_the_next(place: Path, tmp_path: Path) -> None:
    with serving(place, {"0.bin": Hangs(1, keep=0.6)}) as server:
        process = multiprocessing.get_context("spawn").Process(target=_download, args=(server.url, str(tmp_path / "cache")))
        process.start()
        while server.sent["0.bin"] < 3 * MB or not any(part.stat().st_size for part in (tmp_path / "cache").rglob("*.part")):
            time.sleep(0.01)
        process.kill()
        process.join()
        (part,) = (tmp_path / "cache").rglob("*.part")
        there = part.stat().st_size
        assert content(listed(server.url), tmp_path / "cache") == (place / "0.bin").read_bytes()
        assert server.sent["0.bin"] == 3 * MB + 5 * MB - there
        assert there > 0


def test_a_part_of_another_version_is_not_continued(place: Path, tmp_path: Path) -> None:
    with serving(place, {"0.bin": CutShort(99, keep=0.1)}) as server, pytest.raises(Unreachable):
        content(listed(server.url), tmp_path / "cache")
    (place / "0.bin").write_bytes(new := os.urandom(5 * MB))
    with serving(place) as server:
        assert content(listed(server.url), tmp_path / "cache") == new


def test_a_file_that_changes_after_it_was_listed_is_not_taken(place: Path, tmp_path: Path) -> None:
    with serving(place) as server:
        before = listed(server.url)
        (place / "0.bin").write_bytes(os.urandom(5 * MB))
        with pytest.raises(SourceChanged, match="changed since it was listed"):
            content(before, tmp_path / "cache")


def test_a_file_that_changes_while_it_is_fetched_is_not_mixed(place: Path, tmp_path: Path) -> None:
    with serving(place, {"0.bin": Hangs(1, keep=0.5, seconds=0.5)}) as server:
        before = listed(server.url)
        old = (place / "0.bin").read_bytes()
        process = multiprocessing.get_context("fork")
        writer = process.Process(target=lambda: (time.sleep(0.2), (place / "0.bin").write_bytes(old[::-1])))
        writer.start()
        with pytest.raises(SourceChanged):
            content(before, tmp_path / "cache")
        writer.join()


def test_a_connection_that_hangs_is_dropped_and_tried_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_IDLE_TIMEOUT_S", "0.5")
    start = time.monotonic()
    with serving(place, {"0.bin": Hangs(2, keep=0.3)}) as server:
        assert content(listed(server.url), tmp_path / "cache") == (place / "0.bin").read_bytes()
    assert 1.0 <= time.monotonic() - start < 15


def test_a_corrupt_copy_is_found_and_fetched_again(place: Path, tmp_path: Path) -> None:
    with serving(place) as server:
        good = content(listed(server.url), tmp_path / "cache")
        (copy,) = (tmp_path / "cache").rglob("0.bin")
        damaged = bytearray(good)
        damaged[MB] ^= 1
        copy.write_bytes(damaged)
        assert content(listed(server.url), tmp_path / "cache") == good
        assert content(listed(server.url), tmp_path / "cache") == good
        assert server.requests["0.bin"] == 2
        next((tmp_path / "cache").rglob("note.json")).write_text("{half")
        assert content(listed(server.url), tmp_path / "cache") == good
        assert server.requests["0.bin"] == 3


def test_the_longest_unused_goes_first_and_what_is_read_never(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMU_CACHE_BYTES", str(11 * MB))
    cache = tmp_path / "cache"

    def there() -> set[str]:
        return {path.name for path in cache.rglob("*.bin")}

    with serving(place) as server:
        with kept(listed(server.url, "0.bin"), str(cache)) as in_use:
            content(listed(server.url, "1.bin"), cache)
            assert there() == {"0.bin", "1.bin"}
            content(listed(server.url, "2.bin"), cache)
            assert there() == {"0.bin", "2.bin"}
            assert in_use.stat().st_size == 5 * MB
        content(listed(server.url, "3.bin"), cache)
        assert there() == {"2.bin", "3.bin"}
        content(listed(server.url, "2.bin"), cache)
        content(listed(server.url, "0.bin"), cache)
        assert there() == {"2.bin", "0.bin"}


def test_clocks_that_run_wrong_do_no_harm(place: Path, tmp_path: Path) -> None:
    with serving(place) as server:
        good = content(listed(server.url), tmp_path / "cache")
        for shift in (-(10**9), 10**9):
            for path in (tmp_path / "cache").rglob("*"):
                os.utime(path, (time.time() + shift, time.time() + shift))
            assert content(listed(server.url), tmp_path / "cache") == good
        assert server.requests["0.bin"] == 1


def test_two_processes_fetch_a_file_once(place: Path, tmp_path: Path) -> None:
    with serving(place, {"0.bin": Hangs(1, keep=0.9, seconds=0.5)}) as server:
        workers = [
            multiprocessing.get_context("spawn").Process(target=_download, args=(server.url, str(tmp_path / "cache")))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert server.sent["0.bin"] == 5 * MB


def test_a_host_gets_no_more_connections_and_bytes_than_it_is_allowed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMU_HOSTS", json.dumps({"127.0.0.1": {"connections": 1, "bytes_per_second": "5MiB"}}))
    with serving(place) as server:
        start = time.monotonic()
        content(listed(server.url), tmp_path / "cache")
        assert 0.9 <= time.monotonic() - start < 5
        with using_host(server.url):
            (held,) = {settings().hosts["127.0.0.1"].connections}
        assert held == 1
    pace = Pace(1000.0)
    assert sum(1 for _ in range(3) if pace.wait_s(500) > 0) == 3
    assert pace.wait_s(500) == pytest.approx(2.0, abs=0.1)


def test_from_an_object_store_and_from_memory_alike(place: Path, tmp_path: Path, bucket: str) -> None:
    memory = fsspec.filesystem("memory")
    good = (place / "0.bin").read_bytes()
    s3fs.S3FileSystem().pipe_file(f"{bucket}/source/0.bin", good)
    memory.pipe_file("/source/0.bin", good)
    try:
        for url in (f"{bucket}/source", "memory://source"):
            before = listed(url)
            assert before.tag
            assert content(before, tmp_path / "cache") == good
        s3fs.S3FileSystem().pipe_file(f"{bucket}/source/0.bin", good[::-1])
        with pytest.raises(SourceChanged):
            content(before_of(bucket, before), tmp_path / "other")
    finally:
        memory.rm("/source", recursive=True)


def before_of(bucket: str, file: SourceFile) -> SourceFile:
    """A file of the bucket as it was listed with the ETag of other content."""
    tag = f'"{hashlib.md5(b"other").hexdigest()}"'
    return SourceFile(file.relative, (f"{bucket}/source/{file.relative}",), file.size, tag)


@pytest.mark.parametrize("variable", ["MMU_RETRY_FOR_S", "MMU_CACHE_BYTES", "MMU_HOST", "MMU_HOSTS"])
def test_a_wrong_setting_is_told_by_its_name(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, '{"connections": 0}')
    with pytest.raises(BadInput, match="a setting is wrong") as caught:
        settings()
    assert caught.value.where["variable"].startswith(variable)

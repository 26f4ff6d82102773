"""Servers in trouble and sources that change under the run: retried, noticed, never mixed; the bytes are the same in the end."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import h5py
import pytest
import s3fs

from mmu_pipeline import storage
from mmu_pipeline.errors import Unreachable
from mmu_pipeline.simulate.serve import Busy, CutShort, Hangs, serving
from mmu_pipeline.stages.build import STAGES
from tests.faults import OBJECTS, drive, prepared, published_bytes, small_sky


class Gate:
    """A TCP gate before a server: lets requests pass, answers 503 itself, cuts every answer short, or is closed."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.mode = "open"
        self.refused = 0
        self._open: set[socket.socket] = set()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def turn(self, mode: str, seconds: float = 0.0) -> None:
        """Change to a mode at once, all connections closed; back to `open` after some seconds if given."""
        self.mode = mode
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if seconds:
            threading.Timer(seconds, self.turn, args=("open",)).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.mode == "closed":
                self.refused += 1
                return
            self._open.add(connection)
            if self.mode == "busy":
                self.refused += 1
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(self.upstream) as other:
                self._open.add(other)
                back = threading.Thread(target=self._pipe, args=(other, connection), daemon=True)
                back.start()
                self._pipe(connection, other)
                back.join()

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if self.mode == "cut" and source.getpeername() == self.upstream:
                    self.refused += 1
                    target.sendall(content[: len(content) // 2])
                    break
                target.sendall(content)
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The S3 server of this machine behind a gate."""
    gate = Gate(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)
    monkeypatch.setenv("MMU_RETRY_FOR_S", "30")
    storage._place.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    yield gate
    gate.server.close()


@pytest.mark.parametrize("mode", ["busy", "closed", "cut"])
def test_an_s3_server_in_trouble_for_a_while_changes_nothing(
    mode: str, sky: Path, bucket: str, gate: Gate, undisturbed: dict[str, bytes]
) -> None:
    """It answers 503; it is restarted; it drops connections in the middle of an answer: in each stage, for half a second."""
    build = prepared(sky, f"{bucket}/root")
    gate.turn(mode, 0.5)
    published = drive(build, after={stage: lambda: gate.turn(mode, 0.5) for stage in STAGES})
    assert gate.refused >= 5
    assert published.set_aside == ()
    s3 = s3fs.S3FileSystem()
    found = {path.split(f"{published.version}/")[1]: s3.cat_file(path) for path in s3.find(published.url)}
    assert found == undisturbed


def test_an_s3_server_that_does_not_come_back_ends_the_run_and_the_next_one_goes_on(
    sky: Path, bucket: str, gate: Gate, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMU_RETRY_FOR_S", "0")
    build = prepared(sky, f"{bucket}/root")
    with pytest.raises(Unreachable):
        drive(build, after={"match": lambda: gate.turn("closed")})
    gate.turn("open")
    published = drive(build)
    s3 = s3fs.S3FileSystem()
    assert {path.split(f"{published.version}/")[1]: s3.cat_file(path) for path in s3.find(published.url)} == undisturbed


def over_http(url: str) -> dict[str, str]:
    return {name: f"{url}/{name}" for name in ("one", "two")}


def test_a_web_server_in_trouble_changes_nothing(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is busy, cuts a download short, and lets one hang."""
    monkeypatch.setenv("MMU_IDLE_TIMEOUT_S", "0.5")
    files = [str(path.relative_to(sky)) for path in sorted((sky / "one").rglob("*.hdf5"))]
    with serving(sky, {files[0]: Busy(2), files[1]: CutShort(2), files[2]: Hangs(2)}) as server:
        published = drive(prepared(sky, tmp_path / "root", sources=over_http(server.url), cache=str(tmp_path / "cache")))
    assert published.set_aside == ()
    assert members(tmp_path / "root") == {name: content for name, content in undisturbed.items() if name.endswith(".tar")}


def members(root: Path) -> dict[str, bytes]:
    """The shards alone: the manifest names the place that the sources came from."""
    return {name: content for name, content in published_bytes(root).items() if name.endswith(".tar")}


def test_a_copy_that_went_bad_in_the_cache_is_fetched_again(sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    def damage() -> None:
        copies = sorted((tmp_path / "cache").rglob("*.hdf5"))
        assert copies
        for copy in copies:
            content = bytearray(copy.read_bytes())
            content[-8:] = bytes(byte ^ 255 for byte in content[-8:])
            copy.write_bytes(content)

    with serving(sky) as server:
        build = prepared(sky, tmp_path / "root", sources=over_http(server.url), cache=str(tmp_path / "cache"))
        published = drive(build, after={"scan": damage})
        assert all(count == 2 for name, count in server.requests.items() if name.endswith(".hdf5") and name.startswith("one"))
    assert published.set_aside == ()
    assert members(tmp_path / "root") == {name: content for name, content in undisturbed.items() if name.endswith(".tar")}


@pytest.mark.parametrize("place", ["disk", "web"])
def test_a_source_that_changes_between_two_stages_is_set_aside_not_mixed(place: str, tmp_path: Path) -> None:
    sky = small_sky(tmp_path / "sky")
    changed = sorted((sky / "one").rglob("*.hdf5"))[2]

    def change() -> None:
        with h5py.File(changed, "r+") as file:
            file["image"][...] = file["image"][...] + 1000
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # as on another worker

    with serving(sky) as server:
        options = {"cache": str(tmp_path / "cache"), **({"sources": over_http(server.url)} if place == "web" else {})}
        build = prepared(sky, tmp_path / "root", **options)
        published = drive(build, after={"match": change})
        cell = changed.parent.name.split("=")[1]
        assert [(entry["stage"], entry["unit"]) for entry in published.set_aside] == [("samples", f"pair/{cell}")]
        assert "changed since it was listed" in published.set_aside[0]["reason"]
        assert published.samples == OBJECTS - 1
        assert drive(build).set_aside == ()
        drive(prepared(sky, tmp_path / "undisturbed", **options))
    assert published_bytes(tmp_path / "root") == published_bytes(tmp_path / "undisturbed")

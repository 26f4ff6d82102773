"""URLs of all kinds: how they are opened, what is tried again, what is told at once; uploads that appear whole or not at all."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import s3fs
from aiohttp import ClientResponseError, RequestInfo
from httpx import ConnectError, Request, Response
from huggingface_hub.errors import HfHubHTTPError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mmu_pipeline import storage
from mmu_pipeline.errors import BadInput, Unreachable
from mmu_pipeline.remote import filesystem, retried
from mmu_pipeline.simulate.serve import Busy, serving
from mmu_pipeline.storage import Root

MB = 1024**2


def answer(status: int) -> ClientResponseError:
    """What aiohttp raises for an answer of a server."""
    url = URL("http://host/x")
    return ClientResponseError(RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url), (), status=status, message="said")


def hub_answer(status: int) -> HfHubHTTPError:
    """What the library of the Hugging Face Hub raises for an answer of its server."""
    return HfHubHTTPError("said", response=Response(status, request=Request("GET", "http://host/x")))


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(ConnectionResetError(), 4), (TimeoutError(), 4), (answer(503), 4), (answer(429), 4), (answer(403), 1), (answer(410), 1),
     (FileNotFoundError(), 1), (PermissionError(), 1), (ConnectError(""), 4), (hub_answer(503), 4), (hub_answer(401), 1)],
)  # fmt: skip
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_RETRY_FOR_S", "5")
    made = []

    def action() -> str:
        made.append(time.monotonic())
        if len(made) < 4:
            raise error
        return "done"

    if attempts == 4:
        assert retried(action, "http://host/x") == "done"
    else:
        with pytest.raises(Unreachable, match="cannot be read"):
            retried(action, "http://host/x")
    assert len(made) == attempts


def test_an_answer_that_is_no_fault_passes_unchanged() -> None:
    def action() -> None:
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        retried(action, "s3://bucket/x", answers=(FileNotFoundError,))


def test_a_host_that_does_not_exist_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_RETRY_FOR_S", "60")
    start = time.monotonic()
    fs, path = filesystem("http://no-such-host.invalid/x")
    with pytest.raises(Unreachable, match="no-such-host"):
        retried(lambda: fs.info(path), path)
    assert time.monotonic() - start < 30


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with serving(tmp_path, {"f": Busy(2)}) as server:
        assert Root(server.url).read_bytes("f") == b"content"
        assert server.requests["f"] == 3


def test_a_package_that_a_kind_of_url_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "hf", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match="a package that is not installed") as caught:
        filesystem("hf://datasets/owner/name")
    assert "mmu-pipeline[hf]" in caught.value.hint


def test_a_store_without_credentials_is_bad_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._place.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(BadInput, match="no credentials"):
            Root("s3://bucket/root").write_bytes("f", b"x")
    finally:
        storage._place.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_large_upload_goes_in_parts_and_appears_whole_or_not_at_all(bucket: str) -> None:
    root, s3, content = Root(f"{bucket}/root"), s3fs.S3FileSystem(), os.urandom(MB)
    with root.writing("large") as file:
        for _ in range(60):
            file.write(content)
        s3.invalidate_cache()
        assert not s3.exists(f"{bucket}/root/large")
    s3.invalidate_cache()
    info = s3.info(f"{bucket}/root/large")
    assert info["size"] == 60 * MB
    assert "-" in info["ETag"], "it did not go in parts"

    def fail() -> None:
        with root.writing("broken") as file:
            for _ in range(60):
                file.write(content)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    s3.invalidate_cache()
    assert not s3.exists(f"{bucket}/root/broken")
    assert s3.list_multipart_uploads(bucket.removeprefix("s3://")) == []

"""Where the real data lie that tests compare with, a Prefect home of their own, a build to be disturbed, an object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from mmu_pipeline import storage

# Set before any test imports the flows. One for each test process: two first starts would race on one database.
os.environ["PREFECT_HOME"] = str(
    Path(tempfile.gettempdir(), f"mmu-tests-prefect-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")
)
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")  # for workers that tests start: docs/cluster.md
os.environ.setdefault("MMU_RETRY_FOR_S", "0.2")  # servers on this machine that fail in a test do so at once or for good


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey files: MMU_REAL_DATA, or ../shared/data beside the checkout. Skips where there is none."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("MMU_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MMU_REAL_DATA to the folder that holds raw/ and mmu_v1/")
    return folder


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small sky, for tests that disturb a build of it."""
    from tests.faults import small_sky  # brings Dask, which most tests do without

    return small_sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="module")
def undisturbed(sky: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a build of the small sky publishes if nothing disturbs it."""
    from tests.faults import OBJECTS, drive, prepared, published_bytes

    root = tmp_path_factory.mktemp("undisturbed")
    assert drive(prepared(sky, root)).samples == OBJECTS
    return published_bytes(root)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # servers of one process share buckets
    storage._place.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("shards")
    yield "s3://shards"
    server.stop()
    storage._place.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()

"""`hf://`: surveys read from a server that answers as the Hugging Face Hub does, by the library's own filesystem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import drive, prepared, published_bytes, small_sky
from tests.hub import Hub, hub_of

BUILD = """
import json, sys
from pathlib import Path
from tests.faults import drive, prepared
build = prepared(Path(sys.argv[1]), sys.argv[2], sources={"two": "hf://datasets/owner/name/two"}, cache=sys.argv[3])
published = drive(build)
print(json.dumps([published.samples, [unit["reason"] for unit in published.set_aside]]))
"""


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sky(tmp_path_factory.mktemp("sky"))


def build(hub: Hub, sky: Path, root: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A build whose counterpart is read from the hub, in a process of its own: the library looks for HF_ENDPOINT once."""
    known = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **settings}
    command = [sys.executable, "-c", BUILD, str(sky), str(root), str(root / "cache")]
    return subprocess.run(command, env={**os.environ, **known}, capture_output=True, text=True, timeout=120, check=False)


def test_a_build_from_the_hub_gives_the_samples_of_one_from_disk(sky: Path, tmp_path: Path) -> None:
    drive(prepared(sky, tmp_path / "disk"))
    with hub_of(sky) as hub:
        hub.busy = 2
        ran = build(hub, sky, tmp_path / "hub", MMU_RETRY_FOR_S="5")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads(ran.stdout) == [10, []]
    fetched = {path for path in hub.requests if "/resolve/main/two/healpix=" in path}
    assert len(fetched) == len(list((sky / "two").glob("*/*.hdf5")))
    here, there = (published_bytes(tmp_path / place) for place in ("disk", "hub"))
    shards = [name for name in here if name.endswith(".tar")]
    assert len(shards) > 1
    assert {name: there[name] for name in shards} == {name: here[name] for name in shards}


def test_a_set_that_is_not_on_the_hub_is_said_to_be_unreachable(sky: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with hub_of(tmp_path / "empty") as hub:
        ran = build(hub, sky, tmp_path / "hub")
    assert "Unreachable" in ran.stderr
    assert "hf://datasets/owner/name/two" in ran.stderr or "datasets/owner/name" in ran.stderr

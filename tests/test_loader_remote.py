"""Shards read over HTTP and from S3: the same samples, few requests, a cache that stays within its bounds."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mmu_pipeline.errors import BrokenArtefact, Unreachable
from mmu_pipeline.loader import ShardDataset, remote_shards
from mmu_pipeline.loader.remote_shards import runs, trim
from mmu_pipeline.simulate.serve import Busy, CutShort, serving
from tests.small_set import SmallSet, make_small_set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Blocks smaller than a sample, quick retries, and no connection of an earlier test."""
    monkeypatch.setattr(remote_shards, "BLOCK_BYTES", 4096)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    fsspec.get_filesystem_class("http").clear_instance_cache()


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, other[name], equal_nan=value.dtype.kind == "f"), name
        else:
            assert value == other[name], name


def cached(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_same_samples_over_http_and_the_second_time_from_the_cache(small_set, tmp_path):
    local = ShardDataset(small_set.path)
    rows = np.random.default_rng(0).permutation(len(local))
    with serving(small_set.path) as server:
        remote = ShardDataset(server.url, cache=tmp_path)
        assert remote.identity == local.identity
        same(remote.batch(rows), local.batch(rows))
        asked = sum(count for name, count in server.requests.items() if name.endswith(".tar"))
        assert asked <= len(local.parts[0].shards) + sum(shard.nbytes for shard in local.parts[0].shards) // (4096 * 32)
        server.requests.clear()
        again = ShardDataset(server.url, cache=tmp_path, check=True)
        same(again.batch(rows[:20]), local.batch(rows[:20]))
        same(again[7], local[7])
        assert not any(name.endswith(".tar") for name in server.requests)
    assert cached(tmp_path) <= sum(shard.nbytes for shard in local.parts[0].shards)


def test_only_the_blocks_of_the_samples_asked_for_are_read(small_set, tmp_path):
    with serving(small_set.path) as server:
        remote = ShardDataset(server.url, cache=tmp_path)
        assert remote[3]["key"] == ShardDataset(small_set.path)[3]["key"]
    assert cached(tmp_path) <= remote.places.nbytes[3] + 2 * 4096


def test_the_cache_stays_within_its_bounds_and_evicted_blocks_are_read_again(small_set, tmp_path):
    local, limit = ShardDataset(small_set.path), 100_000
    with serving(small_set.path) as server:
        remote = ShardDataset(server.url, cache=tmp_path, cache_bytes=limit)
        for first in range(0, len(local), 5):
            rows = np.arange(first, min(first + 5, len(local)))
            same(remote.batch(rows), local.batch(rows))
            assert cached(tmp_path) <= limit
        everything = np.arange(len(local))
        same(remote.batch(everything), local.batch(everything))


def test_passing_faults_of_the_server_are_retried_and_lasting_ones_told(small_set, tmp_path):
    shard = small_set.split("train")[0]
    for number, fault in enumerate([Busy(2), CutShort(2)]):
        with serving(small_set.path, faults={shard: fault}) as server:
            assert ShardDataset(server.url, cache=tmp_path / str(number))[0]["key"] in small_set.samples
    with serving(small_set.path, faults={shard: Busy(1000)}) as server, pytest.raises(Unreachable):
        ShardDataset(server.url, cache=tmp_path / "never")[0]


def test_a_shard_of_another_size_is_refused(small_set, tmp_path):
    dataset_path = tmp_path / "set"
    shutil.copytree(small_set.path, dataset_path)
    shard = dataset_path / small_set.split("train")[0]
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 1024)
    with serving(dataset_path) as server, pytest.raises(BrokenArtefact, match="not of the size"):
        ShardDataset(server.url, cache=tmp_path / "cache")[0]


def test_a_block_that_is_cut_short_in_the_cache_is_read_again(small_set, tmp_path):
    with serving(small_set.path) as server:
        dataset = ShardDataset(server.url, cache=tmp_path, check=True)
        wanted = dataset[0]
        for path in tmp_path.rglob("*-*"):
            path.write_bytes(path.read_bytes()[:100])
        same(dataset[0], wanted)


def test_from_s3(small_set, tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer

    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        s3 = fsspec.filesystem("s3")
        s3.mkdir("sets")
        s3.put(str(small_set.path), "sets/small", recursive=True)
        remote, local = (
            ShardDataset("s3://sets/small", cache=tmp_path, where="has_curves"),
            ShardDataset(small_set.path, where="has_curves"),
        )
        rows = np.arange(0, len(local), 3)
        same(remote.batch(rows), local.batch(rows))
    finally:
        server.stop()


def test_neighbours_are_asked_for_in_one_request():
    assert runs([(0, 1), (0, 2), (0, 4), (1, 5), (1, 6)]) == [(0, 1, 3), (0, 4, 5), (1, 5, 7)]
    assert runs([(0, block) for block in range(40)]) == [(0, 0, 32), (0, 32, 40)]


def test_trimming_removes_the_oldest(tmp_path):
    for number in range(5):
        (tmp_path / str(number)).write_bytes(bytes(10))
        os.utime(tmp_path / str(number), (number, number))
    trim(str(tmp_path), 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]

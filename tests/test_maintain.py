"""Flows that keep a store in order: the check of a set, and what goes by a policy and what never does."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from flows.build import build
from flows.maintain import clean, verify
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.leases import writing_alone
from mmu_pipeline.shards.opened import reading_version
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.stages.build import SourceFile
from mmu_pipeline.stages.cache import kept as kept_copy
from mmu_pipeline.stages.clean import CleanPolicy, Found, clean_cache, clean_samples, clean_sets
from mmu_pipeline.storage import WRITERS, Root
from tests.test_cli import mmu
from tests.tiny import recipe_yaml, survey_yaml, write_cells

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds one version of the recipe `some`, and its encoded samples."""
    folder = tmp_path_factory.mktemp("built")
    write_cells(folder / "data", [10.0, 40.0, 80.0], [1.0, 2.0, 3.0], ["A0", "A1", "A2"])
    survey_yaml(folder / "surveys", "tiny", folder / "data")
    recipe = recipe_yaml(folder, "some", primary={"survey": "tiny"})
    build(str(recipe), root=str(folder / "root"), survey_dirs=[str(folder / "surveys")], keep_samples=True, quiet=True)
    return folder / "root"


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "root")


def with_versions(root: Path, ages_days: dict[str, float]) -> Root:
    """The folder of the recipe with copies of its version under other names, each as old as said; LATEST names the first."""
    folder = root / "shards" / "some"
    source = folder / (folder / "LATEST").read_text().strip()
    for name, age in ages_days.items():
        copy = shutil.copytree(source, folder / name)
        for path in copy.rglob("*"):
            os.utime(path, (time.time() - age * DAY_S,) * 2)
    shutil.rmtree(source)
    (folder / "LATEST").write_text(next(iter(ages_days)) + "\n")
    return Root(str(folder))


def kept(found: list[Found]) -> dict[str, str]:
    return {item.path.rsplit("/", 1)[-1]: item.kept for item in found}


AGES = {"a" * 12: 90.0, "b" * 12: 1.0, "c" * 12: 20.0, "d" * 12: 30.0, "e" * 12: 40.0}


def test_the_newest_the_young_and_the_latest_stay(root: Path) -> None:
    folder = with_versions(root, AGES)
    policy = CleanPolicy(keep_versions=2, older_than_days=25)
    said = clean_sets(folder, policy, dry_run=True)
    assert [item.kept for item in said] == ["one of the newest 2", "one of the newest 2", "", "", "LATEST names it"]
    assert all(Path(folder.url, name).is_dir() for name in AGES)
    assert kept(clean_sets(folder, policy)) == kept(said)
    assert {path.name for path in Path(folder.url).iterdir() if len(path.name) == 12} == {"a" * 12, "b" * 12, "c" * 12}
    assert sum(item.nbytes for item in said if not item.kept) > 1000


def test_a_version_that_is_being_read_stays(root: Path) -> None:
    folder = with_versions(root, AGES)
    policy = CleanPolicy(keep_versions=1, older_than_days=0)
    with reading_version(folder.at("d" * 12)):
        found = kept(clean_sets(folder, policy))
    assert found["d" * 12].startswith("being read by process")
    assert {name for name in AGES if Path(folder.url, name).exists()} == {"a" * 12, "b" * 12, "d" * 12}


def test_nothing_goes_where_a_run_writes(root: Path) -> None:
    folder = with_versions(root, AGES)
    policy = CleanPolicy(keep_versions=1, older_than_days=0)
    with writing_alone(folder, WRITERS, "it"):
        assert all(item.kept for item in clean_sets(folder, policy))
        assert [item.kept for item in clean_samples(Root(str(root)), "some", policy)] == ["a run writes here"]
    assert all(Path(folder.url, name).is_dir() for name in AGES)


def test_what_broken_off_runs_left_goes_when_it_is_old(root: Path) -> None:
    folder = with_versions(root, {"a" * 12: 1.0})
    for name, age in {f".{'b' * 12}.partial": 30.0, f".{'c' * 12}.work": 1.0}.items():
        path = Path(folder.url, name, "train-000000.tar")
        path.parent.mkdir()
        path.write_bytes(b"half a shard")
        os.utime(path, (time.time() - age * DAY_S,) * 2)
    found = kept(clean_sets(folder, CleanPolicy()))
    assert found == {"a" * 12: "LATEST names it", f".{'b' * 12}.partial": "", f".{'c' * 12}.work": "not 14 days old"}
    assert not Path(folder.url, f".{'b' * 12}.partial").exists()


def test_kept_samples_go_when_none_was_made_for_long(root: Path) -> None:
    place = Root(str(root))
    assert [item.kept for item in clean_samples(place, "some", CleanPolicy())] == ["not 14 days old"]
    assert [item.kept for item in clean_samples(place, "some", CleanPolicy(older_than_days=0))] == [""]
    assert not (root / "pieces" / "samples" / "some").exists()
    assert clean_samples(place, "some", CleanPolicy()) == []


def test_downloads_that_nobody_reads_go(tmp_path: Path) -> None:
    for name, age in {"old": 30.0, "new": 1.0}.items():
        path = tmp_path / name / "a.hdf5"
        path.parent.mkdir()
        path.write_bytes(b"12345")
        os.utime(path, (time.time() - age * DAY_S,) * 2)
    policy = CleanPolicy()
    assert [(item.nbytes, item.kept) for item in clean_cache(tmp_path, policy, dry_run=True)] == [(5, ""), (5, "not 14 days old")]
    assert (tmp_path / "old" / "a.hdf5").exists()
    clean_cache(tmp_path, policy)
    assert not (tmp_path / "old" / "a.hdf5").exists()
    assert (tmp_path / "new" / "a.hdf5").exists()


def test_an_old_download_that_is_being_read_stays(tmp_path: Path) -> None:
    place, cache = tmp_path / "place", tmp_path / "cache"
    place.mkdir()
    (place / "a.bin").write_bytes(b"12345")
    cache.mkdir()
    (cache / "not ours").touch()
    with serving(place) as server:
        file = SourceFile("a.bin", (f"{server.url}/a.bin",), 5)
        with kept_copy(file, str(cache)) as path:
            for old in path.parent.iterdir():
                os.utime(old, (time.time() - 30 * DAY_S,) * 2)
            assert [item.kept for item in clean_cache(cache, CleanPolicy())] == ["in use"]
            assert path.read_bytes() == b"12345"
        assert [(item.nbytes > 5, item.kept) for item in clean_cache(cache, CleanPolicy())] == [(True, "")]
    assert [path.name for path in cache.iterdir()] == ["not ours"]


def test_versions_on_an_object_store_are_cleaned_too(built: Path, bucket: str) -> None:
    store = Root(f"{bucket}/root/shards/some")
    source = built / "shards" / "some"
    version = (source / "LATEST").read_text().strip()
    store.write_bytes("LATEST", f"{version}\n".encode())
    for name in (version, "b" * 12, "c" * 12):
        store.fs.put(str(source / version), store.path(name), recursive=True)
        time.sleep(1.1)  # S3 tells whole seconds
    assert kept(clean_sets(store, CleanPolicy(keep_versions=1))) == {
        "c" * 12: "one of the newest 1", "b" * 12: "not 14 days old", version: "LATEST names it"
    }  # fmt: skip
    found = kept(clean_sets(store, CleanPolicy(keep_versions=1, older_than_days=0)))
    assert found == {"c" * 12: "one of the newest 1", "b" * 12: "", version: "LATEST names it"}
    assert not store.exists("b" * 12)
    assert store.exists(f"{version}/manifest.json")


def test_the_flows_tell_what_they_found(root: Path, tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    assert verify(str(root / "shards" / "some"), values="all").samples == 3
    found = clean(str(root), policy=CleanPolicy(keep_versions=1, older_than_days=0), cache=str(tmp_path / "cache"))
    assert [(item.kind, item.kept) for item in found] == [("version", "LATEST names it"), ("samples", "")]
    assert (root / "pieces" / "samples" / "some").exists()  # a dry run unless said otherwise
    table = Artifact.get("clean")
    assert table is not None
    assert "would remove 1 of 2" in str(table.description)
    with pytest.raises(BadInput, match="the root holds no recipe other"):
        clean(str(root), recipes=["other"])
    shard = next((root / "shards" / "some").glob("*/train*.tar"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-512] + bytes(511) + b"x")
    with pytest.raises(BrokenArtefact, match="problems"):
        verify(str(root / "shards" / "some"))


def test_the_command_checks_on_workers_and_shows_how_far_it_is(root: Path) -> None:
    shards = root / "shards" / "some"
    ran = mmu("verify", shards, "--cluster", "local:2")
    assert ran.returncode == 0, ran.stderr
    assert "check    1/1 units, 3 rows" in ran.stderr
    shard = next(shards.glob("*/train*.tar"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-512] + bytes(511) + b"x")
    ran = mmu("verify", shards, "--cluster", "local:2")
    assert ran.returncode == 1
    assert f"{shard.name}: its digest is not that of the manifest" in ran.stdout
    assert not list(shards.rglob("receipts"))


def test_the_command_cleans_too(root: Path) -> None:
    folder = with_versions(root, AGES)
    asked = ("clean", "--root", root, "--keep", "1", "--older-than", "0")
    told = json.loads(mmu(*asked, "--dry-run", "--json").stdout)
    assert {item["path"].rsplit("/", 1)[-1]: item["kept"] for item in told}["a" * 12] == "LATEST names it"
    assert all(Path(folder.url, name).is_dir() for name in AGES)
    ran = mmu(*asked)
    assert ran.returncode == 0
    assert "4 of 6 gone" in ran.stdout
    assert {name for name in AGES if Path(folder.url, name).exists()} == {"a" * 12, "b" * 12}

"""Sets made from sets: nothing lost, nothing decoded, the same bytes each time, from and to a disk or an object store."""

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from mocpy import MOC

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.reshape import ReshardRule
from mmu_pipeline.shards.splits import SPLITS, near_other_split, split_of
from mmu_pipeline.sky import arcsec, pixels_at, unit_vectors
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.stages.reshard import prepare_reshard, publish_reshard, reshard, run_unit, units
from mmu_pipeline.stages.verify import verify
from mmu_pipeline.storage import Root
from tests.small_set import CELLS, RECIPE, VERSION, SmallSet, make_small_set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def index(small_set):
    return pq.read_table(small_set.path / "index/samples.parquet")


def contents(folder: str | Path) -> dict[str, bytes]:
    """Every file of a set."""
    place = Path(folder)
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def members(folder: str | Path) -> dict[str, bytes]:
    """Every member of every shard."""
    found = {}
    for shard in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


def manifest(published: Published) -> dict:
    return Root(published.url).read_json("manifest.json")


def keys(published: Published) -> set[str]:
    return set(pq.read_table(Path(published.url) / "index/samples.parquet")["key"].to_pylist())


def test_other_shards_hold_the_same_samples(small_set, tmp_path):
    made = reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(samples_per_shard=9, seed=5))
    new = manifest(made)
    assert made.samples == len(small_set.samples)
    assert new["set_digest"] == small_set.manifest["set_digest"]
    assert members(made.url) == members(small_set.path)
    assert max(shard["samples"] for shard in new["splits"]["train"]["shards"]) <= 9
    assert new["parents"] == [
        {"name": RECIPE.name, "version": VERSION, "samples": 190, "set_digest": small_set.manifest["set_digest"]}
    ]
    assert new["rule"] == {"samples_per_shard": 9, "seed": 5}
    assert (tmp_path / "out" / "LATEST").read_text().strip() == made.version
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["LATEST", made.version])
    assert "Made by re-sharding" in (Path(made.url) / "README.md").read_text()


def test_done_twice_it_gives_the_same_bytes_and_a_third_time_nothing_is_done(small_set, tmp_path):
    rule = ReshardRule(where="imager_mag < 22", samples_per_shard=11)
    one, other = (reshard([str(small_set.path)], str(tmp_path / name), rule) for name in ("one", "other"))
    assert contents(one.url) == contents(other.url)
    again = reshard([str(small_set.path.parent)], str(tmp_path / "one"), rule)  # named by the folder of its recipe
    assert again.reused
    assert again.version == one.version


def test_an_expression_a_cone_and_a_moc_choose_and_what_is_left_out_is_counted(small_set, index, tmp_path):
    MOC.from_str("4/" + " ".join(map(str, CELLS[:6]))).save(tmp_path / "some.fits", format="fits")
    rule = ReshardRule(
        where="imager_kind in ['galaxy', 'star'] and has_curves", cone=(45, 40, 60), moc=str(tmp_path / "some.fits")
    )
    made = reshard([str(small_set.path)], str(tmp_path / "out"), rule)
    rows = index.to_pylist()
    passing = [row for row in rows if row["imager_kind"] is not None and row["has_curves"]]
    centre = unit_vectors(np.array([45.0]), np.array([40.0]))
    points = unit_vectors(np.array([row["ra"] for row in passing]), np.array([row["dec"] for row in passing]))
    within = [row for row, point in zip(passing, points, strict=True) if arcsec(np.linalg.norm(point - centre)) <= 60 * 3600]
    covered = [row for row in within if row["healpix"] in CELLS[:6]]
    assert 0 < len(covered) < len(within) < len(passing) < len(rows)
    assert keys(made) == {row["key"] for row in covered}
    assert manifest(made)["skipped"]["reshard"] == {
        "not where": len(rows) - len(passing),
        "not in the cone": len(passing) - len(within),
        "not in the MOC": len(within) - len(covered),
    }
    moved = shutil.move(tmp_path / "some.fits", tmp_path / "other.fits")
    again = reshard([str(small_set.path)], str(tmp_path / "out"), rule.model_copy(update={"moc": str(moved)}))
    assert again.version == made.version  # the map counts, not its place


def test_a_new_split_keeps_its_guard(small_set, index, tmp_path):
    split = SplitRule(train=0.3, validation=0.3, test=0.4, order=2, seed=9, guard_arcsec=3000)
    made = reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(split=split))
    near = near_other_split(index["ra"].to_numpy(), index["dec"].to_numpy(), split)
    assert 0 < near.sum() < len(index)
    assert made.samples == len(index) - near.sum()
    found = pq.read_table(Path(made.url) / "index/samples.parquet")
    assert found["split"].to_pylist() == [SPLITS[code] for code in split_of(found["_healpix_29"].to_numpy(), split)]
    assert manifest(made)["recipe"]["split"]["seed"] == 9


@pytest.mark.parametrize(
    "chosen",
    [["imager.image", "curves.flux"], ["curves"], ["imager.image", "imager.image_mask"], ["curves.noise", "imager.profile"]],
)
def test_members_that_are_dropped_leave_the_others_as_they_were(small_set, tmp_path, chosen):
    made = reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(members=chosen, samples_per_shard=30))
    names = [member["name"] for member in manifest(made)["members"]]
    assert names == [m["name"] for m in small_set.manifest["members"] if m["name"] in chosen or m["survey"] in chosen]
    before = members(small_set.path)
    wanted = {f"{name}.npy" for name in names} | {"json"}
    assert members(made.url) == {name: data for name, data in before.items() if name.partition(".")[2] in wanted}
    row = pq.read_table(Path(made.url) / "index/samples.parquet").slice(17, 1).to_pylist()[0]
    shard = (Path(made.url) / row["shard"]).read_bytes()
    for place, name in enumerate(names):
        start = row["offset"] + row["member_offset"][place]
        array = np.load(io.BytesIO(shard[start : start + row["member_nbytes"][place]]), allow_pickle=False)
        assert np.array_equal(array, small_set.samples[row["key"]].arrays[name])


def test_parts_that_are_merged_are_the_whole_again(small_set, tmp_path):
    north, south = (
        reshard([str(small_set.path)], str(tmp_path / name), ReshardRule(where=where, samples_per_shard=7))
        for name, where in (("north", "dec >= 0"), ("south", "dec < 0"))
    )
    whole = reshard([south.url, north.url], str(tmp_path / "whole"), ReshardRule(samples_per_shard=40, seed=1, name="whole"))
    assert north.samples + south.samples == whole.samples == 190
    new = manifest(whole)
    assert new["set_digest"] == small_set.manifest["set_digest"]
    assert members(whole.url) == members(small_set.path)
    assert new["name"] == "whole"
    assert len(new["parents"]) == 2
    assert [survey["checksums"] for survey in new["surveys"]] == [["imager" * 4], ["curves" * 4]]
    for split in SPLITS:  # the same seed and count: the very shards of the first set
        assert [shard["digest"] for shard in new["splits"][split]["shards"]] == [
            shard["digest"] for shard in small_set.manifest["splits"][split]["shards"]
        ]


def test_what_stands_in_two_inputs_is_refused(small_set, tmp_path):
    part = reshard([str(small_set.path)], str(tmp_path / "part"), ReshardRule(where="dec >= 0"))
    with pytest.raises(BadInput, match=f"{part.samples} samples stand in the inputs twice") as error:
        reshard([str(small_set.path), part.url], str(tmp_path / "out"), ReshardRule())
    assert error.value.where["one"] != error.value.where["other"]
    assert not list((tmp_path / "out").glob("[0-9a-f]*"))


def test_sets_that_hold_other_things_are_refused_by_name(small_set, tmp_path):
    part = reshard([str(small_set.path)], str(tmp_path / "part"), ReshardRule(members=["imager", "curves.time"]))
    with pytest.raises(BadInput, match="the members of the two sets") as error:
        reshard([str(small_set.path), part.url], str(tmp_path / "out"), ReshardRule())
    assert error.value.where["differing"] == "curves.flux, curves.band, curves.noise"
    other = reshard([str(small_set.path)], str(tmp_path / "other"), ReshardRule(split=SplitRule(seed=77)))
    with pytest.raises(BadInput, match="split by different rules"):
        reshard([str(small_set.path), other.url], str(tmp_path / "out"), ReshardRule())
    assert not (tmp_path / "out").exists()


def test_every_shard_gets_its_share_of_a_column(small_set, tmp_path):
    made = reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(samples_per_shard=20, balance="imager_kind"))
    found = pq.read_table(Path(made.url) / "index/samples.parquet").to_pylist()
    for split in SPLITS:
        names = [shard["name"] for shard in manifest(made)["splits"][split]["shards"]]
        for kind in ("galaxy", "star", None):
            counts = [sum(row["shard"] == name and row["imager_kind"] == kind for row in found) for name in names]
            assert max(counts) - min(counts) <= 2
    assert manifest(made)["set_digest"] == small_set.manifest["set_digest"]


def test_a_class_is_limited_to_its_first_samples(small_set, index, tmp_path):
    rule = ReshardRule(limit_per_class=("imager_kind", 25))
    made = reshard([str(small_set.path)], str(tmp_path / "out"), rule)
    found = pq.read_table(Path(made.url) / "index/samples.parquet")
    assert Counter(found["imager_kind"].to_pylist()) == {"galaxy": 25, "star": 25, None: 25}
    assert manifest(made)["skipped"]["reshard"] == {"over limit_per_class": len(index) - 75}
    more = reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(limit_per_class=("imager_kind", 40)))
    assert keys(made) < keys(more)


def test_repeats_are_made_anew(small_set, tmp_path):
    padded = reshard([str(small_set.path)], str(tmp_path / "a"), ReshardRule(samples_per_shard=32, multiple_of=16, world_size=2))
    new = manifest(padded)
    assert all(shard["samples"] % 16 == 0 for part in new["splits"].values() for shard in part["shards"])
    assert new["samples"] == 190 + new["repeats"]
    assert new["set_digest"] == small_set.manifest["set_digest"]
    assert "stand a second time" in (Path(padded.url) / "README.md").read_text()
    back = reshard([padded.url], str(tmp_path / "b"), ReshardRule(multiple_of=1))
    assert back.samples == 190
    assert manifest(back)["set_digest"] == small_set.manifest["set_digest"]


def test_what_is_copied_already_is_not_copied_again(small_set, tmp_path):
    rule = ReshardRule(samples_per_shard=10, members=["imager"])
    job = prepare_reshard([str(small_set.path)], str(tmp_path / "out"), rule)
    todo = units(job)
    assert [run_unit(unit, job).status for unit in todo[:4]] == ["done"] * 4
    with pytest.raises(BrokenArtefact, match="shards are missing"):
        publish_reshard(job)
    half = job.root.path(f"set/{todo[1].name}")
    os.truncate(half, 5000)
    again = prepare_reshard([str(small_set.path)], str(tmp_path / "out"), rule)
    assert [run_unit(unit, again).status for unit in units(again)][:5] == ["reused", "done", "reused", "reused", "done"]
    made = publish_reshard(again)
    assert contents(made.url) == contents(reshard([str(small_set.path)], str(tmp_path / "other"), rule).url)
    assert units(again) == []


def test_an_input_that_is_not_as_its_index_says_is_never_published(small_set, index, tmp_path):
    shutil.copytree(small_set.path, tmp_path / "cut")
    shard = tmp_path / "cut" / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenArtefact, match="shorter than its index says") as error:
        reshard([str(tmp_path / "cut")], str(tmp_path / "out"), ReshardRule())
    assert error.value.where["file"] == str(shard)
    flipped = bytearray(content)
    row = next(row for row in index.to_pylist() if row["shard"] == shard.name)
    flipped[row["offset"] + row["member_offset"][0] + 200] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(BrokenArtefact, match="its digest differs") as error:
        reshard([str(tmp_path / "cut")], str(tmp_path / "out"), ReshardRule())
    assert (error.value.where["key"], error.value.where["file"]) == (row["key"], str(shard))
    path = tmp_path / "cut" / "index" / "samples.parquet"
    pq.write_table(index.set_column(index.column_names.index("shard"), "shard", pa.array(["other.tar"] * len(index))), path)
    with pytest.raises(BrokenArtefact, match=r"names shards that its manifest does not") as error:
        reshard([str(tmp_path / "cut")], str(tmp_path / "anew"), ReshardRule())
    assert (error.value.where["shard"], error.value.where["file"]) == ("other.tar", str(path))
    assert not (tmp_path / "out" / "LATEST").exists()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"where": "nosuch < 3"}, "unknown column 'nosuch'"),
        ({"where": "imager_mag <"}, "cannot parse"),
        ({"where": "imager_kind < 3"}, "does not fit the types"),
        ({"where": "dec > 91"}, "no sample is left"),
        ({"members": ["imager.nosuch"]}, "no member imager.nosuch"),
        ({"balance": "imager_psf"}, "no column 'imager_psf' of single values"),
        ({"limit_per_class": ("nosuch", 3)}, "no column 'nosuch'"),
        ({"cone": (10, 99, 1)}, "a cone is"),
        ({"moc": "nowhere.fits"}, "no such MOC"),
        ({"split": SplitRule(order=8, guard_arcsec=3000)}, "too wide"),
    ],
)
def test_what_is_asked_wrongly_is_told(small_set, tmp_path, rule, message):
    with pytest.raises(BadInput, match=message):
        reshard([str(small_set.path)], str(tmp_path / "out"), ReshardRule(**rule))
    assert not (tmp_path / "out" / "LATEST").exists()


def test_no_set_is_told(tmp_path):
    with pytest.raises(BadInput, match="no set of shards here"):
        reshard([str(tmp_path)], str(tmp_path / "out"), ReshardRule())
    with pytest.raises(BadInput, match="no set to take samples from"):
        reshard([], str(tmp_path / "out"), ReshardRule())


def test_from_and_to_an_object_store(small_set, tmp_path, bucket):
    rule = ReshardRule(where="dec > -20", samples_per_shard=25, seed=2)
    here = reshard([str(small_set.path)], str(tmp_path / "here"), rule)
    there = reshard([str(small_set.path)], f"{bucket}/there", rule)
    assert there.url == f"{bucket}/there/{here.version}"
    s3 = s3fs.S3FileSystem()
    found = {path.split(f"{here.version}/")[1]: s3.cat_file(path) for path in s3.find(f"{bucket}/there/{here.version}")}
    assert found == contents(here.url)
    assert not [path for path in s3.find(f"{bucket}/there") if ".work" in path]
    assert verify(there.url).ok
    rest = reshard([str(small_set.path)], str(tmp_path / "rest"), ReshardRule(where="dec <= -20"))
    back = reshard([there.url, rest.url], str(tmp_path / "back"), ReshardRule(samples_per_shard=40, seed=1))
    assert manifest(back)["set_digest"] == small_set.manifest["set_digest"]
    assert members(back.url) == members(small_set.path)
    less = reshard([f"{bucket}/there"], f"{bucket}/less", ReshardRule(members=["curves"]))
    assert verify(less.url).ok
    local = reshard([here.url], str(tmp_path / "less"), ReshardRule(members=["curves"]))
    assert json.loads(s3.cat_file(f"{less.url}/manifest.json"))["set_digest"] == manifest(local)["set_digest"]
    assert set(pixels_at(pq.read_table(Path(local.url) / "index/samples.parquet")["_healpix_29"].to_numpy(), 4)) <= set(CELLS)

"""A set of shards as a dataset: what was written comes back, by number and by condition, from a disk and over the network."""

import pickle
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.loader import ShardDataset
from mmu_pipeline.loader.faults import Faults
from tests.small_set import RECIPE, SmallSet, make_small_set

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


def check_sample(found: dict, small_set: SmallSet) -> None:
    wanted = small_set.samples[found["key"]]
    for name, array in wanted.arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    assert {name: found[name] for name in wanted.record} == wanted.record
    assert len(found) == 1 + len(wanted.arrays) + len(wanted.record)


@pytest.mark.parametrize("split", [*SPLITS, None])
def test_every_sample_of_a_split_comes_back(small_set, split):
    dataset = ShardDataset(small_set.path, split)
    found = list(dataset)
    for sample in found:
        check_sample(sample, small_set)
    wanted = small_set.manifest["splits"][split]["samples"] if split else len(small_set.samples)
    assert len(dataset) == len({sample["key"] for sample in found}) == wanted > 0


def test_rows_are_in_the_order_of_the_shards(small_set):
    dataset = ShardDataset(small_set.path)
    table = dataset.table(["key", "shard", "offset", "ra"])
    assert table.column_names == ["key", "shard", "offset", "ra"]
    assert table["key"].to_pylist() == [sample["key"] for sample in dataset]
    assert np.array_equal(table["offset"], dataset.places.offset)
    assert dataset[-1]["key"] == table["key"][-1].as_py()
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(IndexError):
        dataset.batch([len(dataset)])


def test_the_folder_of_the_recipe_stands_for_its_latest_version(small_set):
    assert len(ShardDataset(small_set.path.parent)) == len(ShardDataset(small_set.path))


@pytest.mark.parametrize("split", ["train", None])
@pytest.mark.parametrize("where", ["imager_mag < 20 and has_curves", "imager_kind in ['star'] or dec > 10", "healpix == 300"])
def test_a_condition_chooses_samples(small_set, split, where):
    table = pq.read_table(small_set.path / "index/samples.parquet")
    passes = {
        "imager_mag < 20 and has_curves": (pc.field("imager_mag") < 20) & pc.field("has_curves"),
        "imager_kind in ['star'] or dec > 10": (pc.field("imager_kind") == "star") | (pc.field("dec") > 10),
        "healpix == 300": pc.field("healpix") == 300,
    }[where]
    wanted = table.filter(passes if split is None else passes & (pc.field("split") == split))
    dataset = ShardDataset(small_set.path, split, where=where)
    assert {sample["key"] for sample in dataset} == set(wanted["key"].to_pylist())
    assert dataset.table(["key"])["key"].to_pylist() == [sample["key"] for sample in dataset]


def test_a_condition_may_leave_nothing(small_set):
    dataset = ShardDataset(small_set.path, where="imager_mag < -5")
    assert len(dataset) == 0
    assert list(dataset) == []
    assert dataset.batch([])["imager.image"].shape == (0, 3, 8, 8)


def test_without_the_small_indexes_the_large_one_is_read(small_set, tmp_path):
    shutil.copytree(small_set.path, tmp_path / "set", ignore=shutil.ignore_patterns("*.idx"))
    one, other = ShardDataset(small_set.path).places, ShardDataset(tmp_path / "set").places
    for name in ("shard", "offset", "nbytes"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("ragged", ["padded", "packed", "list"])
def test_a_batch_holds_what_its_samples_hold(small_set, ragged):
    dataset = ShardDataset(small_set.path)
    rows = np.random.default_rng(1).permutation(len(dataset))[:50]
    batch = dataset.batch(rows, ragged=ragged)
    assert np.array_equal(batch["row"], rows)
    for place, row in enumerate(rows):
        sample = dataset[row]
        assert batch["key"][place] == sample["key"]
        for name in ("imager.image", "imager.image_mask", "imager.profile"):
            assert batch[name].dtype == sample[name].dtype
            assert np.array_equal(batch[name][place], sample[name])
        for name in ("curves.time", "curves.flux", "curves.band", "curves.noise"):
            found = batch[name]
            if ragged == "padded":
                length = len(sample[name])
                assert np.array_equal(batch[f"{name}.mask"][place], np.arange(found.shape[1]) < length)
                assert not found[place, length:].any()
                given = found[place, :length]
            elif ragged == "packed":
                begin, end = batch[f"{name}.offsets"][place : place + 2]
                given = found[begin:end]
            else:
                given = found[place]
            assert given.dtype == sample[name].dtype
            assert np.array_equal(given, sample[name])


def test_scalars_are_typed_and_nulls_told(small_set):
    dataset = ShardDataset(small_set.path)
    batch = dataset.batch(np.arange(len(dataset)))
    table = dataset.table([column.name for column in dataset.wanted.columns]).to_pylist()
    assert any(record["imager_mag"] is None for record in table)
    for place, record in enumerate(table):
        assert batch["has_curves"][place] == record["has_curves"]
        assert batch["imager_kind"][place] == record["imager_kind"]
        for name in ("imager_n_visits", "curves_rank", "healpix"):
            assert batch[f"{name}.valid"][place] == (record[name] is not None)
            assert batch[name][place] == (record[name] or 0)
        for name in ("imager_mag", "curves_redshift", "curves_separation_arcsec"):
            assert np.array_equal(batch[name][place], np.nan if record[name] is None else record[name], equal_nan=True)
        assert np.array_equal(batch["imager_psf"][place], record["imager_psf"] or [np.nan] * 3, equal_nan=True)
    types = {
        "imager_mag": "f4",
        "imager_psf": "f4",
        "imager_ra": "f8",
        "imager_n_visits": "i4",
        "has_curves": "?",
        "healpix": "i8",
    }
    assert {name: batch[name].dtype for name in types} == {name: np.dtype(kind) for name, kind in types.items()}


def test_only_what_is_asked_for_is_given(small_set):
    dataset = ShardDataset(small_set.path, members=["curves.flux", "imager.profile"], columns=["imager_mag"])
    names = {"key", "imager.profile", "curves.flux", "imager_mag", "has_curves"}
    assert set(dataset[0]) == names
    assert set(dataset.batch([0, 1])) == names | {"row", "curves.flux.mask"}
    whole = ShardDataset(small_set.path)
    assert np.array_equal(dataset[3]["curves.flux"], whole[3]["curves.flux"])
    survey = ShardDataset(small_set.path, members=["curves"], columns=[])
    assert set(survey[0]) == {"key", "has_curves", *(f"curves.{name}" for name in ("time", "flux", "band", "noise"))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "exam"}, "no split"),
        ({"members": ["imager.flux"]}, "no member 'imager.flux'"),
        ({"columns": ["mag"]}, "no column 'mag'"),
        ({"where": "mag < 3"}, "unknown column 'mag'"),
        ({"where": "imager_kind < 3"}, "does not fit the types"),
    ],
)
def test_what_the_set_does_not_have_is_refused(small_set, arguments, message):
    with pytest.raises(BadInput, match=message):
        ShardDataset(small_set.path, **arguments)
    with pytest.raises(BadInput, match="no shard set"):
        ShardDataset(small_set.path / "index")
    with pytest.raises(BadInput, match="varying length"):
        ShardDataset(small_set.path).batch([0], ragged="jagged")


def test_a_dataset_pickles(small_set):
    dataset = ShardDataset(small_set.path, where="has_curves", check=True)
    first = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    check_sample(copy[0], small_set)
    assert copy[0]["key"] == first["key"]
    assert copy.identity == dataset.identity != ShardDataset(small_set.path).identity


def test_arrays_of_a_sample_are_ones_own(small_set):
    dataset = ShardDataset(small_set.path)
    before = dataset[0]["imager.image"].copy()
    dataset[0]["imager.image"][:] = 7
    assert np.array_equal(dataset[0]["imager.image"], before)


@pytest.fixture
def own_copy(small_set, tmp_path) -> SmallSet:
    shutil.copytree(small_set.path, tmp_path / "set")
    return SmallSet(tmp_path / "set", small_set.samples, small_set.manifest)


def flip(path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def place_of(dataset: ShardDataset, row: int) -> tuple[str, int]:
    return dataset.parts[0].shards[dataset.places.shard[row]].name, int(dataset.places.offset[row])


def test_a_flipped_bit_is_found_by_its_digest(own_copy):
    dataset = ShardDataset(own_copy.path, check=True)
    shard, offset = place_of(dataset, 5)
    key = dataset[5]["key"]
    flip(own_copy.path / shard, offset + 900)
    with pytest.raises(BrokenArtefact, match="not what its digest says") as caught:
        ShardDataset(own_copy.path, check=True)[5]
    assert caught.value.where == {"file": str(own_copy.path / shard), "offset": offset, "row": 5}
    faults = Faults(2)
    batch = ShardDataset(own_copy.path, check=True).batch(np.arange(10), faults=faults)
    assert batch["row"].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert key not in batch["key"]
    assert len(batch["key"]) == len(batch["imager.image"]) == len(batch["curves.flux"]) == len(batch["imager_mag"]) == 9
    assert [error.where["row"] for error in faults.found] == [5]


@pytest.mark.parametrize("at", [0, 124, 512, 520, 560])
def test_a_broken_header_is_found_without_digests(own_copy, at):
    """Sizes, npy headers and JSON always have to be as declared; name and numbers are left to the digest."""
    dataset = ShardDataset(own_copy.path, members=["imager.image"], columns=["healpix"])
    shard, offset = place_of(dataset, 0)
    broken = dataset.places.offset[0] if at else offset
    flip(own_copy.path / shard, int(broken) + at)
    fresh = ShardDataset(own_copy.path, members=["imager.image"], columns=["healpix"])
    if at >= 512:
        with pytest.raises(BrokenArtefact, match="declared dtype and shape"):
            fresh[0]
    else:
        fresh[0]


def test_a_wrong_size_of_a_ragged_member_is_found(own_copy):
    dataset = ShardDataset(own_copy.path)
    rows = [row for row in range(len(dataset)) if len(dataset[row]["curves.time"]) > 2][:2]
    shard, offset = place_of(dataset, rows[0])
    spans, _ = dataset.parts[0].choice.layout.spans(
        dataset.parts[0].source.sample(int(dataset.places.shard[rows[0]]), offset, int(dataset.places.nbytes[rows[0]]))
    )
    flip(own_copy.path / shard, offset + spans[3][0] - 512 + 130)
    with pytest.raises(BrokenArtefact):
        ShardDataset(own_copy.path).batch(rows)


@pytest.mark.parametrize("damage", ["short", "missing", "long"])
def test_a_shard_of_the_wrong_size_is_never_mapped(own_copy, damage):
    path = own_copy.path / own_copy.split("train")[1]
    if damage == "missing":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size + (-512 if damage == "short" else 512))
    dataset = ShardDataset(own_copy.path)
    bad = np.flatnonzero(dataset.places.shard == 1)
    assert len(dataset.batch(np.flatnonzero(dataset.places.shard == 0))["key"]) == dataset.parts[0].shards[0].samples
    with pytest.raises(BrokenArtefact, match=r"size|opened") as caught:
        dataset[int(bad[0])]
    assert caught.value.where["file"] == str(path)
    faults = Faults(len(bad) - 1)
    with pytest.raises(BrokenArtefact, match="more than"):
        dataset.batch(np.arange(len(dataset)), faults=faults)


def test_an_index_beside_a_shard_that_is_not_its_own_is_refused(own_copy):
    names = own_copy.split("train")
    shutil.copy(own_copy.path / f"{names[0]}.idx", own_copy.path / f"{names[1]}.idx")
    with pytest.raises(BrokenArtefact, match="not that of the set"):
        ShardDataset(own_copy.path)


def test_samples_that_fill_a_shard_are_left_out(tmp_path):
    shards = RECIPE.shards.model_copy(update={"multiple_of": 16})
    small_set = make_small_set(tmp_path, RECIPE.model_copy(update={"shards": shards}))
    assert small_set.manifest["repeats"] > 0
    found = [sample["key"] for split in SPLITS for sample in ShardDataset(small_set.path, split)]
    assert sorted(found) == sorted(small_set.samples)
    assert len(ShardDataset(small_set.path, None).table(["key"])) == len(small_set.samples)


def test_datasets_are_joined(small_set):
    parts = [ShardDataset(small_set.path, split, where=where) for split, where in (("test", None), ("train", "has_curves"))]
    joined = ShardDataset.joined([*parts, ShardDataset.joined(parts)])
    keys = [sample["key"] for part in parts for sample in part]
    assert [sample["key"] for sample in joined] == joined.table(["key"])["key"].to_pylist() == keys * 2
    rows = np.random.default_rng(0).permutation(len(joined))
    assert joined.batch(rows)["key"] == [(keys * 2)[row] for row in rows]
    assert joined.identity != parts[0].identity
    with pytest.raises(BadInput, match="same members"):
        ShardDataset.joined([parts[0], ShardDataset(small_set.path, members=["imager"])])


def test_members_come_in_the_order_asked_for(small_set):
    dataset = ShardDataset(small_set.path, members=["curves.flux", "imager.image"], columns=["imager_mag", "healpix"])
    assert list(dataset[0]) == ["key", "curves.flux", "imager.image", "imager_mag", "healpix", "has_curves"]


def test_more_shards_than_may_be_open(small_set, monkeypatch):
    monkeypatch.setattr("mmu_pipeline.loader.local_shards.OPEN_AT_ONCE", 1)
    dataset = ShardDataset(small_set.path, None)
    rows = np.random.default_rng(0).permutation(len(dataset))
    assert sorted(dataset.batch(rows)["key"]) == sorted(small_set.samples)
    assert len(dataset.parts[0].source._mapped) == 1

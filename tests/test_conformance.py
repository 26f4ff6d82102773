"""A set of shards in the readers that its users have, with no code of ours: each gives back the same arrays and scalars."""

import io
import json
import re
import subprocess
import tarfile

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.small_set import RECIPE, SmallSet, make_small_set

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


def check(found: dict[str, dict], small_set: SmallSet, split: str | None = None) -> None:
    """`found`: key -> member file name without the key -> array, or the record under "json"."""
    wanted = small_set.samples
    if split is not None:
        assert len(found) == small_set.manifest["splits"][split]["samples"] > 0
    else:
        assert found.keys() == wanted.keys()
    for key, sample in found.items():
        assert sample["json"] == wanted[key].record
        assert list(sample["json"]) == list(wanted[key].record)
        for name, array in wanted[key].arrays.items():
            read = sample[f"{name}.npy"]
            assert (read.dtype, read.shape) == (array.dtype, array.shape), name
            assert read.tobytes() == array.tobytes()
        assert len(sample) == len(wanted[key].arrays) + 1


def members(sample: dict) -> dict:
    return {name.lstrip("."): value for name, value in sample.items() if not name.startswith("__")}


def test_the_set_has_what_breaks_readers(small_set):
    lengths = {len(sample.arrays["curves.time"]) for sample in small_set.samples.values()}
    there = {sample.record["has_curves"] for sample in small_set.samples.values()}
    assert {0, 1} < lengths
    assert there == {True, False}
    assert any(sample.record["imager_mag"] is None for sample in small_set.samples.values())
    assert len(small_set.split("train")) > 1
    assert len(small_set.samples) > 150


def test_gnu_tar(small_set, tmp_path):
    found: dict[str, dict] = {}
    for split in SPLITS:
        for shard in small_set.split(split):
            listing = subprocess.run(["tar", "tvf", small_set.path / shard], capture_output=True, text=True, check=True)
            assert listing.stderr == ""
            subprocess.run(["tar", "xf", small_set.path / shard, "-C", tmp_path], check=True)
    for file in tmp_path.iterdir():
        key, _, member = file.name.partition(".")
        content = json.loads(file.read_bytes()) if member == "json" else np.load(file, allow_pickle=False)
        found.setdefault(key, {})[member] = content
    check(found, small_set)


def test_standard_library_tarfile(small_set):
    found: dict[str, dict] = {}
    for split in SPLITS:
        for shard in small_set.split(split):
            with tarfile.open(small_set.path / shard, "r:") as tar:
                for entry in tar:
                    key, _, member = entry.name.partition(".")
                    content = tar.extractfile(entry).read()
                    decoded = json.loads(content) if member == "json" else np.load(io.BytesIO(content), allow_pickle=False)
                    found.setdefault(key, {})[member] = decoded
    check(found, small_set)


@pytest.mark.parametrize("split", SPLITS)
def test_webdataset(small_set, split):
    import webdataset as wds

    urls = [str(small_set.path / shard) for shard in small_set.split(split)]
    dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    check({sample["__key__"]: members(sample) for sample in dataset}, small_set, split)


@pytest.mark.parametrize("split", SPLITS)
def test_wids(small_set, split, tmp_path):
    import wids

    dataset = wids.ShardListDataset(str(small_set.path / f"{split}.wids.json"), cache_dir=str(tmp_path), keep=True)
    check({sample["__key__"]: members(sample) for sample in (dataset[i] for i in range(len(dataset)))}, small_set, split)
    dataset.close()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return str(tmp_path)


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets(small_set, streaming, offline):
    from datasets import Features, load_dataset

    loaded = load_dataset(str(small_set.path), streaming=streaming, cache_dir=offline)
    assert set(loaded) == set(SPLITS)
    everything: dict[str, dict] = {}
    for split in SPLITS:
        typed = loaded[split].features
        assert typed["json"]["imager_mag"].dtype == "float32"
        assert typed["json"]["curves_rank"].dtype == "int32"
        found = {}
        for sample in loaded[split]:
            wanted = small_set.samples[sample["__key__"].rsplit("/", 1)[-1]]
            arrays = {f"{name}.npy": _as_array(sample[f"{name}.npy"], array) for name, array in wanted.arrays.items()}
            found[wanted.key] = {"json": sample["json"], **arrays}
        check(found, small_set, split)
        everything |= found
    check(everything, small_set)
    assert isinstance(loaded["train"].features, Features)


def _as_array(value, like: np.ndarray) -> np.ndarray:
    """The nested list that `datasets` gives, as an array; its own type is told by the features, not by the list."""
    return np.array(value, like.dtype).reshape((-1, *like.shape[1:]) if not len(value) else np.shape(value))


def test_hugging_face_numpy_format_gives_arrays(small_set, offline):
    """Its numpy format makes float32 of every float64, which the card says: values are compared as float32 there."""
    from datasets import load_dataset

    rows = load_dataset(str(small_set.path), split="train", cache_dir=offline).with_format("numpy")
    for sample in rows.select(range(10)):
        wanted = small_set.samples[sample["__key__"].rsplit("/", 1)[-1]].arrays
        for name in ("imager.image", "imager.image_mask", "imager.profile", "curves.time", "curves.flux"):
            given = wanted[name].astype("f4") if wanted[name].dtype == np.float64 else wanted[name]
            assert sample[f"{name}.npy"].dtype == given.dtype
            assert np.array_equal(sample[f"{name}.npy"], given)


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("validation", "val"), ("test", "test")])
def test_energon(small_set, split, theirs):
    from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset, stateless

    class Samples(DefaultTaskEncoder):
        cookers = [Cooker(stateless(lambda sample: sample))]  # noqa: RUF012

    dataset = get_val_dataset(
        str(small_set.path),
        split_part=theirs,
        batch_size=None,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=Samples(),
    )
    found = {}
    for sample in get_loader(dataset):
        arrays = {name: value.numpy() for name, value in members(sample).items() if name != "json"}
        found[sample["__key__"]] = {**arrays, "json": sample["json"]}
    check(found, small_set, split)


def test_dali_index_says_where_each_member_lies(small_set):
    """As NVIDIA's wds2idx writes it: a line for each sample, with extension, place, size and name of every member."""
    for shard in small_set.split("train"):
        head, *lines = (small_set.path / shard).with_suffix(".idx").read_text().splitlines()
        content = (small_set.path / shard).read_bytes()
        with tarfile.open(small_set.path / shard) as tar:
            listed = [(entry.name, entry.offset_data, entry.size) for entry in tar]
        found = []
        for line in lines:
            words = line.split(" ")
            for extension, offset, size, name in zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True):
                assert name.partition(".")[2] == extension
                assert content[int(offset) - 512 :].startswith(name.encode())
                found.append((name, int(offset), int(size)))
        assert head == f"v1.2 {len(lines)}"
        assert found == listed


def test_sizes_of_the_shards(small_set):
    sizes = json.loads((small_set.path / "sizes.json").read_text())
    assert sizes == {
        shard["name"]: shard["samples"] for part in small_set.manifest["splits"].values() for shard in part["shards"]
    }


def test_names_of_shards_give_zoobot_the_size_of_a_set(tmp_path):
    """It takes what follows the last underscore of each name, and wants all of them together to be a multiple of the batch."""
    rule = RECIPE.shards.model_copy(update={"count_in_name": True, "multiple_of": 8, "samples_per_shard": 16})
    made = make_small_set(tmp_path, RECIPE.model_copy(update={"shards": rule}))
    for split in SPLITS:
        names = made.split(split)
        sizes = [int(name.removesuffix(".tar").split("_")[-1]) for name in names]
        assert sizes == [len(pq.read_table((made.path / name).with_suffix(".parquet"))) for name in names]
        assert sum(sizes) % 8 == 0
        assert sum(sizes) == made.manifest["splits"][split]["samples"]


def test_the_index_in_hugging_face_datasets(small_set, offline):
    from datasets import load_dataset

    path = str(small_set.path / "index/samples.parquet")
    rows = load_dataset("parquet", data_files=path, split="train", cache_dir=offline)
    assert sorted(rows["key"]) == sorted(small_set.samples)
    assert rows["offset"] == pq.read_table(path)["offset"].to_pylist()


def test_the_index_in_lsdb(small_set):
    import lsdb
    from hats.io.validation import is_valid_catalog

    assert is_valid_catalog(small_set.path / "index", strict=True)
    frame = pd.read_parquet(small_set.path / "index/samples.parquet").set_index("key")
    catalog = lsdb.open_catalog(str(small_set.path / "index"))
    found = catalog.compute().set_index("key")
    assert sorted(found.index) == sorted(frame.index)
    assert found["offset"].to_dict() == frame["offset"].to_dict()
    middle = frame.iloc[30]
    near = catalog.cone_search(ra=middle["ra"], dec=middle["dec"], radius_arcsec=3600).compute()
    assert middle.name in set(near["key"])
    assert set(near["shard"]) <= set(frame["shard"])


def test_the_index_in_polars(small_set):
    table = pl.read_parquet(small_set.path / "index/samples.parquet")
    expected = pq.read_table(small_set.path / "index/samples.parquet")
    assert table["digest"].to_list() == expected["digest"].to_pylist()
    assert table["offset"].to_list() == expected["offset"].to_pylist()
    assert table.filter(pl.col("has_curves"))["key"].to_list() == [
        row["key"] for row in expected.to_pylist() if row["has_curves"]
    ]
    beside = pl.read_parquet(small_set.path / "*.parquet")
    assert sorted(beside["key"]) == sorted(table["key"])


def test_the_index_in_duckdb_and_pandas_points_into_the_shards(small_set):
    path = small_set.path / "index/samples.parquet"
    counted = duckdb.sql(f"select split, count(*), count(distinct key) from '{path}' group by split").fetchall()
    assert {split: samples for split, samples, _ in counted} == {s: small_set.manifest["splits"][s]["samples"] for s in SPLITS}
    assert all(samples == keys for _, samples, keys in counted)
    table = pd.read_parquet(path)
    assert table["_healpix_29"].is_monotonic_increasing
    for row in table.iloc[::7].itertuples():
        with open(small_set.path / row.shard, "rb") as file:
            file.seek(row.offset)
            sample = file.read(row.nbytes)
        wanted = small_set.samples[row.key]
        *arrays, record = [sample[start : start + size] for start, size in zip(row.member_offset, row.member_nbytes, strict=True)]
        assert json.loads(record) == wanted.record
        for content, array in zip(arrays, wanted.arrays.values(), strict=True):
            assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), array)


def test_the_index_has_every_scalar_typed(small_set):
    table = pq.read_table(small_set.path / "index/samples.parquet")
    names = [scalar["name"] for scalar in small_set.manifest["scalars"]]
    for key, record in zip(table["key"].to_pylist(), table.select(names).to_pylist(), strict=True):
        assert record == small_set.samples[key].record


def test_the_code_on_the_card_runs(small_set, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (small_set.path / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(small_set.path)
    given: dict = {}
    for part in code.replace("path/to/this/folder", str(small_set.path)).split("\n\n"):
        exec(part, given)
        if "data" in given:
            assert next(iter(given.pop("data")))["json"]["imager_object_id"].startswith("I.")
    assert len(given["rows"]) == len(small_set.samples)

"""Batches of a rank: every sample once an epoch, the same from any point on, with numpy, torch and webdataset."""

import gc
import pickle
import subprocess
import sys
from itertools import chain, islice

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.loader import ShardDataset, ShardLoader
from mmu_pipeline.loader.buffers import Buffers
from mmu_pipeline.loader.tensors import tensor_of, to_torch
from mmu_pipeline.loader.torch_data import Batches, collate
from tests.small_set import SmallSet, make_small_set
from tests.test_loader_dataset import flip, place_of


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def dataset(small_set) -> ShardDataset:
    return ShardDataset(small_set.path)


@pytest.fixture(scope="module")
def bare(small_set) -> ShardDataset:
    """No arrays: for tests of the order alone."""
    return ShardDataset(small_set.path, members=[], columns=[])


def rows_of(batches) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


@pytest.mark.parametrize("shuffle", ["global", "block", None])
def test_an_epoch_holds_every_sample_once_and_the_next_one_another_order(dataset, shuffle):
    loader = ShardLoader(dataset, 8, seed=3, shuffle=shuffle, block=5, window=2)
    first, second = rows_of(loader), rows_of(loader)
    for epoch in (first, second):
        assert len(epoch) == len(loader) == -(-len(dataset) // 8)
        assert sorted(chain.from_iterable(epoch)) == list(range(len(dataset)))
    assert (first == second) == (shuffle is None)
    assert loader.epoch == 2
    loader.set_epoch(0)
    assert rows_of(loader) == first
    assert rows_of(ShardLoader(dataset, 8, seed=4, shuffle=shuffle, block=5, window=2)) != first or shuffle is None


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_those_of_the_dataset_whatever_the_threads(dataset, threads):
    for batch in ShardLoader(dataset, 16, seed=1, threads=threads, ragged="packed"):
        wanted = dataset.batch(batch["row"], ragged="packed")
        assert batch.keys() == wanted.keys()
        for name, value in wanted.items():
            assert np.array_equal(batch[name], value, equal_nan=isinstance(value, np.ndarray) and value.dtype.kind == "f"), name


@pytest.mark.parametrize("last", ["share", "drop", "pad", "repeat"])
def test_ranks_get_as_many_batches(dataset, last):
    passes = [rows_of(ShardLoader(dataset, 7, rank=rank, world=4, last=last)) for rank in range(4)]
    assert len({len(batches) for batches in passes}) == 1
    seen = np.bincount([row for batches in passes for batch in batches for row in batch], minlength=len(dataset))
    wanted = {"share": {1}, "drop": {0, 1}, "pad": {1, 2}, "repeat": {1, 2}}[last]
    assert set(seen) == wanted


def test_padding_is_flagged(dataset):
    batches = [batch for rank in range(4) for batch in ShardLoader(dataset, 7, rank=rank, world=4, last="pad")]
    flags = np.concatenate([batch["padding"] for batch in batches])
    rows = np.concatenate([batch["row"] for batch in batches])
    assert sorted(rows[~flags]) == list(range(len(dataset)))
    assert flags.any()


@pytest.mark.parametrize("stop", [0, 1, 5])
@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_a_pass_goes_on_exactly_where_it_was(dataset, stop, shuffle):
    loader = ShardLoader(dataset, 8, seed=2, shuffle=shuffle, block=6, window=3)
    rows_of(loader)
    uninterrupted = rows_of(loader)
    loader.set_epoch(1)
    batches = iter(loader)
    for _ in range(stop):
        next(batches)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    resumed = ShardLoader(dataset, 8, seed=2, shuffle=shuffle, block=6, window=3)
    resumed.load_state_dict(state)
    assert len(resumed) == len(uninterrupted) - stop
    assert rows_of(resumed) == uninterrupted[stop:]
    assert resumed.epoch == 2


def test_it_goes_on_with_other_ranks_and_another_batch_size(dataset):
    seen, state = [], None
    for world, size, steps in ((2, 4, 3), (5, 3, 2), (1, 10, 1000)):
        for rank in range(world):
            loader = ShardLoader(dataset, size, seed=2, rank=rank, world=world)
            if state is not None:
                loader.load_state_dict(state)
            for number, batch in enumerate(loader, 1):
                seen += batch["row"].tolist()
                after = loader.state_dict()
                if number == steps:
                    break
        state = after
    assert sorted(seen) == list(range(len(dataset)))
    assert state["epoch"] == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 12), st.integers(1, 5), st.sampled_from(["global", "block", None]))
def test_any_world_threads_and_step_of_resume_cover_every_sample_once(bare, world, threads, stop, then, shuffle):
    """On `world` ranks up to the step `stop`, on `then` ranks from there."""
    seen, state = [], {"epoch": 0}
    for rank in range(world):
        loader = ShardLoader(bare, 6, seed=1, rank=rank, world=world, threads=threads, shuffle=shuffle)
        state = loader.state_dict()
        for batch in islice(loader, stop):
            seen += batch["row"].tolist()
            state = loader.state_dict()
    for rank in range(then if state["epoch"] == 0 else 0):
        loader = ShardLoader(bare, 5, seed=1, rank=rank, world=then, threads=threads, shuffle=shuffle)
        loader.load_state_dict(state)
        seen += chain.from_iterable(rows_of(loader))
    assert sorted(seen) == list(range(len(bare)))


def test_a_pass_that_is_broken_off_starts_anew(dataset):
    loader = ShardLoader(dataset, 8)
    first = [next(iter(loader))["row"].tolist() for _ in range(3)]
    assert first[0] == first[1] == first[2] == rows_of(loader)[0]


def test_the_state_after_the_last_batch_is_the_next_epoch(dataset):
    loader = ShardLoader(dataset, 8)
    for _ in loader:
        state = loader.state_dict()
    assert (state["epoch"], state["dealt"]) == (1, 0)


def test_a_state_of_other_samples_or_another_seed_is_refused(dataset, small_set):
    state = ShardLoader(dataset, 8, seed=1).state_dict()
    for other in (
        ShardLoader(dataset, 8, seed=2),
        ShardLoader(dataset, 8, seed=1, shuffle="block"),
        ShardLoader(ShardDataset(small_set.path, where="has_curves"), 8, seed=1),
    ):
        with pytest.raises(BadInput, match="another order"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    "wrong", [{"rank": 1}, {"rank": 2, "world": 2}, {"last": "keep"}, {"shuffle": "some"}, {"batch_size": 0}]
)
def test_wrong_arguments_are_refused_at_once(dataset, wrong):
    with pytest.raises(BadInput):
        ShardLoader(dataset, **{"batch_size": 4} | wrong)


def test_broken_samples_raise_or_are_counted_up_to_a_number(tmp_path):
    small_set = make_small_set(tmp_path)
    whole = ShardDataset(small_set.path)
    for row in (3, 30, 31):
        shard, offset = place_of(whole, row)
        flip(small_set.path / shard, offset + 1000)
    dataset = ShardDataset(small_set.path, check=True)
    with pytest.raises(BrokenArtefact, match="digest"):
        list(ShardLoader(dataset, 8))
    with pytest.raises(BrokenArtefact, match="more than 2 broken samples"):
        list(ShardLoader(dataset, 8, most_faults=2))
    loader = ShardLoader(dataset, 8, most_faults=3, last="pad")
    batches = list(loader)
    rows = np.concatenate([batch["row"][~batch["padding"]] for batch in batches])
    assert sorted(rows) == sorted(set(range(len(dataset))) - {3, 30, 31})
    assert {error.where["row"] for error in loader.faults.found} == {3, 30, 31}
    assert all(len(batch["padding"]) == len(batch["imager.image"]) for batch in batches)


def test_an_error_of_a_transform_reaches_the_loop_and_threads_end(dataset):
    def transform(batch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ShardLoader(dataset, 8, transform=transform))
    loader = ShardLoader(dataset, 50, last="drop", transform=lambda batch: batch["imager.profile"])
    assert [profile.shape for profile in loader] == [(50, 5)] * (len(dataset) // 50)


def test_memory_is_used_again_only_when_no_array_is_left(dataset):
    buffers = Buffers()
    batch = dataset.batch(np.arange(8), memory=buffers.take)
    kept, image = batch["imager.profile"][2], batch["imager.image"].copy()
    address = batch["imager.image"].ctypes.data
    del batch
    gc.collect()
    other = dataset.batch(np.arange(8, 16), memory=buffers.take)
    assert other["imager.image"].ctypes.data != address
    assert np.array_equal(kept, dataset[2]["imager.profile"])
    del kept
    gc.collect()
    again = dataset.batch(np.arange(8), memory=buffers.take)
    assert again["imager.image"].ctypes.data == address
    assert np.array_equal(again["imager.image"], image)


def test_held_batches_stay_as_they_were(dataset):
    loader = ShardLoader(dataset, 8, seed=1, ahead=2)
    for batch in list(loader):
        assert np.array_equal(batch["imager.image"], dataset.batch(batch["row"])["imager.image"])


def test_tensors_share_the_memory_of_the_batch(dataset):
    loader = ShardLoader(dataset, 8, output="torch", ragged="list")
    for batch in loader:
        wanted = dataset.batch(batch["row"].numpy(), ragged="list")
        assert batch["imager.image"].dtype == torch.float32
        assert batch["imager.image_mask"].dtype == batch["has_curves"].dtype == torch.bool
        assert np.array_equal(batch["imager.image"].numpy(), wanted["imager.image"])
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(batch["curves.noise"], wanted["curves.noise"], strict=True))
        assert batch["key"] == wanted["key"]


def test_packed_tensors_are_nested_ones_without_a_copy(dataset):
    batch = next(iter(ShardLoader(dataset, 8, output="torch", ragged="packed")))
    nested = torch.nested.nested_tensor_from_jagged(batch["curves.flux"], batch["curves.flux.offsets"])
    wanted = dataset.batch(batch["row"].numpy(), ragged="list")["curves.flux"]
    assert nested.values().data_ptr() == batch["curves.flux"].data_ptr()
    assert all(np.array_equal(one.numpy(), other) for one, other in zip(nested.unbind(), wanted, strict=True))


def test_arrays_in_the_memory_of_a_tensor_become_parts_of_it():
    memory = torch.arange(256, dtype=torch.uint8)
    array = memory.numpy()[64:128].view("<f4").reshape(4, 4)
    tensor = tensor_of(array)
    assert tensor.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr()
    assert np.array_equal(tensor.numpy(), array)
    assert to_torch({"a": array, "key": ["x"]})["key"] == ["x"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_dataset_in_a_torch_data_loader(dataset, small_set, workers):
    chosen = ShardDataset(small_set.path, members=["imager.image", "curves.flux"], columns=["imager_mag", "imager_n_visits"])
    seen = []
    for batch in DataLoader(chosen, 8, shuffle=True, num_workers=workers, collate_fn=collate(chosen)):
        assert batch["imager.image"].shape[1:] == (3, 8, 8)
        assert batch["curves.flux.mask"].dtype == torch.bool
        assert batch["imager_mag"].dtype == torch.float32
        seen += batch["key"]
    assert sorted(seen) == sorted(sample["key"] for sample in chosen)
    assert len(next(iter(DataLoader(ShardDataset(small_set.path, members=["imager"], columns=[]), 4)))["imager.image"]) == 4


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_loader_in_the_workers_of_a_torch_data_loader(dataset, workers):
    loader = ShardLoader(dataset, 8, seed=5)
    wanted = rows_of(ShardLoader(dataset, 8, seed=5))
    found = DataLoader(Batches(loader), batch_size=None, num_workers=workers)
    assert rows_of(found) == wanted


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_in_a_webdataset_pipeline(dataset, small_set, workers):
    loader = ShardLoader(dataset, 8, seed=5)
    pipeline = wds.DataPipeline(loader.samples, wds.map(lambda sample: sample | {"n": sample["imager.image.npy"].sum()}))
    found = {sample["__key__"]: sample for sample in DataLoader(pipeline, batch_size=None, num_workers=workers)}
    assert len(found) == len(dataset)
    urls = [str(small_set.path / name) for name in small_set.split("train")]
    for sample in wds.WebDataset(urls, shardshuffle=False).decode():
        ours = found[sample["__key__"]]
        assert ours["json"] == sample["json"]
        for name in ("imager.image.npy", "curves.time.npy"):
            assert np.array_equal(ours[name], sample[name])


def test_the_rank_is_that_of_torch_distributed(dataset, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        loader = ShardLoader(dataset, 8)
        assert (loader.rank, loader.world) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_numpy_needs_no_torch(small_set):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mmu_pipeline.loader import ShardDataset, ShardLoader\n"
        f"print(sum(len(batch['key']) for batch in ShardLoader(ShardDataset({str(small_set.path)!r}), 8)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == small_set.manifest["splits"]["train"]["samples"]

"""The order of samples: permutations that are not stored, and batches dealt to ranks so that each sample comes once."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader.deal import Deal, Progress, progress_of
from mmu_pipeline.loader.order import BlockShuffle, GlobalShuffle, InSequence, order_of
from mmu_pipeline.loader.permutation import key_of, permuted

ORDERS = st.sampled_from(["global", "block", None])


@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_every_key_gives_a_permutation(size, key):
    assert np.array_equal(np.sort(permuted(np.arange(size), size, key)), np.arange(size))


def test_a_place_goes_where_it_goes_whatever_is_asked_beside_it():
    whole = permuted(np.arange(1000), 1000, 5)
    some = np.array([999, 0, 17, 17])
    assert np.array_equal(permuted(some, 1000, 5), whole[some])
    keys = np.array([5, 6, 5, 6], np.uint64)
    assert np.array_equal(permuted(some, 1000, keys)[[0, 2]], whole[[999, 17]])


@pytest.mark.parametrize("size", [7, 64, 100])
def test_permutations_look_random(size):
    """Each row comes equally often at each position, and neighbours do not stay together."""
    rounds = 4000
    found = np.array([permuted(np.arange(size), size, key_of(number)) for number in range(rounds)])
    for position in (0, size // 2, size - 1):
        counts = np.bincount(found[:, position], minlength=size)
        chi2 = np.sum((counts - rounds / size) ** 2 / (rounds / size))
        assert abs(chi2 - (size - 1)) < 6 * np.sqrt(2 * (size - 1))
    together = np.mean(np.diff(found, axis=1) == 1)
    assert abs(together - 1 / size) < 6 / np.sqrt(rounds)


@given(ORDERS, st.integers(0, 3000), st.integers(0, 9), st.integers(0, 3), st.integers(1, 70), st.integers(1, 9))
def test_an_epoch_visits_every_row_once(shuffle, samples, seed, epoch, block, window):
    order = order_of(shuffle, samples, seed, block, window)
    assert np.array_equal(np.sort(order.rows(epoch, np.arange(samples))), np.arange(samples))


@pytest.mark.parametrize("kind", [GlobalShuffle, BlockShuffle])
def test_seeds_and_epochs_give_other_orders_and_the_same_ones_again(kind):
    places = np.arange(100_000)
    first, again = kind(len(places), 1).rows(0, places), kind(len(places), 1).rows(0, places)
    assert np.array_equal(first, again)
    for other in (kind(len(places), 1).rows(1, places), kind(len(places), 2).rows(0, places)):
        assert np.mean(other == first) < 0.001
        assert abs(np.corrcoef(other, first)[0, 1]) < 0.05


def test_block_shuffle_keeps_few_blocks_in_play():
    order = BlockShuffle(100_000, seed=3, block=100, window=10)
    rows = order.rows(2, np.arange(100_000)).reshape(-1, 1000)
    first = key_of(3, 2, "first") % 100_000
    for window in rows:
        assert len(np.unique((window - first) % 100_000 // 100)) == 10
    assert np.mean(np.diff(rows, axis=1) == 1) < 0.01


DEALS = {
    "samples": st.integers(0, 400),
    "batch": st.integers(1, 20),
    "world": st.integers(1, 9),
    "last": st.sampled_from(["share", "drop", "pad", "repeat"]),
}


@given(**DEALS)
def test_all_ranks_get_as_many_batches_and_every_sample_comes_once(samples, batch, world, last):
    deal = Deal(samples, batch, world, last)
    dealt = [[deal.positions(step, rank) for step in range(deal.steps)] for rank in range(world)]
    sizes = np.array([[len(part) for part in rank] for rank in dealt]).reshape(world, deal.steps)
    assert sizes.max(initial=0) <= batch
    everything = np.concatenate([np.zeros(0, int), *(part for rank in dealt for part in rank)])
    first = np.sort(everything[everything < samples])
    if last == "drop":
        assert np.array_equal(first, np.arange(samples // (batch * world) * batch * world))
    else:
        assert np.array_equal(first, np.arange(samples))
    if last == "share":
        assert everything.max(initial=-1) < samples
        if samples >= world and (batch > 1 or samples % world == 0 or samples < world):
            assert sizes.min(initial=1) > 0
    else:
        assert np.all(sizes == batch)
        assert len(everything) - samples < batch * world


@settings(max_examples=300)
@given(
    **DEALS,
    shuffle=ORDERS,
    resumed=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 7), st.integers(1, 15)), max_size=4),
)
def test_resumed_anywhere_on_any_ranks_every_sample_comes_once(samples, batch, world, last, shuffle, resumed):
    order, progress, seen = order_of(shuffle, samples, seed=7, block=16, window=3), Progress(epoch=2), []
    legs = [*resumed, (10**6, world, batch)]
    for steps, ranks, size in legs:
        deal = Deal(samples, size, ranks, "share" if last in ("drop", "pad") else last, progress.dealt)
        for step in range(min(steps, deal.steps)):
            for rank in range(ranks):
                positions = deal.positions(step, rank)
                seen.append(order.rows(2, positions[positions < samples]))
        after = progress.after(deal, min(steps, deal.steps))
        if after.epoch == 3:
            break
        progress = progress_of(after.state(seed=7), seed=7)
    assert np.array_equal(np.sort(np.concatenate([np.zeros(0, int), *seen])), np.arange(samples))
    assert after == Progress(3, 0)


def test_fewer_samples_than_ranks_at_the_end_are_joined_to_the_step_before():
    sizes = [[len(Deal(34, 4, 4).positions(step, rank)) for rank in range(4)] for step in range(3)]
    assert sizes == [[4, 4, 4, 4], [2, 2, 2, 3], [2, 2, 2, 3]]


def test_a_state_of_another_order_is_refused():
    state = Progress(1, 64).state(seed=1, samples=100)
    with pytest.raises(BadInput, match="another order") as caught:
        progress_of(state, seed=2, samples=100)
    assert "seed: 1, here 2" in str(caught.value)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 1, "last": "keep"}, {"batch_size": 1, "start": 11}])
def test_impossible_deals_are_refused(arguments):
    with pytest.raises(BadInput):
        Deal(10, **arguments)
    with pytest.raises(BadInput):
        order_of("random", 10, 0)
    with pytest.raises(BadInput):
        BlockShuffle(10, block=0)


@pytest.mark.parametrize("shuffle", ["global", "block", None])
def test_resume_among_a_hundred_million_samples_takes_no_time(shuffle):
    start = time.perf_counter()
    order, deal = order_of(shuffle, 100_000_000, seed=1), Deal(100_000_000, 256, 64, start=61_000_000)
    rows = order.rows(4, deal.positions(1000, 13))
    assert time.perf_counter() - start < 0.05
    assert len(np.unique(rows)) == 256


def test_in_sequence_is_in_sequence():
    assert np.array_equal(InSequence(5).rows(3, np.array([4, 0])), [4, 0])

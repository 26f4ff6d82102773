"""The plan deals every sample once, into equal shards, in an order that only keys and seed decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.catalog import ShardRule
from mmu_pipeline.shards.plan import PieceSizes, ShardPlan, plan_shards, tied, without
from mmu_pipeline.shards.splits import SPLITS


def pieces_of(rng: np.random.Generator, counts: list[int], splits: int = 3) -> list[PieceSizes]:
    return [
        PieceSizes(
            rng.integers(0, splits, count).astype(np.int8),
            rng.integers(0, 2**63, count, dtype=np.uint64),
            512 * rng.integers(2, 400, count),
        )
        for count in counts
    ]


def check(plan: ShardPlan, pieces: list[PieceSizes]) -> None:
    """Each sample stands in one shard of its split, where the plan says, in training order."""
    total = sum(len(piece.nbytes) for piece in pieces)
    assert sorted(plan.by_shard) == list(range(total))
    split = np.concatenate([piece.split for piece in pieces])
    order = np.concatenate([piece.order for piece in pieces])
    nbytes = np.concatenate([piece.nbytes for piece in pieces])
    for number, name in enumerate(plan.names):
        rows, ranges = plan.samples(number), plan.ranges(number)
        assert name.startswith(f"{plan.splits[number]}-")
        assert {SPLITS[code] for code in split[rows]} == {plan.splits[number]}
        assert np.array_equal(order[rows], np.sort(order[rows]))
        assert np.array_equal(ranges.nbytes, nbytes[rows])
        for row, piece, offset in zip(rows, ranges.piece, ranges.offset, strict=True):
            inside = row - plan.first[piece]
            assert 0 <= inside < len(pieces[piece].nbytes)
            assert offset == pieces[piece].nbytes[:inside].sum()
    for name in SPLITS:
        sizes = [len(plan.samples(number)) for number in range(len(plan.names)) if plan.splits[number] == name]
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert sum(sizes) == (split == SPLITS.index(name)).sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 40), st.integers(1, 3))
def test_every_sample_is_dealt_once_into_shards_of_equal_size(seed, counts, per_shard, splits):
    pieces = pieces_of(np.random.default_rng(seed), counts, splits)
    plan = plan_shards(pieces, ShardRule(samples_per_shard=per_shard))
    check(plan, pieces)
    assert all(len(plan.samples(number)) <= per_shard for number in range(len(plan.names)))


def test_the_number_of_shards_follows_from_the_target_size():
    pieces = pieces_of(np.random.default_rng(1), [400, 0, 300, 300])
    plan = plan_shards(pieces, ShardRule(target_bytes=5_000_000))
    check(plan, pieces)
    total = sum(int(piece.nbytes.sum()) for piece in pieces)
    assert total / 5e6 <= len(plan.names) <= total / 5e6 + 3
    sizes = [plan.ranges(number).nbytes.sum() for number in range(len(plan.names))]
    assert max(sizes) < 1.2 * 5e6


def test_shards_are_named_by_split_and_number():
    plan = plan_shards(pieces_of(np.random.default_rng(2), [100]), ShardRule(samples_per_shard=20))
    assert plan.names[:2] == ("train-000000.tar", "train-000001.tar")
    assert "test-000000.tar" in plan.names
    assert len(set(plan.names)) == len(plan.names)


def test_how_samples_are_cut_into_pieces_does_not_matter():
    (whole,) = pieces_of(np.random.default_rng(3), [200])
    cut = [
        PieceSizes(whole.split[part], whole.order[part], whole.nbytes[part])
        for part in (slice(0, 70), slice(70, 70), slice(70, 200))
    ]
    one, other = (plan_shards(pieces, ShardRule(samples_per_shard=16)) for pieces in ([whole], cut))
    assert one.names == other.names
    for name in ("by_shard", "bounds"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_neighbours_in_the_sky_are_spread_over_the_shards():
    pieces = pieces_of(np.random.default_rng(4), [500] * 8, splits=1)
    plan = plan_shards(pieces, ShardRule(samples_per_shard=500))
    counts = np.array([np.bincount(plan.ranges(number).piece, minlength=8) for number in range(len(plan.names))])
    assert counts.min() > 30


def test_equal_places_are_told_and_keep_sky_order():
    order = np.array([5, 1, 5, 7], np.uint64)
    pieces = [PieceSizes(np.zeros(2, np.int8), half, np.full(2, 1024)) for half in (order[:2], order[2:])]
    plan = plan_shards(pieces, ShardRule(samples_per_shard=10))
    assert plan.by_shard.tolist() == [1, 0, 2, 3]
    assert tied(order).tolist() == [0, 2]


def test_nothing_to_plan():
    plan = plan_shards([], ShardRule())
    assert plan.names == ()
    assert len(plan.by_shard) == 0


@pytest.mark.slow
def test_a_million_samples_in_little_memory():
    pieces = pieces_of(np.random.default_rng(5), [1000] * 1000)
    plan = plan_shards(pieces, ShardRule(samples_per_shard=5000))
    held = sum(array.nbytes for array in (plan.by_shard, plan.start, plan.first))
    assert held < 17e6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(1, 50), st.integers(1, 16), st.integers(1, 6))
def test_shards_of_a_multiple_are_filled_with_repeats_and_nothing_is_dropped(seed, count, per_shard, multiple, world):
    pieces = pieces_of(np.random.default_rng(seed), [count])
    rule = ShardRule(samples_per_shard=per_shard, multiple_of=multiple, world_size=world)
    plan = plan_shards(pieces, rule)
    assert sorted(np.delete(plan.by_shard, plan.repeats)) == list(range(count))
    for code, name in enumerate(SPLITS):
        shards = [number for number, split in enumerate(plan.splits) if split == name]
        sizes = [len(plan.samples(number)) for number in shards]
        here = int((pieces[0].split == code).sum())
        unit = multiple if here > 1 else 1
        assert all(size % unit == 0 for size in sizes)
        assert 0 <= sum(sizes) - here < unit
        assert not sizes or max(sizes) - min(sizes) <= unit
        assert len(shards) % world == 0 or -(-here // unit) < -(-len(shards) // world) * world
    for number in range(len(plan.names)):
        keys = plan.samples(number)
        assert not (keys[1:] == keys[:-1]).any()  # neighbours with one key would be read as one sample


@pytest.mark.parametrize("multiple", [1, 8])
def test_every_shard_gets_its_share_of_each_stratum(multiple):
    rng = np.random.default_rng(6)
    (piece,) = pieces_of(rng, [3000], splits=2)
    strata = rng.choice(4, 3000, p=[0.6, 0.3, 0.09, 0.01])
    plan = plan_shards([piece], ShardRule(samples_per_shard=200, multiple_of=multiple), strata)
    assert sorted(np.delete(plan.by_shard, plan.repeats)) == list(range(3000))
    for name in ("train", "validation"):
        shards = [number for number, split in enumerate(plan.splits) if split == name]
        counts = np.array([np.bincount(strata[plan.samples(number)], minlength=4) for number in shards])
        assert (np.ptp(counts, axis=0) <= (2 if multiple == 1 else 2 * multiple)).all()
    if multiple == 1:
        check(plan, [piece])


def test_samples_that_are_not_to_be_dealt_go_nowhere():
    pieces = without(pieces_of(np.random.default_rng(7), [50, 50]), [3, 70])
    plan = plan_shards(pieces, ShardRule(samples_per_shard=10))
    assert sorted(plan.by_shard) == sorted({*range(100)} - {3, 70})

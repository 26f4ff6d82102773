"""Draws from several sets, or strata of one, by weight: exact shares, every row in its turn, the same from any point on."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader import ShardDataset, ShardLoader
from mmu_pipeline.loader.mixing import CYCLE, Mixture, mixed, strata
from tests.small_set import SmallSet, make_small_set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


def groups_of(*sizes: int) -> tuple[np.ndarray, ...]:
    ends = np.cumsum(sizes)
    return tuple(np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True))


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0.01, 10)), min_size=1, max_size=5), st.booleans(), st.integers(0, 99))
def test_shares_are_those_of_the_weights(parts, replacement, seed):
    sizes, weights = zip(*parts, strict=True)
    order = Mixture(groups_of(*sizes), weights, 3 * CYCLE, seed, replacement)
    rows = order.rows(0, np.arange(3 * CYCLE))
    owner = np.searchsorted(np.cumsum(sizes), rows, side="right")
    counts = np.bincount(owner, minlength=len(sizes))
    assert np.all(np.abs(counts / 3 - np.array(weights) / sum(weights) * CYCLE) < 1)


def test_every_row_of_a_group_comes_before_any_comes_again_across_epochs():
    order = Mixture(groups_of(700, 90), (2.0, 1.0), samples=5000, seed=1)
    rows = np.concatenate([order.rows(epoch, np.arange(5000)) for epoch in range(3)])
    for group in order.groups:
        drawn = rows[np.isin(rows, group)]
        for turn in np.split(drawn, np.arange(len(group), len(drawn), len(group)))[:-1]:
            assert np.array_equal(np.sort(turn), group)
    assert not np.array_equal(rows[:5000], rows[5000:10000])


def test_with_replacement_rows_come_as_chance_has_it():
    order = Mixture(groups_of(1000), (1.0,), samples=1000, seed=1, replacement=True)
    drawn = np.unique(order.rows(0, np.arange(1000)))
    assert abs(len(drawn) - 632) < 60
    many = order.rows(0, np.arange(200_000))
    chi2 = np.sum((np.bincount(many, minlength=1000) - 200) ** 2 / 200)
    assert abs(chi2 - 999) < 6 * np.sqrt(2 * 999)


def test_any_part_is_the_same_asked_for_alone():
    order = Mixture(groups_of(70, 3000, 11), (1, 2, 0.5), samples=9000, seed=4)
    whole = order.rows(1, np.arange(9000))
    some = np.array([8999, 0, 4095, 4096, 17])
    assert np.array_equal(order.rows(1, some), whole[some])
    assert np.array_equal(order.rows(0, np.arange(9000, 9100)), order.rows(1, np.arange(100)))


def test_sets_are_mixed_and_resumed(small_set):
    parts = [ShardDataset(small_set.path, split) for split in ("train", "test")]
    dataset, order = mixed(parts, [3, 1], samples=400, seed=2)
    loader = ShardLoader(dataset, 16, order=order)
    batches = [batch["row"].tolist() for batch in loader]
    assert sum(map(len, batches)) == 400
    share = np.mean(np.concatenate(batches) < len(parts[0]))
    assert 0.65 < share < 0.85
    again = ShardLoader(dataset, 16, order=mixed(parts, [3, 1], samples=400, seed=2)[1])
    state = None
    for _ in itertools.islice(again, 9):
        state = again.state_dict()
    resumed = ShardLoader(dataset, 16, order=order)
    resumed.load_state_dict(state)
    assert [batch["row"].tolist() for batch in resumed] == batches[9:]
    with pytest.raises(BadInput, match="another order"):
        ShardLoader(dataset, 16, order=mixed(parts, [1, 1], samples=400, seed=2)[1]).load_state_dict(state)


def test_strata_of_a_column_come_alike(small_set):
    dataset = ShardDataset(small_set.path, columns=["imager_kind"])
    kinds = set(dataset.table(["imager_kind"])["imager_kind"].to_pylist())
    assert kinds == {"galaxy", "star", None}
    order = strata(dataset, "imager_kind", samples=3 * CYCLE)
    found = dataset.table(["imager_kind"])["imager_kind"].take(order.rows(0, np.arange(3 * CYCLE))).to_pylist()
    assert all(abs(found.count(kind) - CYCLE) <= 3 for kind in kinds)
    stars = strata(dataset, "imager_kind", {"star": 1.0})
    batch = next(iter(ShardLoader(dataset, 8, order=stars)))
    assert batch["imager_kind"] == ["star"] * 8
    with pytest.raises(BadInput, match="quasar"):
        strata(dataset, "imager_kind", {"quasar": 1.0})


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [((3, 4), (1.0,)), ((), ()), ((3, 4), (0.0, 0.0)), ((3, 0), (1.0, 1.0)), ((3,), (float("nan"),)), ((3,), (-1,))],
)
def test_impossible_mixtures_are_refused(sizes, weights):
    with pytest.raises(BadInput):
        Mixture(groups_of(*sizes), weights, 10)

"""float16 and int16 profiles: what is narrowed, how far values move, and that every reader gets them back."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import example, given
from hypothesis import strategies as st

from mmu_pipeline.catalog import Survey
from mmu_pipeline.loader import ShardDataset
from mmu_pipeline.report.shard_set import open_set
from mmu_pipeline.shards.narrow import LARGEST_HALF, Loss, narrowed, stored_dtype, widened
from mmu_pipeline.shards.reshape import ReshardRule
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.stages.reshard import reshard
from mmu_pipeline.stages.verify import verify
from tests.test_pipeline import Sky, run_all
from tests.tiny import recipe_yaml

ANY = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, min_side=0, max_side=9), elements=st.floats(width=32))


@given(ANY)
@example(np.array([5.598269e-39], np.float32))
def test_int16_moves_no_value_by_more_than_half_a_step(values: np.ndarray) -> None:
    stored, scale, loss = narrowed(values, "int16")
    back, finite = widened(stored, scale), np.isfinite(values)
    assert stored.dtype == "<i2"
    assert scale > 0
    assert np.isnan(back[~finite]).all()
    assert (back[values == 0] == 0).all()
    error = np.abs(back[finite].astype(np.float64) - values[finite])
    assert (error <= scale * 0.5 + np.abs(values[finite]) * 2.0**-20).all()
    assert loss.values == finite.sum()
    assert loss.clipped == np.isinf(values).sum()
    assert loss.max_error == error.max(initial=0.0)


@given(ANY)
def test_float16_rounds_and_counts_what_is_beyond_its_range(values: np.ndarray) -> None:
    stored, scale, loss = narrowed(values, "float16")
    back = widened(stored, scale)
    assert (scale, stored.dtype) == (1.0, "<f2")
    assert loss.clipped == (np.abs(values) > LARGEST_HALF).sum()
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert not np.isinf(back).any()
    inside = np.abs(values) <= LARGEST_HALF
    assert (np.abs(back[inside] - values[inside]) <= np.abs(values[inside]) * 2.0**-11 + 2.0**-25).all()


def test_losses_add_up() -> None:
    rng = np.random.default_rng(3)
    parts = [rng.normal(size=50).astype("f4") for _ in range(2)]
    total = Loss().plus(narrowed(parts[0], "float16")[2]).plus(narrowed(parts[1], "float16")[2])
    whole = narrowed(np.concatenate(parts), "float16")[2]
    assert (total.values, total.clipped, total.max_error) == (whole.values, whole.clipped, whole.max_error)
    assert total.report["rms_error"] == pytest.approx(whole.report["rms_error"])
    assert 0 < total.report["rms_error_relative"] < 2**-11
    assert Loss().report["rms_error_relative"] == 0


def test_only_images_and_what_has_an_inverse_variance_are_narrowed() -> None:
    fields = [
        {"name": "image", "dtype": "float32", "shape": [2, 4, 4], "ivar": "image_ivar"},
        {"name": "image_ivar", "dtype": "float32", "shape": [2, 4, 4]},
        {"name": "flux", "dtype": "float32", "shape": ["pixel"], "ivar": "ivar"},
        {"name": "ivar", "dtype": "float32", "shape": ["pixel"]},
        {"name": "wavelength", "dtype": "float32", "shape": ["pixel"], "medium": "vacuum", "unit": "Angstrom"},
        {"name": "mag", "dtype": "float32", "shape": ["observation"], "unit": "mag"},
        {"name": "time", "dtype": "float64", "shape": ["observation"], "unit": "d"},
        {"name": "picture", "dtype": "uint8", "shape": [3, 4, 4]},
    ]
    survey = Survey.model_validate(
        {"name": "s", "title": "S", "modality": "image", "release": "1", "summary": "s", "licence": "none", "citation": "none",
         "forms": {"f": {"reader": "mmu_v1", "files": ["*"]}}, "fields": fields}
    )  # fmt: skip
    stored = {field.name: stored_dtype(survey, field, "int16") for field in survey.fields}
    assert {name for name, dtype in stored.items() if dtype == "int16"} == {"image", "flux"}
    assert all(stored_dtype(survey, field, "float32") == field.dtype for field in survey.fields)


def _built(folder: Path, profile: str) -> Published:
    sky = Sky(folder)
    recipe_yaml(
        folder, "pair", primary={"survey": "one"}, counterparts=[{"survey": "two", "radius_arcsec": 1.0}],
        split={"train": 1, "validation": 0, "test": 0}, shards={"samples_per_shard": 20, "dtype": profile},
    )  # fmt: skip
    return run_all(sky.prepare())[1]


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return _built(tmp_path_factory.mktemp("declared"), "float32")


@pytest.mark.parametrize("profile", ["float16", "int16"])
def test_a_narrowed_set_gives_float32_back(declared: Published, tmp_path: Path, profile: str) -> None:
    whole, published = ShardDataset(declared.url), _built(tmp_path, profile)
    assert published.version != declared.version
    assert verify(published.url, values=None).problems == ()
    narrow = ShardDataset(published.url)
    member = narrow.parts[0].manifest["members"][0]
    assert (member["name"], member["dtype"], member["narrowed_from"]) == ("one.image", profile, "float32")
    assert member["loss"]["values"] == 60 * 32
    assert member["loss"]["clipped"] == 0
    worst = 0.0
    batch = narrow.batch(range(len(narrow)))
    for row, key in enumerate(batch["key"]):
        before, after = whole[row], narrow[row]
        assert (before["key"], after["key"]) == (key, key)
        for name in ("one.image", "two.image"):
            assert after[name].dtype == batch[name].dtype == np.float32
            np.testing.assert_array_equal(batch[name][row], after[name])
        worst = max(worst, float(np.abs(after["one.image"].astype(float) - before["one.image"]).max()))
        shown = open_set(published.url)
        np.testing.assert_array_equal(shown.sample(shown.row_of(key)).arrays["one.image"], after["one.image"])
    assert worst == member["loss"]["max_error"]
    assert 0 < member["loss"]["rms_error"] <= worst
    assert "rounded from float32" in Path(published.url, "README.md").read_text()


def test_a_narrowed_set_is_resharded_as_it_is_and_opens_in_datasets(tmp_path: Path) -> None:
    published = _built(tmp_path, "int16")
    other = reshard([published.url], str(tmp_path / "other"), ReshardRule(samples_per_shard=13, seed=2))
    before, after = ShardDataset(published.url), ShardDataset(other.url)
    assert before.parts[0].manifest["set_digest"] == after.parts[0].manifest["set_digest"]
    images = {sample["key"]: sample["one.image"] for sample in before}
    for sample in after:
        np.testing.assert_array_equal(sample["one.image"], images[sample["key"]])
    for row in load_dataset(other.url, split="train", streaming=True):
        by_hand = np.array(row["one.image.npy"], np.float32) * np.float32(row["json"]["one_image_scale"])
        np.testing.assert_array_equal(by_hand, images[row["__key__"]])

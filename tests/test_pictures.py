"""Surveys that ship JPEG: bytes unchanged from source to shard, opened by the readers that users have, black where absent."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmu_pipeline import jpeg
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenArtefact, BrokenSource
from mmu_pipeline.fields import Field
from mmu_pipeline.loader import ShardDataset, ShardLoader
from mmu_pipeline.readers import objects_of, parquet_table
from mmu_pipeline.report.gallery import card
from mmu_pipeline.report.shard_set import open_set
from mmu_pipeline.report.show import show_sample
from mmu_pipeline.shards.reshape import ReshardRule
from mmu_pipeline.simulate.objects import Objects, invented
from mmu_pipeline.simulate.raw import WRITERS
from mmu_pipeline.simulate.sky import sky_objects
from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.stages.reshard import reshard
from mmu_pipeline.stages.verify import verify
from tests.tiny import recipe_yaml, survey_yaml, write_cells

HUBBLE = load_surveys()["gz_hubble"]
SHAPE = (424, 424, 3)
COUNT = 12


def in_memory(height: int, width: int, seed: int = 0, **how: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", **how)
    return file.getvalue()


def pixels_by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))
def test_a_black_picture_is_a_jpeg_of_its_size_whose_pixels_are_0(height: int, width: int, components: int) -> None:
    content = jpeg.black(height, width, components)
    assert jpeg.size_of(content) == (height, width, components)
    assert not jpeg.pixels_of(content).any()
    assert jpeg.pixels_of(content).shape == (height, width, components)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 2, "optimize": True}, {"comment": b"\xff\xd9"}])
def test_the_size_of_any_jpeg_is_read_from_its_header(how: dict[str, Any]) -> None:
    content = in_memory(37, 52, **how)
    assert jpeg.size_of(content) == (37, 52, 3)
    np.testing.assert_array_equal(jpeg.pixels_of(content), pixels_by_pillow(content))
    for broken in (b"", content[: len(content) // 2], b"PNG" + content, content[:2] + content[-2:]):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.size_of(broken)


@pytest.mark.parametrize(
    "wrong", [{"name": "image"}, {"dtype": "uint8"}, {"shape": [8, 8]}, {"shape": ["byte"]}, {"file_name": {"parquet": "x"}}]
)
def test_a_field_of_another_name_or_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JPEG|jpeg|group|text"):
        Field.model_validate({"name": "jpg", "dtype": "jpeg", "shape": [8, 8, 3]} | wrong)


class Built:
    """A set of a tiny survey with Galaxy Zoo Hubble as counterpart of every second object, and what was put in."""

    def __init__(self, folder: Path) -> None:
        sky = sky_objects(2).slice(20, COUNT)
        self.truth: Objects = invented(HUBBLE, "parquet", sky.slice(0, COUNT // 2), [f"hubble-{at}" for at in range(COUNT // 2)])
        (folder / "hubble").mkdir()
        (self.file,) = WRITERS["gz_hubble", "parquet"](folder / "hubble", self.truth)
        survey_yaml(folder, "tiny", folder / "tiny")
        ids = [f"t{number}" for number in range(COUNT)]
        write_cells(folder / "tiny", sky["ra"].to_pylist(), sky["dec"].to_pylist(), ids)
        recipe = recipe_yaml(
            folder / "recipes", "pictures", primary={"survey": "tiny"},
            counterparts=[{"survey": "gz_hubble", "radius_arcsec": 1.0}], split={"train": 1.0, "validation": 0, "test": 0},
        )  # fmt: skip
        build = prepare(
            str(recipe), root=str(folder / "root"), survey_dirs=[folder], cache=str(folder / "cache"),
            sources={"gz_hubble": str(folder / "hubble")},
        )  # fmt: skip
        claim_root(build)
        for stage in STAGES:
            outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
            assert [outcome.receipt.reason for outcome in outcomes if outcome.status == "set_aside"] == []
            finish_stage(stage, build, outcomes)
        self.url = publish(build).url
        self.path = Path(self.url)
        self.shards = sorted(str(path) for path in self.path.glob("*.tar"))
        self.index = pq.read_table(self.path / "index/samples.parquet").to_pylist()
        given = {one: file.tobytes() for one, file in zip(self.truth.object_ids, self.truth.members["jpg"], strict=True)}
        self.wanted = {row["key"]: given.get(row["gz_hubble_object_id"], jpeg.black(*SHAPE)) for row in self.index}
        assert [row["has_gz_hubble"] for row in self.index].count(True) == COUNT // 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("pictures"))


def agree(found: dict[str, np.ndarray], built: Built) -> None:
    """Pixels of every sample, as uint8 of shape (height, width, 3)."""
    assert found.keys() == built.wanted.keys()
    for key, pixels in found.items():
        np.testing.assert_array_equal(pixels, pixels_by_pillow(built.wanted[key]))


def test_bytes_are_those_of_the_source_and_the_set_passes_its_check(built: Built) -> None:
    place = [member["name"] for member in open_set(built.url).manifest["members"]].index("gz_hubble.jpg")
    for row in built.index:
        with open(built.path / row["shard"], "rb") as file:
            file.seek(row["offset"] + row["member_offset"][place])
            content = file.read(row["member_nbytes"][place])
        assert hashlib.sha256(content).digest() == hashlib.sha256(built.wanted[row["key"]]).digest()
    assert verify(built.url).problems == ()


def test_votes_and_the_published_split_are_columns(built: Built) -> None:
    rows = {row["gz_hubble_object_id"]: row for row in built.index if row["has_gz_hubble"]}
    for at, one in enumerate(built.truth.object_ids):
        assert rows[one]["gz_hubble_upstream_split"] == "train"
        for field in HUBBLE.columns:
            if field.name != "upstream_split":
                assert rows[one][f"gz_hubble_{field.name}"] == built.truth.columns[field.name][at]
    assert len(HUBBLE.columns) == 41


def test_webdataset(built: Built) -> None:
    import webdataset as wds

    for how in ("pil", "rgb8"):
        samples = wds.WebDataset(built.shards, shardshuffle=False, empty_check=False).decode(how)
        agree({sample["__key__"]: np.asarray(sample["gz_hubble.jpg"]) for sample in samples}, built)


def test_webdataset_batches_of_pixels(built: Built) -> None:
    import webdataset as wds

    samples = wds.WebDataset(built.shards, shardshuffle=False, empty_check=False).decode("torchrgb").to_tuple("gz_hubble.jpg")
    (batch,) = next(iter(samples.batched(COUNT)))
    assert tuple(batch.shape) == (COUNT, 3, 424, 424)


def test_wids(built: Built, tmp_path: Path) -> None:
    import wids

    dataset = wids.ShardListDataset(str(built.path / "train.wids.json"), cache_dir=str(tmp_path), keep=True)
    samples = [dataset[at] for at in range(len(dataset))]
    agree({sample["__key__"]: np.asarray(sample[".gz_hubble.jpg"]) for sample in samples}, built)
    dataset.close()


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets(built: Built, streaming: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets.config
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = load_dataset(str(built.path), split="train", streaming=streaming, cache_dir=str(tmp_path))
    assert isinstance(loaded.features["gz_hubble.jpg"], ImageFeature)
    agree({sample["__key__"].rsplit("/", 1)[-1]: np.asarray(sample["gz_hubble.jpg"]) for sample in loaded}, built)
    undecoded = loaded.cast_column("gz_hubble.jpg", ImageFeature(decode=False))
    for sample in undecoded:
        assert sample["gz_hubble.jpg"]["bytes"] == built.wanted[sample["__key__"].rsplit("/", 1)[-1]]


def test_energon(built: Built) -> None:
    from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset, stateless

    class Samples(DefaultTaskEncoder):
        cookers = [Cooker(stateless(lambda sample: sample))]  # noqa: RUF012

    dataset = get_val_dataset(
        built.url, split_part="train", batch_size=None, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=Samples(),
    )  # fmt: skip
    samples = list(get_loader(dataset))
    pixels = {s["__key__"]: np.rint(s["gz_hubble.jpg"].numpy().transpose(1, 2, 0) * 255).astype("u1") for s in samples}
    agree(pixels, built)


def test_our_loader_gives_pixels(built: Built) -> None:
    dataset = ShardDataset(built.url, split="train")
    agree({sample["key"]: sample["gz_hubble.jpg"] for sample in (dataset[row] for row in range(len(dataset)))}, built)
    (batch,) = iter(ShardLoader(dataset, batch_size=COUNT))
    assert (batch["gz_hubble.jpg"].shape, batch["gz_hubble.jpg"].dtype) == ((COUNT, *SHAPE), np.uint8)
    agree(dict(zip(batch["key"], batch["gz_hubble.jpg"], strict=True)), built)
    samples: Iterator[dict[str, Any]] = ShardLoader(dataset, batch_size=5).samples()
    agree({sample["__key__"]: sample["gz_hubble.jpg"] for sample in samples}, built)
    assert set(dataset[0]) >= {"tiny.image", "gz_hubble.jpg"}


def test_a_picture_of_another_size_is_told_when_it_is_read(built: Built, tmp_path: Path) -> None:
    shard = Path(built.shards[0])
    content = bytearray(shard.read_bytes())
    frame = content.index(b"\xff\xc0") + 5
    content[frame : frame + 2] = (200).to_bytes(2)
    copy = tmp_path / "set"
    copy.mkdir()
    for path in built.path.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / shard.name).unlink()
    (copy / shard.name).write_bytes(content)
    assert any("digest" in problem for problem in verify(str(copy)).problems)
    with pytest.raises(BrokenArtefact, match=r"declared size|decoded"):
        list(ShardLoader(ShardDataset(str(copy), split="train"), batch_size=4))


def test_other_shards_of_it_hold_the_same_bytes(built: Built, tmp_path: Path) -> None:
    rule = ReshardRule(samples_per_shard=5, members=("gz_hubble",), where="has_gz_hubble")
    found = reshard([built.url], str(tmp_path / "out"), rule)
    assert verify(found.url).problems == ()
    fresh = open_set(found.url)
    for row in range(fresh.index.num_rows):
        sample = fresh.sample(row)
        assert list(sample.arrays) == ["gz_hubble.jpg"]
        assert sample.arrays["gz_hubble.jpg"].tobytes() == built.wanted[sample.key]
    assert fresh.index.num_rows == COUNT // 2


def test_the_page_and_the_picture_of_a_sample_show_it(built: Built, tmp_path: Path) -> None:
    shard_set = open_set(built.url)
    row = [row["has_gz_hubble"] for row in built.index].index(True)
    (picture,) = [panel for panel in card(shard_set, row).panels if "jpeg" in panel.image]
    assert picture.title == "gz_hubble picture"
    text, path = show_sample(built.url, built.index[row]["key"], tmp_path / "new folder" / "one.png")
    assert "JPEG" in text
    assert Image.open(path).format == "PNG"


def changed(built: Built, folder: Path, row: int, content: bytes | None) -> Path:
    """A copy of the source with another content in place of one picture."""
    table = pq.read_table(built.file)
    images = table["image"].to_pylist()
    images[row]["bytes"] = content
    path = folder / "data/test-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(table.set_column(0, "image", [images]), path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (in_memory(100, 424), "another size"),
        (b"GIF89a", "not a whole JPEG"),
        (None, "not the bytes"),
        (jpeg.START, "not a whole"),
    ],
)
def test_what_is_not_a_picture_as_declared_is_named(built: Built, tmp_path: Path, content: bytes | None, what: str) -> None:
    path = changed(built, tmp_path, 3, content)
    ids = built.truth.object_ids
    with pytest.raises(BrokenSource, match=what) as caught:
        parquet_table.read_arrays(HUBBLE, "parquet", path, np.array([3]), [ids[3]], HUBBLE.members)
    assert (caught.value.where["file"], caught.value.where["column"]) == (path, "jpg")
    arrays = parquet_table.read_arrays(HUBBLE, "parquet", path, np.array([5, 0, 5]), [ids[5], ids[0], ids[5]], HUBBLE.members)
    assert [array.tobytes() for array in arrays["jpg"]] == [built.truth.members["jpg"][row].tobytes() for row in (5, 0, 5)]


def test_the_published_split_is_that_of_the_file(built: Built, tmp_path: Path) -> None:
    table = objects_of(HUBBLE, "parquet", built.file, "data/test-00001-of-00002.parquet").table
    assert set(table["upstream_split"].to_pylist()) == {"test"}
    with pytest.raises(BrokenSource, match="does not tell") as caught:
        objects_of(HUBBLE, "parquet", built.file, "data/validation-0.parquet")
    assert caught.value.where["column"] == "upstream_split"
    with pytest.raises(BrokenSource, match="another object"):
        parquet_table.read_arrays(HUBBLE, "parquet", built.file, np.array([1]), ["nobody"], HUBBLE.members)

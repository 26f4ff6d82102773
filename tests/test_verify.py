"""The check of a set finds whatever was done to it, and names the file and the key."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.check_shard import shard_problems
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.manifest import shards_in
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.stages.build import in_turn
from mmu_pipeline.stages.verify import verify
from mmu_pipeline.storage import Root
from tests.small_set import RECIPE, VERSION, SmallSet, make_small_set


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy of the set to do harm to, LATEST beside it."""
    shutil.copytree(original.path.parent, tmp_path / "recipe")
    return tmp_path / "recipe" / VERSION


def problems(folder: Path) -> str:
    return "\n".join(verify(str(folder)).problems)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite_index(folder: Path, change: Callable[[pa.Table], pa.Table], honest: bool = True) -> None:
    """Change the index, and the manifest's digest of it with it, as a faulty writer would."""
    table = change(pq.read_table(folder / INDEX_PATH))
    pq.write_table(table, folder / INDEX_PATH)
    if honest:
        digest = xxhash.xxh3_128_hexdigest((folder / INDEX_PATH).read_bytes())
        rewrite_manifest(folder, lambda manifest: manifest["index"].update(digest=digest))


def replaced(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), table.field(column), pa.array(values, table.field(column).type))


def test_a_good_set_has_no_problems(folder):
    checked = []

    def deal(run, job, units):
        for outcome in in_turn(run, job, units):
            checked.append(outcome)
            yield outcome

    found = verify(str(folder), deal=deal)
    assert found.ok
    assert found.problems == ()
    assert (found.version, found.samples, found.shards) == (VERSION, 190, 5)
    assert found.nbytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert sum(outcome.receipt.rows_out for outcome in checked) == 190
    assert sum(sum(outcome.receipt.outputs.values()) for outcome in checked) == found.nbytes
    assert all(outcome.receipt.started and outcome.receipt.worker for outcome in checked)


def test_the_folder_of_a_recipe_means_its_latest_version(folder):
    assert verify(str(folder.parent)).version == VERSION
    assert verify(f"{folder}/").ok


def test_a_set_in_an_object_store_is_checked_the_same(folder):
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/store/set/", recursive=True)
    try:
        assert verify("memory://store/set").ok
        shard = "/store/set/train-000001.tar"
        content = bytearray(memory.cat(shard))
        content[5000] ^= 4
        memory.pipe(shard, bytes(content))
        assert "train-000001.tar: its digest" in "\n".join(verify("memory://store/set").problems)
    finally:
        memory.rm("/store", recursive=True)


def test_no_set_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(BadInput, match="no set of shards"):
        verify(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="not the manifest"):
        verify(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(BadInput, match="format 99"):
        verify(str(tmp_path))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(original, tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("flipped")
    name = original.split("train")[1]
    content = bytearray((original.path / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    rows = pq.read_table(original.path / INDEX_PATH, filters=[("shard", "=", name)])
    said = next(shard for shard in shards_in(original.manifest) if shard["name"] == name)
    found = list(shard_problems(Root(str(folder)), said, original.manifest, rows))
    assert len(found) >= 2
    assert all(problem.startswith(f"{name}: ") for problem in found)


def test_a_flipped_bit_in_an_array_names_the_sample(folder):
    row = pq.read_table(folder / INDEX_PATH).slice(50, 1).to_pylist()[0]
    flip(folder / row["shard"], row["offset"] + row["member_offset"][0] + 200)
    found = verify(str(folder)).problems
    assert f"{row['shard']}: {row['key']}: its bytes have changed: their digest is not that of the index" in found
    assert f"{row['shard']}: its digest is not that of the manifest" in found
    assert len(found) == 2


@pytest.mark.parametrize("place", [126, 150])
def test_a_digit_of_a_header_that_is_none_of_octal_is_found(folder, place):
    """The size and the checksum of a member: a flipped bit makes an 8 of a 0."""
    path = folder / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[place] = ord("8")
    path.write_bytes(content)
    assert "train-000001.tar: the checksum of a tar header does not fit at byte 0" in problems(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "train-000002.tar").unlink()
    assert problems(folder) == "train-000002.tar: is missing"


def test_swapped_shards_are_named(folder):
    (folder / "train-000000.tar").rename(folder / "aside")
    (folder / "train-000001.tar").rename(folder / "train-000000.tar")
    (folder / "aside").rename(folder / "train-000001.tar")
    found = problems(folder)
    assert "train-000000.tar: holds the content of train-000001.tar" in found
    assert "train-000001.tar: holds the content of train-000000.tar" in found


@pytest.mark.parametrize("cut", [1, 512, 1024, 1025, 5000])
def test_a_truncated_tail_is_found(folder, cut):
    path = folder / "test-000000.tar"
    path.write_bytes(path.read_bytes()[:-cut])
    found = problems(folder)
    assert "test-000000.tar: has" in found
    assert "test-000000.tar: the tar" in found


def test_an_empty_shard_and_a_longer_one_are_found(folder):
    (folder / "test-000000.tar").write_bytes(b"")
    with (folder / "train-000000.tar").open("ab") as file:
        file.write(bytes(10_240))
    found = problems(folder)
    assert "test-000000.tar: has 0 bytes" in found
    assert "train-000000.tar: the tar does not end with two blocks of zeros" in found


def test_a_tar_that_does_not_belong_is_named(folder):
    shutil.copy(folder / "train-000000.tar", folder / "train-000009.tar")
    assert problems(folder) == "train-000009.tar: is not a shard of this version"


def test_the_index_of_another_version_is_recognised(folder, tmp_path):
    other = make_small_set(tmp_path / "other", seed=12)
    shutil.copy(other.path / INDEX_PATH, folder / INDEX_PATH)
    found = problems(folder)
    assert f"{INDEX_PATH}: is not the index that belongs to version {VERSION}" in found
    assert "its rows of train-000000.tar are not those beside that shard" in found


def test_a_missing_or_broken_index_is_named_and_the_shards_still_checked(folder):
    flip(folder / "train-000000.tar", 3000)
    (folder / INDEX_PATH).write_bytes(b"PAR1 no parquet PAR1")
    found = problems(folder)
    assert f"{INDEX_PATH}: cannot be read" in found
    assert "train-000000.tar: its digest is not that of the manifest" in found
    (folder / INDEX_PATH).unlink()
    assert f"{INDEX_PATH}: cannot be read" in problems(folder)


def test_the_manifest_of_another_version_is_recognised(folder):
    rewrite_manifest(folder, lambda manifest: manifest.update(version="ffffffffffff"))
    assert f"manifest.json: is that of version ffffffffffff, in the folder of {VERSION}" in problems(folder)


def test_latest_must_name_a_version_that_is_there(folder):
    (folder.parent / "LATEST").write_text("eeeeeeeeeeee\n")
    assert "LATEST: names the version eeeeeeeeeeee, which is not there" in problems(folder)


def test_a_wrong_offset_or_digest_in_the_index_is_found(folder):
    rewrite_index(folder, lambda table: replaced(table, "digest", 3, 7))
    found = problems(folder)
    assert "do not add up" in found
    assert "are not those beside that shard" in found


def test_members_that_lie_elsewhere_are_found(folder):
    rewrite_index(folder, lambda table: replaced(table, "member_nbytes", 3, table["member_nbytes"][4].as_py()[::-1]))
    assert "are not those beside that shard" in problems(folder)


@pytest.mark.parametrize("column", ["key", "offset", "nbytes", "digest", "member_offset"])
def test_rows_beside_a_shard_that_do_not_fit_it_are_found(folder, column):
    path = folder / "train-000001.parquet"
    table = pq.read_table(path)
    value = table[column][0].as_py()
    other = f"{value}x" if column == "key" else value[::-1] if isinstance(value, list) else value + 512
    pq.write_table(replaced(table, column, 0, other), path)
    found = problems(folder)
    assert "train-000001.tar: " in found
    assert column == "key" or f"{INDEX_PATH}: its rows of train-000001.tar are not those beside that shard" in found


@pytest.mark.parametrize("column", ["member_offset", "member_nbytes"])
def test_rows_that_leave_out_a_member_are_named(folder, column):
    path = folder / "train-000001.parquet"
    table = pq.read_table(path)
    pq.write_table(replaced(table, column, 2, table[column][2].as_py()[1:]), path)
    assert "train-000001.parquet: does not list 8 members of every sample" in problems(folder)


def test_missing_or_broken_rows_beside_a_shard_are_named(folder):
    (folder / "train-000001.parquet").write_bytes(b"PAR1")
    assert "train-000001.parquet: cannot be read" in problems(folder)
    (folder / "train-000001.parquet").unlink()
    assert "train-000001.parquet: is missing" in problems(folder)


def test_a_catalog_that_is_not_that_of_the_version_is_named(folder):
    path = next((folder / "index/dataset").rglob("Npix=*.parquet"))
    name = str(path.relative_to(folder))
    flip(path, 100)
    assert f"{name}: its digest is not that of the manifest" in problems(folder)
    path.unlink()
    (folder / "index/hats.properties").unlink()
    found = problems(folder)
    assert f"{name}: is missing" in found
    assert "index/hats.properties: is missing" in found


def test_a_sample_in_the_wrong_split_is_found(folder):
    rewrite_index(folder, lambda table: replaced(table, "split", 0, "test" if table["split"][0].as_py() != "test" else "train"))
    found = problems(folder)
    assert "but its sky belongs to" in found
    assert "of order 3 is in" in found


def test_a_sample_within_the_guard_is_found(folder):
    rewrite_manifest(folder, lambda manifest: manifest["recipe"]["split"].update(guard_arcsec=3600))
    assert "lies within 3600 arcsec of another split" in problems(folder)


def test_a_repeated_key_is_found(folder):
    rewrite_index(folder, lambda table: replaced(table, "key", 8, table["key"][7].as_py()))
    key = pq.read_table(folder / INDEX_PATH)["key"][7].as_py()
    assert f"{INDEX_PATH}: {key}: the key stands 2 times" in problems(folder)


def test_rows_out_of_order_moved_off_their_pixel_or_missing_are_found(folder):
    rewrite_index(folder, lambda table: table.take([*range(1, len(table)), 0]))
    assert "not in sky order" in problems(folder)
    rewrite_index(folder, lambda table: replaced(table, "ra", 0, float("nan")))
    assert "its position is not on the sky" in problems(folder)
    rewrite_index(folder, lambda table: replaced(table, "ra", 1, 12.5))
    assert "its position is not in its pixel" in problems(folder)
    rewrite_index(folder, lambda table: table.slice(5))
    assert "the manifest" in problems(folder)
    rewrite_index(folder, lambda table: table.drop_columns(["imager_mag"]))
    assert f"{INDEX_PATH}: lacks the columns imager_mag" in problems(folder)


@pytest.mark.parametrize(
    "path",
    [
        "train.wids.json",
        "sizes.json",
        "train-000001.idx",
        ".nv-meta/.info.json",
        ".nv-meta/split.yaml",
        "train-000001.tar.idx",
        "README.md",
    ],
)
def test_files_for_other_readers_are_checked(folder, path):
    (folder / path).write_bytes(b"{}")
    assert f"{path}: does" in problems(folder) or f"{path}: its front matter" in problems(folder)
    (folder / path).unlink()
    assert f"{path}: is missing" in problems(folder)


def test_a_flipped_bit_in_any_file_beside_the_shards_is_found(folder):
    """But for the card, to which people add, and the manifest, which says what the others are."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tar"]
    for path in paths:
        if path.name in ("README.md", "manifest.json"):
            continue
        content = path.read_bytes()
        flip(path, len(content) // 2)
        assert path.name.split(".")[0] in problems(folder), path
        path.write_bytes(content)
    assert len(paths) > 30
    assert verify(str(folder)).ok


def test_words_added_to_the_card_are_no_problem(folder):
    with (folder / "README.md").open("a") as file:
        file.write("\n---\nThanks to all.\n")
    assert verify(str(folder)).ok


def faulty(original: SmallSet, folder: Path, change: Callable[[Sample], Sample]) -> list[str]:
    """Problems of a shard whose writer got one sample wrong, where size and digest are as the manifest says."""
    keys = (
        pq.read_table(original.path / INDEX_PATH, filters=[("shard", "=", "test-000000.tar")])
        .sort_by("offset")["key"]
        .to_pylist()
    )
    samples = [original.samples[key] for key in keys]
    with (folder / "test-000000.tar").open("wb") as file:
        rows = write_samples(file, [change(samples[0]), *samples[1:]])
    content = (folder / "test-000000.tar").read_bytes()
    manifest = json.loads(json.dumps(original.manifest))
    manifest["splits"]["test"]["shards"][0] |= {"nbytes": len(content), "digest": xxhash.xxh3_128_hexdigest(content)}
    return list(shard_problems(Root(str(folder)), manifest["splits"]["test"]["shards"][0], manifest, rows))


def with_array(name: str, array: np.ndarray) -> Callable[[Sample], Sample]:
    return lambda sample: Sample(sample.key, {**sample.arrays, name: array}, sample.record)


def with_value(name: str, value: object) -> Callable[[Sample], Sample]:
    return lambda sample: Sample(sample.key, sample.arrays, {**sample.record, name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_array("imager.image", np.zeros((3, 8, 8))), "is float64, declared float32"),
        (with_array("imager.image", np.zeros((3, 8, 9), "f4")), "has the shape"),
        (with_array("imager.profile", np.zeros((5, 1))), "has the shape"),
        (with_array("curves.time", np.zeros(99)), "n_obs is"),
        (with_array("imager.extra", np.zeros(1)), "does not have the members"),
        (lambda sample: Sample(sample.key, dict(list(sample.arrays.items())[1:]), sample.record), "does not have the members"),
        (with_value("imager_mag", "bright"), "is not float32"),
        (with_value("imager_n_visits", 2.5), "is not int32"),
        (with_value("imager_n_visits", True), "is not int32"),
        (with_value("has_curves", 1), "is not bool"),
        (with_value("imager_psf", [1.0]), "is not a list of the declared length"),
        (with_value("imager_mag", [1.0]), "[1.0] is not float32"),
        (with_value("more", 1), "does not have the keys"),
    ],
)
def test_samples_that_are_not_as_declared_are_found(original, tmp_path, change, words):
    found = faulty(original, tmp_path, change)
    assert found
    assert all(words in problem for problem in found)
    assert all(problem.startswith("test-000000.tar: ") for problem in found)
    assert not faulty(original, tmp_path, lambda sample: sample)


def test_many_problems_of_a_file_are_counted(folder):
    rewrite_index(folder, lambda table: table.set_column(1, table.field(1), pa.array(table["_healpix_29"].to_numpy() + 2**40)))
    found = [problem for problem in verify(str(folder)).problems if problem.startswith(INDEX_PATH)]
    assert len(found) == 6
    assert found[-1].endswith("more problems")


def test_a_value_of_the_index_that_is_not_in_the_sample_is_found(folder):
    rewrite_index(folder, lambda table: replaced(table, "imager_n_visits", 0, 77))
    key = pq.read_table(folder / INDEX_PATH)["key"][0].as_py()
    assert f"{INDEX_PATH}: {key}: imager_n_visits is 77, in its JSON " in problems(folder)


def test_all_values_are_compared_if_asked(folder):
    rewrite_index(folder, lambda table: replaced(table, "imager_psf", 101, [1.0, 2.0, 3.0]))
    assert verify(str(folder), values=4).ok
    found = verify(str(folder), values=None).problems
    assert len(found) == 1
    assert "imager_psf is [1.0, 2.0, 3.0], in its JSON" in found[0]


def test_sha256_sums_are_written_if_asked_and_checked(tmp_path):
    rule = RECIPE.shards.model_copy(update={"sha256": True})
    made = make_small_set(tmp_path, RECIPE.model_copy(update={"shards": rule}))
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made.path, check=True, capture_output=True)
    assert verify(str(made.path)).ok
    flip(made.path / "train-000001.tar", 7000)
    assert "train-000001.tar: its SHA-256 is not that of the manifest" in problems(made.path)
    (made.path / "SHA256SUMS").write_bytes(b"")
    assert "SHA256SUMS: does not say what the manifest says" in problems(made.path)


def test_a_set_that_is_not_all_of_its_parents_is_found(folder):
    parent = {"name": "a", "version": VERSION, "samples": 191, "set_digest": "0" * 32}
    rewrite_manifest(folder, lambda manifest: manifest.update(parents=[parent], left_out={}, rule={}))
    found = problems(folder)
    assert "holds 190 samples, its parents without what was left out 191" in found
    assert "the digest of the set is not that of its parents" in found

"""The index: rows in sky order, each pointing to its bytes, found by cone, the same from the same pieces."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.index import INDEX_PATH, index_schema, piece_index, piece_sizes, repeated_keys, write_index
from mmu_pipeline.shards.plan import plan_shards, without
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.sky import healpix29
from mmu_pipeline.storage import Root, shard_folder
from tests.small_set import CELLS, RECIPE, VERSION, SmallSet, make_small_set

FOLDER = shard_folder(RECIPE.name, VERSION)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def root(small_set) -> Root:
    return Root(str(small_set.path.parents[2]))


def pieces() -> list[str]:
    return [f"pieces/{cell}.parquet" for cell in CELLS]


def test_rows_are_in_sky_order_and_point_to_their_bytes(small_set, root):
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    assert len(table) == len(small_set.samples)
    assert (np.diff(table["_healpix_29"].to_numpy()) > 0).all()
    assert np.array_equal(table["_healpix_29"].to_numpy(), healpix29(table["ra"].to_numpy(), table["dec"].to_numpy()))
    for row in table.slice(0, 40).to_pylist():
        content = (small_set.path / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["nbytes"]]
        assert xxhash.xxh3_128_digest(content) == row["digest"]
        assert content.startswith(row["key"].encode() + b".imager.image.npy")


def test_the_set_digest_does_not_depend_on_the_shards(small_set, root, tmp_path):
    sizes = [piece_sizes(root, path) for path in pieces()]
    other = plan_shards(sizes, RECIPE.shards.model_copy(update={"samples_per_shard": 7}))
    facts = write_index(root, "other", pieces(), other)
    assert facts.set_digest == small_set.manifest["set_digest"]
    assert facts.samples == len(small_set.samples)
    assert facts.digest != small_set.manifest["index"]["digest"]
    rows = root.read_table(FOLDER + "/" + INDEX_PATH)["digest"].to_pylist()
    assert int(facts.set_digest, 16) == sum(int.from_bytes(digest, "big") for digest in rows) % 2**128


def test_the_same_pieces_give_the_same_bytes(small_set, root):
    plan = plan_shards([piece_sizes(root, path) for path in pieces()], RECIPE.shards)
    facts = write_index(root, "again", pieces(), plan)
    assert facts.digest == small_set.manifest["index"]["digest"]
    assert root.read_bytes(f"again/{INDEX_PATH}") == root.read_bytes(f"{FOLDER}/{INDEX_PATH}")


def piece(tmp_path, keys: list[str], dec: list[float], name: str = "a") -> Root:
    """A piece of samples along the first meridian, where `_healpix_29` grows with declination."""
    root = Root(str(tmp_path))
    with root.writing(f"{name}.tar") as file:
        written = write_samples(file, [Sample(key, {}, {"x": 1}) for key in keys])
    place = np.full(len(dec), 45.0), np.array(dec)
    root.write_table(f"{name}.parquet", piece_index(written, healpix29(*place), *place, pa.table({"x": [1] * len(keys)}), RECIPE))
    return root


def test_a_repeated_key_is_named(tmp_path):
    piece(tmp_path, ["k-1", "k-2"], [10.0, 20.0])
    root = piece(tmp_path, ["k-3", "k-2"], [30.0, 40.0], "b")
    plan = plan_shards([piece_sizes(root, f"{name}.parquet") for name in "ab"], RECIPE.shards)
    with pytest.raises(BrokenArtefact, match="same key") as error:
        write_index(root, "set", ["a.parquet", "b.parquet"], plan)
    assert error.value.where["key"] == "k-2"
    assert not root.exists(f"set/{INDEX_PATH}")


def test_repeats_are_flagged_and_count_once_in_the_digest(small_set, root):
    sizes = [piece_sizes(root, path) for path in pieces()]
    plan = plan_shards(sizes, RECIPE.shards.model_copy(update={"samples_per_shard": 30, "multiple_of": 32}))
    facts = write_index(root, "padded", pieces(), plan)
    table = root.read_table(f"padded/{INDEX_PATH}")
    assert facts.set_digest == small_set.manifest["set_digest"]
    assert facts.samples == len(table) == len(small_set.samples) + facts.repeats
    assert (np.diff(table["_healpix_29"].to_numpy()) >= 0).all()
    rows = table.to_pylist()
    once = {row["key"]: row for row in rows if not row["repeat"]}
    assert len(once) == len(small_set.samples)
    for row in (row for row in rows if row["repeat"]):
        other = once[row["key"]]
        assert (row["shard"], row["offset"]) != (other["shard"], other["offset"])
        assert (row["digest"], row["split"]) == (other["digest"], other["split"])
    places = {name: sorted((row["offset"], row["nbytes"]) for row in rows if row["shard"] == name) for name in plan.names}
    for number, name in enumerate(plan.names):
        assert [offset for offset, _ in places[name]] == plan.sample_offsets(number)[:-1].tolist()


def test_of_a_repeated_key_the_later_sample_is_known(tmp_path):
    piece(tmp_path, ["k-1", "k-2"], [10.0, 20.0])
    root = piece(tmp_path, ["k-3", "k-2"], [30.0, 40.0], "b")
    paths = ["a.parquet", "b.parquet"]
    sizes = [piece_sizes(root, path) for path in paths]
    assert repeated_keys(root, paths, sizes) == [(3, "k-2", 1)]
    plan = plan_shards(without(sizes, [3]), RECIPE.shards)
    assert write_index(root, "set", paths, plan).samples == 3
    assert root.read_table(f"set/{INDEX_PATH}")["key"].to_pylist() == ["k-1", "k-2", "k-3"]


def test_rows_out_of_sky_order_are_refused(tmp_path):
    with pytest.raises(BrokenArtefact, match="sky order"):
        piece(tmp_path, ["k-1", "k-2"], [40.0, 10.0])


def test_pieces_out_of_sky_order_and_changed_pieces_are_refused(root):
    sizes = [piece_sizes(root, path) for path in pieces()]
    with pytest.raises(BrokenArtefact, match="sky order"):
        write_index(root, "bad", pieces()[::-1], plan_shards(sizes[::-1], RECIPE.shards))
    with pytest.raises(BrokenArtefact, match="changed since"):
        write_index(root, "bad", pieces(), plan_shards([sizes[0]] * len(sizes), RECIPE.shards))
    with pytest.raises(BadInput, match="at least one piece"):
        write_index(root, "bad", [], plan_shards([], RECIPE.shards))
    assert not root.exists(f"bad/{INDEX_PATH}")


def test_a_scalar_may_not_take_the_name_of_a_column():
    with pytest.raises(BadInput, match="column of the index"):
        index_schema(pa.schema([("offset", pa.int64())]))


def test_the_columns_are_packed(root):
    file = pq.ParquetFile(root.path(f"{FOLDER}/{INDEX_PATH}"))
    group = file.metadata.row_group(0)
    packed = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
    assert {column.compression for column in packed.values()} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in packed["_healpix_29"].encodings
    assert "BYTE_STREAM_SPLIT" in packed["ra"].encodings
    assert "RLE_DICTIONARY" in packed["shard"].encodings

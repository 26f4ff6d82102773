"""The index: rows in sky order, each pointing to its bytes, found by cone, the same from the same pieces."""

import operator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards import merge, sky_catalog
from mmu_pipeline.shards.copy import scalars_of
from mmu_pipeline.shards.index import (
    EDGE_ARCSEC,
    INDEX_PATH,
    IndexFacts,
    index_schema,
    piece_index,
    piece_sizes,
    repeated_keys,
    shard_index_path,
)
from mmu_pipeline.shards.merge import write_index
from mmu_pipeline.shards.plan import plan_shards, without
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.sky_catalog import DEEPEST, partitions_of
from mmu_pipeline.shards.splits import near_other_split
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.sky import healpix29
from mmu_pipeline.storage import Root, shard_folder
from tests.small_set import CELLS, RECIPE, VERSION, SmallSet, deal_out, make_small_set

FOLDER = shard_folder(RECIPE.name, VERSION)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def root(small_set) -> Root:
    return Root(str(small_set.path.parents[2]))


def test_rows_are_in_sky_order_and_point_to_their_bytes(small_set, root):
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    assert len(table) == len(small_set.samples)
    assert (np.diff(table["_healpix_29"].to_numpy()) > 0).all()
    assert np.array_equal(table["_healpix_29"].to_numpy(), healpix29(table["ra"].to_numpy(), table["dec"].to_numpy()))
    for row in table.slice(0, 40).to_pylist():
        content = (small_set.path / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["nbytes"]]
        assert xxhash.xxh3_64_intdigest(content) == row["digest"]
        assert content.startswith(row["key"].encode() + b".imager.image.npy")


def dealt(root: Root, folder: str, **changes: object) -> IndexFacts:
    """The index of the same pieces in other shards."""
    recipe = RECIPE.model_copy(update={"shards": RECIPE.shards.model_copy(update=changes)})
    made = deal_out(root, folder, [f"pieces/{cell}" for cell in CELLS], recipe)
    return write_index(root, folder, [shard.name for shard in made])


def test_the_set_digest_does_not_depend_on_the_shards(small_set, root):
    facts = dealt(root, "other", samples_per_shard=7)
    assert facts.set_digest == small_set.manifest["set_digest"]
    assert facts.samples == len(small_set.samples)
    assert facts.digest != small_set.manifest["index"]["digest"]
    rows = root.read_table(FOLDER + "/" + INDEX_PATH)["digest"].to_pylist()
    assert int(facts.set_digest, 16) == sum(rows) % 2**64


def test_the_same_pieces_give_the_same_bytes(small_set, root):
    facts = dealt(root, "again")
    assert facts.digest == small_set.manifest["index"]["digest"]
    assert root.read_bytes(f"again/{INDEX_PATH}") == root.read_bytes(f"{FOLDER}/{INDEX_PATH}")


def test_merging_in_groups_of_few_files_gives_the_same_rows(root, monkeypatch):
    whole = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    monkeypatch.setattr(merge, "AT_ONCE", 2)
    monkeypatch.setattr(merge, "ROWS_HELD", 14)
    monkeypatch.setattr(merge, "ROW_GROUP", 30)
    facts = dealt(root, "grouped")
    assert root.read_table(f"grouped/{INDEX_PATH}") == whole
    groups = pq.read_metadata(root.path(f"grouped/{INDEX_PATH}"))
    assert {groups.row_group(number).num_rows for number in range(groups.num_row_groups - 1)} <= {30, 60, 90}
    assert facts.samples == len(whole)
    assert [path.name for path in Path(root.path("grouped/index")).iterdir()] == ["samples.parquet"]


def test_the_rows_beside_a_shard_are_those_of_the_index(small_set, root):
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    for name in small_set.split("train"):
        beside = root.read_table(f"{FOLDER}/{shard_index_path(name)}")
        assert beside.equals(table.filter(pc.field("shard") == name))
        assert len(beside) == next(s["samples"] for s in small_set.manifest["splits"]["train"]["shards"] if s["name"] == name)


def test_scalars_are_those_of_the_samples(small_set, root):
    for row in root.read_table(f"{FOLDER}/{INDEX_PATH}").to_pylist():
        record = small_set.samples[row["key"]].record
        assert {name: row[name] for name in record} == record


def test_the_edge_of_a_split_is_flagged(root):
    pieces = [f"pieces/{cell}" for cell in CELLS]
    made = deal_out(root, "edges", pieces)
    table = pa.concat_tables([root.read_table(f"edges/{shard_index_path(shard.name)}") for shard in made])
    assert not any(table["edge"].to_pylist()), "the guard of this set is wider than the edge"
    deep = RECIPE.split.model_copy(update={"order": 8, "guard_arcsec": 0.0})
    made = deal_out(root, "deep", pieces, RECIPE.model_copy(update={"split": deep}))
    table = pa.concat_tables([root.read_table(f"deep/{shard_index_path(shard.name)}") for shard in made])
    wide = deep.model_copy(update={"guard_arcsec": EDGE_ARCSEC})
    expected = near_other_split(table["ra"].to_numpy(), table["dec"].to_numpy(), wide)
    assert expected.any()
    assert table["edge"].to_pylist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=30), min_size=1, max_size=6), st.integers(1, 7))
def test_streams_are_merged_in_the_order_of_the_sky(streams, at_once):
    columns = [(np.sort(np.array(pixels, np.int64)), np.full(len(pixels), number)) for number, pixels in enumerate(streams)]
    tables = [pa.table(dict(zip(("_healpix_29", "of"), pair, strict=True))) for pair in columns]
    cut = [[table.slice(first, at_once) for first in range(0, len(table), at_once)] for table in tables]
    found = [row for table in merge.in_sky_order([iter(parts) for parts in cut]) for row in table.to_pylist()]
    key = operator.itemgetter("_healpix_29", "of")
    assert [row["_healpix_29"] for row in found] == sorted(pixel for pixels in streams for pixel in pixels)
    assert sorted(found, key=key) == sorted((row for table in tables for row in table.to_pylist()), key=key)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3000))
def test_the_catalog_cuts_the_sky_into_cells_of_bounded_size(seed, rows):
    rng = np.random.default_rng(seed)
    pixels = rng.choice(rng.integers(0, 12 * 4**DEEPEST, 50), rows)
    counts = np.bincount(pixels, minlength=12 * 4**DEEPEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sky_catalog, "MOST_ROWS", 100)
        cells, ends = partitions_of(counts)
    held = np.diff(ends, prepend=0)
    assert held.sum() == rows
    assert (held > 0).all()
    for before, after in pairwise(cells):
        assert before.range[1] <= after.range[0]
    for cell, size in zip(cells, held, strict=True):
        shift = 2 * (DEEPEST - cell.order)
        assert counts[cell.pixel << shift : (cell.pixel + 1) << shift].sum() == size
        assert size <= 100 or cell.order == DEEPEST


def piece(tmp_path, keys: list[str], dec: list[float], name: str = "a") -> Root:
    """A piece of samples along the first meridian, where `_healpix_29` grows with declination."""
    root = Root(str(tmp_path))
    with root.writing(f"{name}.tar") as file:
        written = write_samples(file, [Sample(key, {}, {"x": 1}) for key in keys])
    place = np.full(len(dec), 45.0), np.array(dec)
    root.write_table(f"{name}.parquet", piece_index(written, healpix29(*place), *place, pa.table({"x": [1] * len(keys)}), RECIPE))
    return root


def test_repeats_are_flagged_and_count_once_in_the_digest(small_set, root):
    facts = dealt(root, "padded", samples_per_shard=30, multiple_of=32)
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
    for name in {row["shard"] for row in rows}:
        places = sorted((row["offset"], row["nbytes"]) for row in rows if row["shard"] == name)
        assert [offset for offset, _ in places] == np.cumsum([0, *(nbytes for _, nbytes in places[:-1])]).tolist()


def test_of_a_repeated_key_the_later_sample_is_known(tmp_path):
    piece(tmp_path, ["k-1", "k-2"], [10.0, 20.0])
    root = piece(tmp_path, ["k-3", "k-2"], [30.0, 40.0], "b")
    paths = ["a.parquet", "b.parquet"]
    sizes = [piece_sizes(root, path) for path in paths]
    assert repeated_keys(root, paths, sizes) == [(3, "k-2", 1)]
    assert sorted(plan_shards(without(sizes, [3]), RECIPE.shards).by_shard) == [0, 1, 2]


def test_rows_out_of_sky_order_are_refused(tmp_path):
    with pytest.raises(BrokenArtefact, match="sky order"):
        piece(tmp_path, ["k-1", "k-2"], [40.0, 10.0])


def test_a_set_without_shards_is_refused(root):
    with pytest.raises(BadInput, match="at least one shard"):
        write_index(root, "bad", [])
    assert not root.exists(f"bad/{INDEX_PATH}")


def test_json_that_is_not_as_declared_is_refused():
    schema = pa.schema([("x", pa.int32()), ("y", pa.list_(pa.float32(), 2)), ("z", pa.float16())])
    good = scalars_of([b'{"x":1,"y":[0.1,2],"z":0.5}', b'{"x":null,"y":null,"z":null}'], schema)
    assert good.schema == schema
    assert good["x"].to_pylist() == [1, None]
    assert good["y"].to_pylist() == [[pytest.approx(0.1), 2], None]
    for wrong in (b'{"x":"a"}', b'{"x":1,"y":[1],"z":0}', b'{"x":1,"w":2}', b"{"):
        with pytest.raises(BrokenArtefact, match="not as declared"):
            scalars_of([wrong], schema)


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

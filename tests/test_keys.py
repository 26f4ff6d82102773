"""The stage that joins by key and chooses among repeats: what it finds is what brute force over all rows finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey, repeats_of
from mmu_pipeline.errors import BadInput
from mmu_pipeline.fields import Field
from mmu_pipeline.hats import Partition
from mmu_pipeline.joining import equal_pairs, key_codes
from mmu_pipeline.sky import Cell, healpix29, pixels_at
from mmu_pipeline.stages import keys
from mmu_pipeline.stages.buckets import Whole, key_hash
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.scan import object_schema
from mmu_pipeline.storage import Root, object_folder, partition_path

COLUMNS = (
    Field(name="number", dtype="int32"), Field(name="name", dtype="string"), Field(name="part", dtype="int8"),
    Field(name="snr", dtype="float32"), Field(name="time", dtype="float64", unit="d"),
)  # fmt: skip


def survey(name: str, **changes: Any) -> Survey:
    return Survey(
        name=name, title=name, modality="table", release="1", summary="", forms={"v1": Form(reader="mmu_v1", files=("*",))},
        fields=COLUMNS, licence="CC0", citation="none", **changes,
    )  # fmt: skip


def random_table(rng: np.random.Generator, declared: Survey, size: int, objects: int) -> pa.Table:
    """Rows over a few cells; of about so many objects, with keys that repeat, that only look alike, and that are null."""
    centre = rng.integers(0, 3, size)
    ra, dec = 10.0 + 80.0 * centre + rng.uniform(0, 0.01, size), rng.uniform(-0.005, 0.005, size)
    number = rng.integers(-2, objects, size)
    null = rng.random(size) < 0.15
    table = pa.table(
        {
            "_healpix_29": healpix29(ra, dec), "ra": ra, "dec": dec,
            "object_id": [f"{n}" for n in rng.integers(0, objects, size)],
            "source_file": [f"{letter}.hdf5" for letter in rng.choice(list("ab"), size)],
            "source_row": np.arange(size),
            "number": pa.array(number, pa.int32(), mask=null),
            "name": pa.array([f"{n:0{width}d}" for n, width in zip(number, rng.integers(1, 3, size), strict=True)], mask=null),
            "part": rng.integers(0, 2, size).astype("i1"),
            "snr": pa.array(rng.integers(0, 4, size).astype("f4"), mask=rng.random(size) < 0.2),
            "time": rng.integers(0, 3, size).astype("f8"),
        }
    )  # fmt: skip
    return table.sort_by([(name, "ascending") for name in ("_healpix_29", "object_id", "source_file", "source_row")]).cast(
        object_schema(declared)
    )


def stored(root: Root, declared: Survey, table: pa.Table) -> Whole:
    """An object table on disk, in partitions."""
    order, partitions = declared.partition_order, []
    pixels = pixels_at(table["_healpix_29"].to_numpy(), order)
    for pixel in np.unique(pixels):
        path = partition_path(object_folder(declared.name), Cell(order, int(pixel)))
        part = table.filter(pa.array(pixels == pixel))
        root.write_table(path, part, row_group_size=3)
        partitions.append(Partition(Cell(order, int(pixel)), path, len(part), ""))
    return Whole(declared.name, tuple(partitions))


def run_keys(
    folder: Path, recipe: Recipe, surveys: Mapping[str, Survey], tables: Mapping[str, pa.Table], rows: int
) -> dict[str, pa.Table]:
    """What the stage writes, by survey and kind."""
    build = Build(recipe, dict(surveys), {}, Root(str(folder)), bucket_rows=rows)
    sides = {name: stored(build.root, surveys[name], table) for name, table in tables.items()}
    found = defaultdict(list)
    for unit in keys.units(build, sides):
        receipt = keys.run(unit, build)
        (path,) = receipt.outputs
        table = build.root.read_table(path)
        assert receipt.rows_out == len(table)
        assert all(a <= b for a, b in pairwise(table["_healpix_29"].to_pylist()))
        assert set(receipt.facts["cells"]) == {str(cell) for cell in pixels_at(table["_healpix_29"].to_numpy(), 4)}
        found[unit.name.partition("/")[2].partition("-")[0]].append(table)
    return {name: pa.concat_tables(parts) for name, parts in found.items()}


Row = dict[str, Any]


def place(row: Row) -> tuple[str, int]:
    return row["source_file"], row["source_row"]


def rows_taken(selection: Selection, declared: Survey, table: pa.Table) -> list[Row]:
    """By the definition: the rows that pass, and of each object's those that the recipe takes."""
    rows = [row for row in table.to_pylist() if selection.where is None or (row["snr"] is not None and row["snr"] > 0)]
    rule, column = repeats_of(selection, declared), declared.object_column
    if rule == "all" or column is None:
        return rows
    groups = defaultdict(list)
    for row in rows:
        groups[row[column] if row[column] is not None else place(row)].append(row)
    name, sign = ("time", 1) if rule == "first" else (rule.split()[1], 1 if rule.endswith(" asc") else -1)
    if rule == "first" and declared.epoch is None:
        return [min(group, key=place) for group in groups.values()]
    return [
        min(group, key=lambda row: (np.inf if row[name] is None else sign * row[name], place(row))) for group in groups.values()
    ]


def key_of(row: Row, columns: list[str]) -> tuple[str, ...] | None:
    values = [row[column] for column in columns]
    return None if None in values else tuple(map(str, values))


def separation(a: Row, b: Row) -> float:
    one, two = (np.radians([row["ra"], row["dec"]]) for row in (a, b))
    half = np.sin((two - one) / 2) ** 2
    return float(np.degrees(2 * np.arcsin(np.sqrt(half[1] + np.cos(one[1]) * np.cos(two[1]) * half[0]))) * 3600)


def brute_force(recipe: Recipe, surveys: Mapping[str, Survey], tables: Mapping[str, pa.Table]) -> set[tuple[Any, ...]]:
    """(place of the primary, place of the counterpart, rank, number of candidates) of every pair, by the definition."""
    (other,) = recipe.counterparts
    assert other.on
    ours, theirs = (rows_taken(s, surveys[s.survey], tables[s.survey]) for s in recipe.selections)
    objects = [surveys[s.survey].object_column or "source_row" for s in recipe.selections]
    far = other.radius_arcsec or np.inf

    def candidates(row: Row, rows: list[Row], mine: list[str], their: list[str]) -> list[Row]:
        key = key_of(row, mine)
        return [o for o in rows if key is not None and key_of(o, their) == key and separation(row, o) <= far]

    def same(a: Row, b: Row, column: str) -> bool:
        return place(a) == place(b) if a[column] is None else a[column] == b[column]

    mine, their, pairs = list(other.on.values()), list(other.on), set()
    for row in ours:
        near = sorted(candidates(row, theirs, mine, their), key=lambda o: (separation(row, o), o["object_id"], place(o)))
        if not near:
            continue
        kept, best = near, near[0]
        if other.best:
            column, ascending = other.best
            best = min(near, key=lambda o: np.inf if o[column] is None else o[column] * (1 if ascending else -1))
        if other.pick != "all":
            kept = [o for o in near if same(o, best, objects[1])]
        if other.pick == "mutual":
            back = min(candidates(best, ours, their, mine), key=lambda p: (separation(p, best), p["object_id"], place(p)))
            kept = kept if same(back, row, objects[0]) else []
        pairs |= {(place(row), place(o), near.index(o) + 1, len(near)) for o in kept}
    return pairs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    on=st.sampled_from([{"number": "number"}, {"name": "name"}, {"name": "number"}, {"object_id": "number"},
                        {"number": "object_id"}, {"object_id": "object_id"}, {"number": "name", "part": "part"}]),
    pick=st.sampled_from(["nearest", "mutual", "all", "best: snr", "best: time asc"]),
    radius=st.sampled_from([None, None, 15.0]),
    where=st.sampled_from([None, None, "snr > 0"]),
    repeats=st.tuples(*[st.sampled_from([None, "all", "first", "best", "best: time asc"])] * 2),
    object_key=st.sampled_from([None, "number", "name"]),
    epoch=st.sampled_from([None, "time"]),
    rows=st.sampled_from([3, 10, 1000]),
)  # fmt: skip
def test_pairs_by_key_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, on: dict[str, str], pick: str, radius: float | None, where: str | None,
    repeats: tuple[str | None, str | None], object_key: str | None, epoch: str | None, rows: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    facts = {"repeated_ids": True, "quality": "snr", "epoch": epoch, "object_key": object_key}
    surveys = {"one": survey("one", partition_order=4, **facts), "two": survey("two", partition_order=2, **facts)}
    tables = {name: random_table(rng, surveys[name], int(rng.integers(0, 25)), 6) for name in surveys}
    recipe = Recipe(
        name="r",
        primary=Selection(survey="one", where=where, repeats=repeats[0]),
        counterparts=(Counterpart(survey="two", on=on, pick=pick, radius_arcsec=radius, where=where, repeats=repeats[1]),),
    )
    found = run_keys(tmp_path_factory.mktemp("sky"), recipe, surveys, tables, rows)
    pairs = {
        (
            (row["source_file"], row["source_row"]),
            (row["other_source_file"], row["other_source_row"]),
            row["rank"],
            row["n_candidates"],
        )
        for row in found["two/pairs"].to_pylist()
    }
    assert len(pairs) == len(found["two/pairs"])
    assert pairs == brute_force(recipe, surveys, tables)
    for selection in recipe.selections:
        name = selection.survey
        every = rows_taken(selection.model_copy(update={"repeats": "all"}), surveys[name], tables[name])
        kept = {place(row) for row in rows_taken(selection, surveys[name], tables[name])}
        losers = found.get(f"{name}/repeats", pa.table({"source_file": [], "source_row": []})).to_pylist()
        assert sorted(place(row) for row in losers) == sorted({place(row) for row in every} - kept)


def test_whole_numbers_and_their_decimal_text_are_one_key_but_zeros_in_front_count() -> None:
    numbers, texts = pa.chunked_array([[7, -7, None, 0]], pa.int32()), pa.chunked_array([["007", "7", "-7", None, ""]])
    one, two = key_codes([numbers], [texts])
    assert one[0] == two[1]
    assert one[1] == two[2]
    assert one[2] == two[3] == -1
    assert len({*one, *two}) == 6
    large = pa.chunked_array([[2**64 - 1]], pa.uint64())
    codes = key_codes([large], [pa.chunked_array([[-1]], pa.int64())])
    assert codes[0] != codes[1]


def test_a_hash_is_the_same_for_equal_keys_on_any_machine_and_spreads_them() -> None:
    ids = [str(5_853_498_713_190_525_696 + number) for number in range(100_000)]
    text, number = pa.chunked_array([ids]), pa.chunked_array([pa.array(ids).cast(pa.int64())])
    hashes = key_hash([text], [pa.string()])
    assert hashes[0] == 10194805010855029610
    assert np.array_equal(hashes, key_hash([number], [pa.string()]))
    assert np.array_equal(hashes[500:600], key_hash([text.slice(500, 100)], [pa.string()]))
    for values in (hashes, key_hash([number], [pa.int64()]), key_hash([text, number], [pa.string(), pa.int64()])):
        counts = np.bincount((values % np.uint64(7)).astype(int), minlength=7)
        assert abs(counts - 100_000 / 7).max() < 600
    assert len(key_hash([text.slice(0, 0)], [pa.string()])) == 0
    assert len(set(key_hash([pa.chunked_array([["", "a", "b", "ab", "ba", "aa"]])], [pa.string()]).tolist())) == 6


def test_pairs_come_in_parts_that_keep_a_key_together() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.integers(-1, 40, 500), rng.integers(-1, 40, 300)
    parts = list(equal_pairs(one, two, at_once=200))
    assert len(parts) > 10
    assert max(len(i) for i, _ in parts) < 400
    held = [set(one[i].tolist()) for i, _ in parts]
    assert sum(map(len, held)) == len(set.union(*held))
    found = {(int(a), int(b)) for i, j in parts for a, b in zip(i, j, strict=True)}
    assert found == {(a, b) for a in range(500) for b in range(300) if one[a] == two[b] >= 0}


def test_a_key_that_tells_no_object_is_named(tmp_path: Path) -> None:
    surveys = {name: survey(name) for name in ("one", "two")}
    size = 5000
    rows = {field.name: pa.nulls(size, field.type) for field in object_schema(surveys["one"])}
    position = np.linspace(10, 11, size)
    rows |= {"_healpix_29": healpix29(position, position), "ra": position, "dec": position, "number": np.zeros(size, "i4")}
    rows |= {"object_id": list(map(str, range(size))), "source_file": ["a"] * size, "source_row": np.arange(size)}
    table = pa.table(rows).cast(object_schema(surveys["one"])).sort_by("_healpix_29")
    recipe = Recipe(name="r", primary=Selection(survey="one"), counterparts=(Counterpart(survey="two", on={"number": "number"}),))
    with pytest.raises(BadInput, match=r"5,000 rows of one and in 5,000 of two[\s\S]*'number': 0"):
        run_keys(tmp_path, recipe, surveys, {"one": table, "two": table}, 10**6)

"""Remote files read by byte ranges from a real server: the same values as from a copy, few bytes, and every fault told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.catalog import Recipe, Selection, Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource, SourceChanged
from mmu_pipeline.ranges import BLOCK, RangedFile, merged
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate.serve import Busy, Changes, CutShort, Fault, NoRanges, Served, serving
from mmu_pipeline.stages import access
from mmu_pipeline.stages.access import Access
from mmu_pipeline.stages.build import Build, Source, SourceFile
from mmu_pipeline.stages.download import list_files
from mmu_pipeline.storage import Root
from tests.test_pipeline import Sky, members, run_all

SURVEYS = load_surveys()
COUNT = 2000
IMAGE, SPECTRUM = (4, 32, 32), 500
CHOSEN = np.array([1999, 3, 3, 700, 701, 1203, 40, 1500])


@pytest.fixture(autouse=True)
def ranges_and_quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_RETRY_FOR_S", "0")
    monkeypatch.setenv("MMU_REMOTE", '{"way": "ranges"}')


# Ranges of a file

two_ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=12)


@given(two_ranges, st.integers(0, 30))
def test_merged_ranges_hold_the_same_bytes_and_no_gap_below_the_least(found: list[tuple[int, int]], gap: int) -> None:
    ranges = np.array([(start, start + length) for start, length in found], np.int64).reshape(-1, 2)
    together = merged(ranges, gap)
    inside = {byte for start, stop in ranges.tolist() for byte in range(start, stop)}
    kept = [byte for start, stop in together.tolist() for byte in range(start, stop)]
    assert inside <= set(kept)
    assert len(kept) == len(set(kept))
    assert (together[1:, 0] - together[:-1, 1] > gap).all()
    assert all({start, stop - 1} <= inside for start, stop in together.tolist())


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_ranged_file_reads_as_a_file_whatever_is_announced(data: st.DataObject) -> None:
    content = np.random.default_rng(1).bytes(5 * BLOCK + 77)
    file = RangedFile("x", len(content), lambda start, stop: content[start:stop])
    for _ in range(data.draw(st.integers(1, 6))):
        ranges = data.draw(st.lists(st.tuples(st.integers(0, len(content)), st.integers(0, 2 * BLOCK)), max_size=4))
        file.announce(np.array([(a, a + b) for a, b in ranges], np.int64).reshape(-1, 2), keep=data.draw(st.booleans()))
        start, length = data.draw(st.integers(0, len(content) + 9)), data.draw(st.integers(0, 2 * BLOCK))
        file.seek(start)
        assert file.read(length) == content[start : start + length]
        assert file.tell() == max(start, min(start + length, len(content)))


def test_requests_side_by_side_know_what_they_are_made_for() -> None:
    """So that what is logged in their threads, a retry for example, names the unit."""
    about, seen = ContextVar("about", default=""), []

    def fetch(start: int, stop: int) -> bytes:
        seen.append(about.get())
        return bytes(stop - start)

    about.set("hsc/1104")
    RangedFile("x", 9 * BLOCK, fetch).announce(np.array([[0, 10], [4 * BLOCK, 5 * BLOCK], [8 * BLOCK, 9 * BLOCK]]))
    assert seen == ["hsc/1104"] * 3


# Generated files


def survey_of(reader_name: str, pattern: str) -> Survey:
    fields: list[dict[str, Any]] = [
        {"name": "image", "dtype": "float32", "shape": IMAGE, "from": "image_array"},
        {"name": "flux", "dtype": "float32", "shape": [SPECTRUM], "from": "spectrum_flux"},
        {"name": "z", "dtype": "float32", "from": "Z"},
        {"name": "kind", "dtype": "string"},
        {"name": "visits", "dtype": "int32"},
    ]
    return Survey.model_validate({
        "name": "far", "title": "t", "modality": "image", "release": "r", "summary": "s", "licence": "l", "citation": "c",
        "forms": {"v1": {"reader": reader_name, "files": [pattern]}}, "fields": fields,
    })  # fmt: skip


def columns(seed: int = 1, count: int = COUNT) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "object_id": np.arange(count) + 10**12,
        "ra": rng.uniform(0, 360, count),
        "dec": rng.uniform(-60, 60, count),
        "Z": rng.uniform(0, 2, count).astype("f4"),
        "visits": rng.integers(0, 99, count),
    }


def hdf5_file(path: Path, libver: str = "earliest") -> Path:
    """A cell with a chunked and compressed image, a contiguous spectrum, and text of varying length."""
    rng = np.random.default_rng(2)
    with h5py.File(path, "w", libver=libver) as file:
        for name, values in columns().items():
            file[name] = values
        file.create_dataset("kind", data=[f"kind {row % 7}" * (row % 3) for row in range(COUNT)], dtype=h5py.string_dtype())
        images = np.round(rng.normal(size=(COUNT, *IMAGE)).astype("f4") * 64) / 64
        file.create_dataset("image_array", data=images, chunks=(1, *IMAGE), compression="gzip", compression_opts=1, shuffle=True)
        file["spectrum_flux"] = rng.normal(size=(COUNT, SPECTRUM)).astype("f4")
    return path


def parquet_file(path: Path, row_group_size: int = 20) -> Path:
    rng = np.random.default_rng(3)
    table = {name: pa.array(values) for name, values in columns().items()}
    table["kind"] = pa.array([f"kind {row % 7}" * (row % 3) for row in range(COUNT)])
    for name, shape in (("image_array", IMAGE), ("spectrum_flux", (SPECTRUM,))):
        array = pa.array(rng.normal(size=COUNT * int(np.prod(shape))).astype("f4"))
        for size in reversed(shape):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        table[name] = array
    pq.write_table(pa.table(table), path, row_group_size=row_group_size)
    return path


HDF5, HATS = survey_of("mmu_v1", "*.hdf5"), survey_of("hats", "*.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    hdf5_file(folder / "old.hdf5")
    hdf5_file(folder / "new.hdf5", libver="latest")
    parquet_file(folder / "part.parquet")
    return folder


def build_of(survey: Survey, url: str, cache: Path, form: str = "v1") -> Build:
    recipe = Recipe(name="far", primary=Selection(survey=survey.name))
    sources = {survey.name: Source(form, url)}
    return Build(recipe, {survey.name: survey}, sources, Root(str(cache)), cache=str(cache))


def read_all(
    survey: Survey, unit: Access, file: SourceFile, rows: Sequence[int] | np.ndarray | None, form: str = "v1"
) -> tuple[pa.Table, dict[str, Any]]:
    """The object table, and the arrays of some rows or all."""
    module = reader(survey.forms[form].reader)
    table = unit.read(survey, file, lambda path: module.read_objects(survey, form, path)).table
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows)
    source_rows = table["source_row"].to_numpy()[chosen]
    ids = table["object_id"].take(pa.array(chosen)).to_pylist()
    members = [field for field in survey.members if field.is_carried(form)]
    again = Access(unit.build, unit.moved)
    arrays = again.read(
        survey, file, lambda path: module.read_arrays(survey, form, path, source_rows, ids, members), source_rows, members
    )
    return table, arrays


def same(one: tuple[pa.Table, dict[str, Any]], other: tuple[pa.Table, dict[str, Any]]) -> None:
    assert one[0].equals(other[0])
    assert one[1].keys() == other[1].keys()
    for name, arrays in one[1].items():
        for mine, theirs in zip(arrays, other[1][name], strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, name)


def from_both(survey: Survey, server: Served, place: Path, name: str, tmp_path: Path) -> Access:
    """Read a file at a distance and from its folder, compare; how it was reached."""
    far = Access(build_of(survey, server.url, tmp_path / "cache"))
    near = Access(build_of(survey, str(place), tmp_path / "cache"))
    same(
        read_all(survey, far, SourceFile(name, (f"{server.url}/{name}",)), CHOSEN),
        read_all(survey, near, SourceFile(name, (f"{place}/{name}",)), CHOSEN),
    )
    assert near.moved == {}
    return far


@pytest.mark.parametrize("name", ["old.hdf5", "new.hdf5"])
def test_chosen_rows_of_hdf5_move_less_than_five_percent(place: Path, tmp_path: Path, name: str) -> None:
    with serving(place) as server:
        file = SourceFile(name, (f"{server.url}/{name}",))
        unit = Access(build_of(HDF5, server.url, tmp_path / "cache"))
        ids = [str(10**12 + row) for row in CHOSEN]
        read: Any = lambda path: reader("mmu_v1").read_arrays(HDF5, "v1", path, CHOSEN, ids, HDF5.members)  # noqa: E731
        assert len(unit.read(HDF5, file, read, CHOSEN, HDF5.members)["image"]) == len(CHOSEN)
        assert server.sent[name] < 0.05 * (place / name).stat().st_size
        assert server.requests[name] < 60
        from_both(HDF5, server, place, name, tmp_path)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_the_table_of_a_cell_is_read_without_its_images(place: Path, tmp_path: Path) -> None:
    """3,072 cells times what one moves: no image of them."""
    with serving(place) as server:
        unit = Access(build_of(HDF5, server.url, tmp_path))
        file = SourceFile("old.hdf5", (f"{server.url}/old.hdf5",))
        found = unit.read(HDF5, file, lambda path: reader("mmu_v1").read_objects(HDF5, "v1", path))
        assert len(found.table) == COUNT
        content = sum(values.nbytes for values in columns().values()) + COUNT * (16 + 4096 // 60)
        assert server.sent["old.hdf5"] < content + 8 * BLOCK
        assert server.requests["old.hdf5"] < 25
        (moved,) = unit.moved.values()
        assert moved == {"read": "ranges", "bytes": server.sent["old.hdf5"] - 1, "requests": server.requests["old.hdf5"] - 1,
                         "of": (place / "old.hdf5").stat().st_size}  # fmt: skip


def test_chosen_rows_of_parquet_move_their_row_groups_only(place: Path, tmp_path: Path) -> None:
    with serving(place) as server:
        from_both(HATS, server, place, "part.parquet", tmp_path)
        of_groups = len(np.unique(CHOSEN // 20)) / (COUNT / 20) * (place / "part.parquet").stat().st_size
        of_table = 2 * sum(values.nbytes for values in columns().values())
        assert server.sent["part.parquet"] < 1.05 * of_groups + of_table + 6 * BLOCK


def test_many_objects_of_an_object_store_are_read_by_ranges(place: Path, tmp_path: Path, bucket: str) -> None:
    import s3fs

    s3fs.S3FileSystem().put(str(place / "old.hdf5"), f"{bucket}/place/old.hdf5")
    (file,) = list_files(HDF5.forms["v1"], f"{bucket}/place")
    far = Access(build_of(HDF5, f"{bucket}/place", tmp_path / "cache"))
    near = Access(build_of(HDF5, str(place), tmp_path / "cache"))
    local = SourceFile("old.hdf5", (f"{place}/old.hdf5",))
    same(read_all(HDF5, far, file, CHOSEN), read_all(HDF5, near, local, CHOSEN))
    assert [moved["read"] for moved in far.moved.values()] == ["ranges"]


# Real files


@pytest.mark.parametrize("name", ["ps1_sne_ia", "snls"])
def test_real_cells_at_a_distance_equal_the_local_ones(name: str, real_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "BLOCK", 1)  # they are smaller than what is fetched whole otherwise
    survey, folder = SURVEYS[name], real_data / "mmu_v1" / name
    with serving(folder) as server:
        far = Access(build_of(survey, server.url, tmp_path, "mmu_v1"))
        near = Access(build_of(survey, str(folder), tmp_path, "mmu_v1"))
        files = list_files(survey.forms["mmu_v1"], server.url)[:12]
        for file in files:
            local = SourceFile(file.relative, (f"{folder}/{file.relative}",))
            same(read_all(survey, far, file, None, "mmu_v1"), read_all(survey, near, local, None, "mmu_v1"))
        assert [moved["read"] for moved in far.moved.values()] == ["ranges"] * len(files)


def test_the_real_desi_partition_at_a_distance_equals_the_local_one(real_data: Path, tmp_path: Path) -> None:
    survey, folder = SURVEYS["desi"], real_data / "mmu_v1/desi_hats_form"
    name = "mmu-desi.parquet"
    ids = pq.read_table(folder / name, columns=["object_id"])["object_id"].to_pylist()
    members = [field for field in survey.members if field.is_carried("hats")]
    read: Any = lambda path: reader("hats").read_arrays(survey, "hats", path, np.array([1]), ids[1:], members)  # noqa: E731
    with serving(folder) as server:
        far = Access(build_of(survey, server.url, tmp_path, "hats"))
        found = far.read(survey, SourceFile(name, (f"{server.url}/{name}",)), read, np.array([1]), members)
    expected = read(folder / name)
    for member, arrays in expected.items():
        np.testing.assert_array_equal(found[member][0], arrays[0])


# The choice


def test_the_cheaper_way_is_taken(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(place) as server:
        file = SourceFile("old.hdf5", (f"{server.url}/old.hdf5",))

        def way(rows: np.ndarray | None, cache: str, **remote: Any) -> str:
            monkeypatch.setenv("MMU_REMOTE", json.dumps(remote))
            unit = Access(build_of(HDF5, server.url, tmp_path / cache))
            members = HDF5.members if rows is not None else ()
            unit.read(HDF5, file, lambda _: None, rows, members)
            return str(next(iter(unit.moved.values()))["read"])

        slow_line = {"latency_s": 0.001, "bytes_per_second": 10**6}
        assert way(None, "a", **slow_line) == "ranges"
        assert way(CHOSEN, "b", **slow_line) == "ranges"
        assert way(np.arange(COUNT), "c", **slow_line) == "whole"
        assert way(CHOSEN, "c", **slow_line) == "cache"
        assert way(CHOSEN, "d", latency_s=1.0, bytes_per_second=10**9) == "whole"
        assert way(CHOSEN, "e", way="whole", **slow_line) == "whole"
        file = SourceFile("old.hdf5", file.urls, sha256=hashlib.sha256((place / "old.hdf5").read_bytes()).hexdigest())
        assert way(CHOSEN, "f", **slow_line) == "whole"
        assert way(CHOSEN, "g", way="ranges", **slow_line) == "ranges"


# Faults


def test_a_server_that_knows_no_ranges_is_read_whole(place: Path, tmp_path: Path) -> None:
    with serving(place, {"old.hdf5": NoRanges()}) as server:
        unit = from_both(HDF5, server, place, "old.hdf5", tmp_path)
        assert [moved["read"] for moved in unit.moved.values()] == ["whole"]
        assert server.sent["old.hdf5"] < 1.2 * (place / "old.hdf5").stat().st_size


@pytest.mark.parametrize("fault", [Busy(2), CutShort(2), CutShort(2, keep=0.0)])
def test_passing_faults_of_ranges_are_retried(place: Path, tmp_path: Path, fault: Fault) -> None:
    with serving(place, {"old.hdf5": fault}) as server:
        unit = from_both(HDF5, server, place, "old.hdf5", tmp_path)
        assert [moved["read"] for moved in unit.moved.values()] == ["ranges"]


def read_far(server: Served, name: str, cache: Path, tag: str = "") -> Any:
    """The table of a file that is read by ranges."""
    unit = Access(build_of(HDF5, server.url, cache))
    file = SourceFile(name, (f"{server.url}/{name}",), tag=tag)
    return unit.read(HDF5, file, lambda path: reader("mmu_v1").read_objects(HDF5, "v1", path))


def test_a_file_that_changes_while_it_is_read_is_told_by_its_versions(place: Path, tmp_path: Path) -> None:
    with serving(place, {"old.hdf5": Changes(4)}) as server:
        with pytest.raises(SourceChanged, match="changed while it was read") as error:
            read_far(server, "old.hdf5", tmp_path)
        assert error.value.where["found"] == error.value.where["was"][:-1] + '-changed"'


def test_a_file_that_is_not_the_listed_one_is_told(place: Path, tmp_path: Path) -> None:
    with serving(place) as server, pytest.raises(SourceChanged, match="changed since it was listed"):
        read_far(server, "old.hdf5", tmp_path, tag='"another"')


def test_a_mirror_takes_over_where_ranges_fail(place: Path, tmp_path: Path) -> None:
    with serving(place, {"old.hdf5": Busy(999)}) as broken, serving(place) as mirror:
        file = SourceFile("old.hdf5", (f"{broken.url}/old.hdf5", f"{mirror.url}/old.hdf5"))
        unit = Access(build_of(HDF5, broken.url, tmp_path))
        found = unit.read(HDF5, file, lambda path: reader("mmu_v1").read_objects(HDF5, "v1", path))
        assert len(found.table) == COUNT


def test_what_is_wrong_with_a_file_at_a_distance_is_said_by_its_url(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.hdf5").write_bytes((place / "old.hdf5").read_bytes()[: 4 * BLOCK])
    with serving(tmp_path) as server:
        with pytest.raises(BrokenSource, match="not a readable HDF5 file") as error:
            read_far(server, "bad.hdf5", tmp_path / "cache")
        assert error.value.where["file"] == f"{server.url}/bad.hdf5"


# A whole build


def test_a_build_by_ranges_gives_the_samples_of_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BLOCK", 1)
    sky = Sky(tmp_path)
    _, here = run_all(sky.prepare())
    with serving(tmp_path) as server:
        sources = {name: f"{server.url}/{name}" for name in ("one", "two")}
        build = sky.prepare("far", sources=sources)
        outcomes, there = run_all(build)
    assert members(there) == members(here)
    assert there.samples == 60
    for stage in ("scan", "samples"):
        moved = [one for outcome in outcomes[stage] for one in outcome.receipt.facts["moved"].values()]
        assert moved
        assert {one["read"] for one in moved} == {"ranges"}
        assert all(one["bytes"] > 0 and one["requests"] > 0 for one in moved)
    assert not (tmp_path / "cache").exists()

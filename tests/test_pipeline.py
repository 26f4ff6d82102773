"""Stages in one process, without Prefect or Dask: what comes out, what is counted, what is set aside, what is redone."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import healpy as hp
import lsdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.errors import BadInput, PipelineError
from mmu_pipeline.shards.splits import near_other_split
from mmu_pipeline.simulate.light_curves import LightCurve
from mmu_pipeline.simulate.serve import Busy, CutShort, Served, serving
from mmu_pipeline.simulate.snana import PLAIN, Supernova, Traps, write_snana
from mmu_pipeline.sky import healpix29, pixels_at
from mmu_pipeline.stages import pipeline
from mmu_pipeline.stages.build import STAGES, Build, Outcome
from mmu_pipeline.stages.overview import plan, status
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import Published, publish
from mmu_pipeline.storage import Root
from tests.tiny import recipe_yaml, survey_yaml, write_cells


class Sky:
    """Two tiny surveys of one sky under a folder: `one` with 60 objects in a few cells, `two` with most of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(5)
        self.ra, self.dec = 40 + rng.uniform(0, 12, 60), rng.uniform(-6, 6, 60)
        self.ids = [f"A{number:03d}" for number in range(60)]
        self.files = write_cells(folder / "one", self.ra, self.dec, self.ids)
        seen = slice(0, 45)
        self.other = write_cells(folder / "two", self.ra[seen] + 1e-5, self.dec[seen], [f"B{n:03d}" for n in range(45)])
        for name in ("one", "two"):
            survey_yaml(folder / "surveys", name, folder / name)
        self.recipe = recipe_yaml(
            folder, "pair", primary={"survey": "one"},
            counterparts=[{"survey": "two", "radius_arcsec": 1.0, "pick": "mutual", "how": "left"}],
            shards={"samples_per_shard": 7},
        )  # fmt: skip

    def prepare(self, root: str = "root", **options: Any) -> Build:
        build = prepare(
            str(self.recipe),
            root=str(self.folder / root),
            survey_dirs=[self.folder / "surveys"],
            cache=str(self.folder / "cache"),
            **options,
        )
        claim_root(build)
        return build


@pytest.fixture
def sky(tmp_path: Path) -> Sky:
    return Sky(tmp_path)


def run_stage(stage: str, build: Build) -> list[Outcome]:
    outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
    finish_stage(stage, build, outcomes)
    return outcomes


def run_all(build: Build) -> tuple[dict[str, list[Outcome]], Published]:
    outcomes = {stage: run_stage(stage, build) for stage in STAGES}
    return outcomes, publish(build)


def content(published: Published) -> dict[str, bytes]:
    """Every file of a published set."""
    folder = Path(published.url)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def members(published: Published) -> dict[str, bytes]:
    """Every member of every shard of a published set, by name."""
    found = {}
    for shard in sorted(Path(published.url).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def test_every_object_becomes_one_sample_with_its_own_arrays(sky: Sky) -> None:
    _, published = run_all(sky.prepare())
    assert published.samples == 60
    assert published.set_aside == ()
    index = pq.read_table(Path(published.url) / "index/samples.parquet").to_pylist()
    found = members(published)
    for row in index:
        number = int(row["one_object_id"][1:])
        image = np.load(io.BytesIO(found[f"{row['key']}.one.image.npy"]), allow_pickle=False)
        assert image.dtype == "<f4"
        assert image[0, 0, 0] == number
        assert row["one_mag"] == pytest.approx(20 + number / 100)
        assert row["has_two"] == (number < 45)
        other = np.load(io.BytesIO(found[f"{row['key']}.two.image.npy"]), allow_pickle=False)
        assert other.shape == (2, 4, 4)
        if number < 45:
            assert row["two_object_id"] == f"B{number:03d}"
            assert other[0, 0, 0] == number
            assert row["two_separation_arcsec"] == pytest.approx(0.036 * np.cos(np.radians(row["dec"])), abs=1e-4)
        else:
            assert row["two_object_id"] is None
            assert not other.any()
    sizes = [shard.stat().st_size for shard in Path(published.url).glob("train-*.tar")]
    assert len(sizes) > 2


def test_a_cell_whose_samples_are_all_guarded_does_not_make_the_next_build_start_anew(tmp_path: Path) -> None:
    split = {"train": 0.4, "validation": 0.3, "test": 0.3, "order": 4, "guard_arcsec": 1800}
    ra, dec = hp.pix2ang(16, np.arange(3072), nest=True, lonlat=True)
    corner = np.moveaxis(hp.boundaries(16, np.arange(3072), step=1, nest=True), 1, -1)[:, 0]
    edge_ra, edge_dec = hp.vec2ang(0.98 * corner + 0.02 * hp.ang2vec(ra, dec, lonlat=True), lonlat=True)
    guarded = near_other_split(edge_ra, edge_dec, SplitRule(**split))
    lost = int(np.flatnonzero(guarded & (np.abs(dec) < 60))[0])
    kept = [int(cell) for cell in np.flatnonzero(~near_other_split(ra, dec, SplitRule(**split)))[:3] if cell != lost]
    places = [(edge_ra[lost], edge_dec[lost]), *((ra[cell], dec[cell]) for cell in kept)]
    write_cells(tmp_path / "one", *zip(*places, strict=True), [f"A{number}" for number in range(len(places))])
    survey_yaml(tmp_path / "surveys", "one", tmp_path / "one")
    recipe_yaml(tmp_path, "guarded", primary={"survey": "one"}, split=split)
    build = prepare(str(tmp_path / "guarded.yaml"), root=str(tmp_path / "root"), survey_dirs=[tmp_path / "surveys"])
    outcomes, first = run_all(build)
    assert (len(outcomes["samples"]), first.samples) == (len(places), len(kept))
    outcomes, second = run_all(build)
    assert (second.version, second.reused, outcomes["samples"]) == (first.version, True, [])


def test_poles_the_seam_of_the_sky_and_ids_of_any_script(tmp_path: Path) -> None:
    places = [(0.0, 0.0), (360.0, 1e-4), (359.9999, 0.0), (180.0, 90.0), (180.0, -90.0), (np.nan, 1.0), (10.0, 91.0)]
    others = [(360.0, 0.0), (0.0, 1e-4), (17.0, 90.0), (200.0, -90.0)]
    ids = ["Δ star 1", "日本2", "a/b|3", "A 4", "A5", "A6", "A7"]
    write_cells(tmp_path / "one", *zip(*places, strict=True), ids)
    write_cells(tmp_path / "two", *zip(*others, strict=True), ["ß1", "x\n2", "B3", "B4"])
    for name in ("one", "two"):
        survey_yaml(tmp_path / "surveys", name, tmp_path / name)
    recipe_yaml(tmp_path, "odd", primary={"survey": "one"}, counterparts=[{"survey": "two", "radius_arcsec": 0.1}])
    build = prepare(str(tmp_path / "odd.yaml"), root=str(tmp_path / "root"), survey_dirs=[tmp_path / "surveys"])
    _, published = run_all(build)
    index = build.root.read_table(f"shards/odd/{published.version}/index/samples.parquet").to_pylist()
    pairs = {row["one_object_id"]: row["two_object_id"] for row in index}
    assert pairs == {"Δ star 1": "ß1", "日本2": "x\n2", "a/b|3": None, "A 4": "B3", "A5": "B4"}
    assert {stage.stage: stage.skipped for stage in status(build).stages if stage.skipped} == {
        "scan": {"position is not on the sphere": 2}
    }


def test_what_a_broken_off_removal_left_of_a_version_is_in_no_ones_way(sky: Sky) -> None:
    build = sky.prepare()
    _, first = run_all(build)
    before = content(first)
    (Path(first.url) / "manifest.json").unlink()
    _, second = run_all(build)
    assert (second.version, second.reused) == (first.version, False)
    assert content(second) == before


def test_lsdb_opens_the_object_tables_and_counts_them_right(sky: Sky) -> None:
    build = sky.prepare()
    run_all(build)
    for name, rows in (("one", 60), ("two", 45)):
        catalog = lsdb.open_catalog(build.root.path(f"objects/{name}"))
        assert len(catalog) == rows
        frame = catalog.compute()
        assert len(frame) == rows
        assert frame.index.is_monotonic_increasing


def test_a_second_run_does_nothing_and_a_copy_elsewhere_has_the_same_bytes(sky: Sky) -> None:
    first, published = run_all(sky.prepare())
    assert all(outcome.status == "done" for outcomes in first.values() for outcome in outcomes)
    second, again = run_all(sky.prepare())
    assert again.reused
    assert again.version == published.version
    assert [outcome for outcomes in second.values() for outcome in outcomes if outcome.status != "reused"] == []
    assert not second["samples"]
    assert not second["shards"]
    _, other = run_all(sky.prepare("other"))
    assert content(other) == content(published)


def test_the_table_of_a_cell_can_be_rebuilt_after_its_source_changed_and_the_rest_stays(sky: Sky) -> None:
    _, before = run_all(sky.prepare())
    cell, path = next(iter(sky.files.items()))
    with h5py.File(path, "r+") as file:
        file["image"][0] = 777.0
    os.utime(path, (1, 1))
    outcomes, after = run_all(sky.prepare())
    assert after.version != before.version
    redone = {outcome.unit.name for outcome in outcomes["scan"] if outcome.status == "done"}
    assert redone == {f"one/{cell}"}
    assert (
        sum(
            np.load(io.BytesIO(data), allow_pickle=False)[0, 0, 0] == 777
            for name, data in members(after).items()
            if ".one.image" in name
        )
        == 1
    )
    assert Path(before.url).is_dir()  # readers of the version before are not disturbed


def test_a_truncated_file_sets_its_cell_aside_and_the_next_run_retries_just_that(sky: Sky) -> None:
    _, undisturbed = run_all(sky.prepare("undisturbed"))
    cell, path = next(iter(sky.files.items()))
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(whole[: len(whole) // 2])
    build = sky.prepare()
    _, published = run_all(build)
    assert [entry["unit"] for entry in published.set_aside] == [f"one/{cell}"]
    assert str(path) in published.set_aside[0]["reason"]
    assert [entry["unit"] for entry in status(build).set_aside] == [f"one/{cell}"]
    assert 0 < published.samples < 60
    checksums = [
        [survey["checksums"] for survey in json.loads(Path(made.url, "manifest.json").read_text())["surveys"]]
        for made in (undisturbed, published)
    ]
    assert [one != other for one, other in zip(*checksums, strict=True)] == [True, False]
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    outcomes, mended = run_all(sky.prepare())
    assert {outcome.unit.name for outcome in outcomes["scan"] if outcome.status == "done"} == {f"one/{cell}"}
    assert mended.set_aside == ()
    assert content(mended) == content(undisturbed)


def test_bad_rows_are_counted_with_their_reason(tmp_path: Path) -> None:
    sky = Sky(tmp_path)
    ra = np.concatenate([sky.ra, [np.nan, 400.0, sky.ra[3]]])
    dec = np.concatenate([sky.dec, [0.0, 0.0, sky.dec[3]]])
    write_cells(tmp_path / "one", ra, dec, [*sky.ids, "A900", "A901", "A003"])
    build = sky.prepare()
    outcomes, published = run_all(build)
    assert published.samples == 60
    assert published.set_aside == ()
    scanned = [outcome.receipt for outcome in outcomes["scan"] if outcome.unit.name.startswith("one/")]
    assert sum(receipt.rows_in for receipt in scanned) == 63
    assert sum(receipt.skipped.get("position is not on the sphere", 0) for receipt in scanned) == 2
    tables = [build.root.read_table(receipt.skipped_rows) for receipt in scanned if receipt.skipped_rows]
    assert {name for table in tables for name in table["object_id"].to_pylist()} == {"A900", "A901"}
    stored = [outcome.receipt for outcome in outcomes["objects"] if outcome.unit.name.startswith("one/")]
    assert sum(receipt.skipped.get("duplicate object_id", 0) for receipt in stored) == 1


def test_an_id_that_stands_in_two_cells_gives_one_sample_and_is_counted(tmp_path: Path) -> None:
    sky = Sky(tmp_path)
    cells = pixels_at(healpix29(sky.ra, sky.dec), 4)
    far = int(np.flatnonzero(cells != cells[3])[-1])
    ids = [*sky.ids]
    ids[far] = ids[3]
    write_cells(tmp_path / "one", sky.ra, sky.dec, ids)
    _, published = run_all(sky.prepare())
    manifest = Root(published.url).read_json("manifest.json")
    assert published.samples == manifest["counts"]["samples"] == 59
    assert manifest["skipped"]["shards"] == {"same key as a sample of another cell": 1}
    index = pq.read_table(Path(published.url) / "index/samples.parquet")
    assert index["one_object_id"].to_pylist().count(ids[3]) == 1


def test_a_recipe_may_ask_for_full_batches_and_a_world(sky: Sky) -> None:
    asked = {"samples_per_shard": 7, "multiple_of": 4, "world_size": 2}
    recipe_yaml(sky.folder, "pair", primary={"survey": "one"}, split={"train": 1, "validation": 0, "test": 0}, shards=asked)
    _, published = run_all(sky.prepare())
    manifest = Root(published.url).read_json("manifest.json")
    counts = [shard["samples"] for shard in manifest["splits"]["train"]["shards"]]
    assert len(counts) == 10
    assert set(counts) == {4, 8}
    assert manifest["repeats"] == 0
    recipe_yaml(sky.folder, "other", primary={"survey": "one"}, shards=asked | {"multiple_of": 64})
    sky.recipe = sky.folder / "other.yaml"
    _, padded = run_all(sky.prepare())
    manifest = Root(padded.url).read_json("manifest.json")
    assert manifest["repeats"] == manifest["samples"] - 60 > 0


def test_a_chosen_cell_gives_the_same_samples_as_the_whole_sky(sky: Sky) -> None:
    _, whole = run_all(sky.prepare("whole"))
    cell = sorted(sky.files)[0]
    build = sky.prepare("part", cells=[cell])
    _, part = run_all(build)
    expected, found = members(whole), members(part)
    assert 0 < len(found) < len(expected)
    assert all(expected[name] == data for name, data in found.items())
    index = pq.read_table(Path(part.url) / "index/samples.parquet")
    assert set(index["healpix"].to_pylist()) == {cell}
    assert {survey.survey for survey in plan(build).surveys} == {"one", "two"}


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Writes under the root fail with ENOSPC once `after` bytes are written."""
    written = 0
    real = Root.writing

    @contextmanager
    def writing(self: Root, relative: str) -> Iterator[Any]:
        nonlocal written
        with real(self, relative) as file:
            if written > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield file
            written += file.tell()

    with monkeypatch.context() as patch:
        patch.setattr(Root, "writing", writing)
        yield


@pytest.mark.parametrize("after", [1_000, 60_000, 200_000])
def test_a_full_disk_ends_the_run_with_a_clear_error_and_nothing_half_written(
    sky: Sky, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    _, undisturbed = run_all(sky.prepare("undisturbed"))
    with full_disk(monkeypatch, after), pytest.raises((PipelineError, OSError)) as caught:
        run_all(sky.prepare())
    assert "disk is full" in str(caught.value) or "No space left" in str(caught.value)
    assert not list((sky.folder / "root").rglob("*.partial/*.partial"))
    _, published = run_all(sky.prepare())
    assert content(published) == content(undisturbed)


def test_a_root_with_another_recipe_of_that_name_is_refused(sky: Sky) -> None:
    run_all(sky.prepare())
    recipe_yaml(sky.folder, "pair", primary={"survey": "one"})
    with pytest.raises(BadInput, match="made otherwise") as caught:
        sky.prepare()
    assert "counterparts" in str(caught.value)
    write_cells(sky.folder / "elsewhere", sky.ra, sky.dec, sky.ids)
    third = str(recipe_yaml(sky.folder, "third", primary={"survey": "one"}))
    moved = {"one": str(sky.folder / "elsewhere")}
    build = prepare(third, root=str(sky.folder / "root"), survey_dirs=[sky.folder / "surveys"], sources=moved)
    with pytest.raises(BadInput, match="the survey 'one'"):
        claim_root(build)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"primary": {"survey": "nosuch"}}, "unknown survey 'nosuch'"),
        ({"primary": {"survey": "one", "members": ["nosuch"]}}, "no field 'nosuch'"),
        ({"primary": {"survey": "one", "columns": ["image"]}}, "no field 'image' among its columns"),
        ({"primary": {"survey": "one", "where": "nosuch < 3"}}, "unknown column 'nosuch'"),
        ({"primary": {"survey": "one"}, "split": {"train": 0.5}}, "must be 1"),
        ({"primary": {"survey": "one"}, "colour": "red"}, "unknown key"),
    ],
)
def test_a_wrong_recipe_is_told_before_work_starts(sky: Sky, change: dict[str, Any], message: str) -> None:
    sky.recipe.write_text("")
    recipe_yaml(sky.folder, "pair", **change)
    with pytest.raises(BadInput, match=message):
        sky.prepare()
    assert not (sky.folder / "root").exists()


def test_a_bug_in_a_reader_sets_the_cell_aside_with_its_place_in_the_code(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("odd data")

    build = sky.prepare()
    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "scan", broken)  # type: ignore[arg-type]
    outcome = run_unit(units_of("scan", build)[0], build)
    assert outcome.status == "set_aside"
    assert "unexpected ZeroDivisionError: odd data" in outcome.receipt.reason
    assert "test_pipeline.py" in outcome.receipt.reason


def over_http(sky: Sky, server: Served, root: str = "root") -> Build:
    return sky.prepare(root, sources={name: f"{server.url}/{name}" for name in ("one", "two")})


def test_downloads_that_fail_for_a_while_change_nothing(sky: Sky) -> None:
    cells = sorted(sky.files)
    faults = {f"one/healpix={cells[0]}/001-of-001.hdf5": Busy(2), f"one/healpix={cells[1]}/001-of-001.hdf5": CutShort(2)}
    with serving(sky.folder, faults) as server:
        _, published = run_all(over_http(sky, server))
    assert published.set_aside == ()
    with serving(sky.folder) as server:
        _, undisturbed = run_all(over_http(sky, server, "undisturbed"))
    assert members(published) == members(undisturbed)


def test_a_file_that_cannot_be_had_sets_its_cell_aside_until_it_can(sky: Sky) -> None:
    cell = sorted(sky.files)[0]
    with serving(sky.folder, {f"one/healpix={cell}/001-of-001.hdf5": CutShort(9999)}) as server:
        outcomes, published = run_all(over_http(sky, server))
        assert [entry["unit"] for entry in published.set_aside] == [f"one/{cell}"]
        assert "no place gave this file whole" in published.set_aside[0]["reason"]
        assert f"{server.url}/one/healpix={cell}/001-of-001.hdf5" in published.set_aside[0]["reason"]
        assert {outcome.unit.name for outcome in outcomes["scan"] if outcome.status == "set_aside"} == {f"one/{cell}"}


def test_a_broken_text_file_is_left_out_alone_and_told(tmp_path: Path) -> None:
    places = [(10.0 + number, -20.0) for number in range(5)]
    for number, (ra, dec) in enumerate(places):
        curve = LightCurve(np.arange(50000.0, 50004.0), np.arange(4.0) + number, np.ones(4))
        traps = Traps(broken_row=1) if number == 2 else PLAIN
        write_snana(tmp_path / "raw" / f"sn{number}.txt", Supernova(f"{number:04d}", ra, dec, {"g": curve}), traps)
    flux = {"name": "flux", "dtype": "float32", "shape": ["epoch"], "from": "FLUXCAL"}
    form = {"reader": "snana", "files": ["*.txt"], "object_id": "SNID", "ra": "RA", "dec": "DECL"}
    survey_yaml(
        tmp_path / "surveys", "sne", tmp_path, modality="light_curve", forms={"snana": form}, fields=[flux], partition_order=0
    )
    recipe = recipe_yaml(tmp_path, "sne", primary={"survey": "sne"})
    build = prepare(
        str(recipe), root=str(tmp_path / "root"), survey_dirs=[tmp_path / "surveys"], sources={"sne": str(tmp_path / "raw")}
    )
    outcomes, published = run_all(build)
    assert published.samples == 4
    assert [receipt.receipt.status for receipt in outcomes["scan"]] == ["partial"]
    assert [entry["unit"] for entry in published.set_aside] == ["sne/all-0000"]
    assert str(tmp_path / "raw" / "sn2.txt") in published.set_aside[0]["reason"]
    _, again = run_all(build)
    assert again.reused
    assert len(again.set_aside) == 1

"""Builds whose recipes join by key or choose among repeats: across cells, again after changes, with parts of the sky missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import healpix29, pixels_at
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.match_units import key_units, sample_units
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, stage_receipts, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import publish
from tests.tiny import recipe_yaml, survey_yaml

FIELDS = [
    {"name": "image", "dtype": "float32", "shape": [2, 4, 4], "unit": "nJy", "bands": ["g", "r"]},
    {"name": "star", "dtype": "int64", "sentinels": [-1]},
    {"name": "snr", "dtype": "float32", "sentinels": [-99.0]},
]
COUNT = 40


class Stars:
    """Under a folder: `one` with 40 stars in a few cells, `two` with spectra of them by number, far off, and `three` nearby."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(8)
        self.ra, self.dec = 40 + rng.uniform(0, 12, COUNT), rng.uniform(-6, 6, COUNT)
        star = np.arange(COUNT)
        self.write("one", self.ra, self.dec, [f"A{n:03d}" for n in star], np.where(star % 10 == 9, -1, star))
        seen = np.repeat(star[:30], 2)
        self.write("two", self.ra[seen] + 30, self.dec[seen], [f"S{n:03d}" for n in range(60)], seen, np.arange(60) % 7)
        self.write("three", self.ra[5:] + 1e-5, self.dec[5:], [f"C{n:03d}" for n in star[5:]], star[5:])

    def write(
        self, name: str, ra: np.ndarray, dec: np.ndarray, ids: Sequence[str], star: np.ndarray, snr: np.ndarray | None = None,
        **changes: Any,
    ) -> None:  # fmt: skip
        cells = pixels_at(healpix29(ra, dec), 4)
        for cell in np.unique(cells):
            rows = np.flatnonzero(cells == cell)
            path = self.folder / name / f"healpix={cell}/001-of-001.hdf5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["object_id"] = np.array([ids[row].encode() for row in rows])
                file["ra"], file["dec"], file["star"] = ra[rows], dec[rows], star[rows]
                file["snr"] = (np.zeros(len(rows)) if snr is None else snr[rows]).astype("f4")
                file["image"] = np.ones((len(rows), 2, 4, 4), "f4") * rows[:, None, None, None]
        survey_yaml(self.folder / "surveys", name, self.folder / name, fields=FIELDS, **changes)

    def build(self, root: str = "root", bucket_rows: int = 11, cells: Sequence[int] | None = None, **recipe: Any) -> Build:
        content = {"name": "keyed", "primary": {"survey": "one"}, "shards": {"samples_per_shard": 7}, **recipe}
        path = recipe_yaml(self.folder / root, content.pop("name"), **content)
        build = prepare(str(path), root=str(self.folder / root), survey_dirs=[self.folder / "surveys"], cells=cells,
                        cache=str(self.folder / "cache"))  # fmt: skip
        claim_root(build, replace=True)
        return replace(build, bucket_rows=bucket_rows)


@pytest.fixture
def stars(tmp_path: Path) -> Stars:
    return Stars(tmp_path)


def run(build: Build) -> tuple[dict[str, dict[str, str]], list[dict[str, Any]]]:
    """Run all stages: what became of each unit, by stage, and the samples."""
    done = {}
    for stage in STAGES:
        outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
        finish_stage(stage, build, outcomes)
        done[stage] = {outcome.unit.name: outcome.status for outcome in outcomes}
    published = Path(publish(build).url)
    return done, pq.read_table(published / "index/samples.parquet").to_pylist()


def lost(build: Build) -> Mapping[str, int]:
    """Primaries without a sample, by reason."""
    reasons: dict[str, int] = {}
    for receipt in stage_receipts(build, "match"):
        assert receipt.rows_in == receipt.facts["primaries"] + sum(receipt.skipped.values())
        for reason, count in receipt.skipped.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return reasons


BY_STAR = {"survey": "two", "on": {"star": "star"}}


def test_keys_and_positions_in_one_recipe(stars: Stars) -> None:
    nearby = {"survey": "three", "radius_arcsec": 1.0, "how": "inner"}
    for others in ([{**BY_STAR, "pick": "best: snr"}, nearby], [nearby, {**BY_STAR, "pick": "best: snr"}]):
        build = stars.build(counterparts=others)
        done, samples = run(build)
        assert len(done["keys"]) == 100 // 11 + 1
        assert sorted(row["one_object_id"] for row in samples) == [f"A{n:03d}" for n in range(5, COUNT)]
        for row in samples:
            number = int(row["one_object_id"][1:])
            best = max((2 * number, 2 * number + 1), key=lambda n: n % 7)
            assert row["three_object_id"] == f"C{number:03d}"
            assert row["two_object_id"] == (f"S{best:03d}" if number < 30 and number % 10 != 9 else None)
            if row["has_two"]:
                assert (row["two_n_candidates"], row["two_star"], row["two_snr"]) == (2, number, best % 7)
                assert 100_000 < row["two_separation_arcsec"] < 110_000
        assert lost(build) == {"no three within 1 arcsec": 5}


def test_all_spectra_of_a_star_are_samples_of_their_own(stars: Stars) -> None:
    _, samples = run(stars.build(counterparts=[{**BY_STAR, "pick": "all", "how": "inner"}]))
    pairs = {(row["one_object_id"], row["two_object_id"], row["two_rank"]) for row in samples}
    assert len({row["key"] for row in samples}) == len(samples) == len(pairs) == 54
    assert {(one, two) for one, two, _ in pairs} == {(f"A{n // 2:03d}", f"S{n:03d}") for n in range(60) if n // 2 % 10 != 9}


def test_without_keys_and_repeats_the_stage_costs_nothing(stars: Stars, monkeypatch: pytest.MonkeyPatch) -> None:
    build = stars.build(counterparts=[{"survey": "three", "radius_arcsec": 1.0}])
    done, samples = run(build)
    assert done["keys"] == {}
    assert len(samples) == COUNT
    monkeypatch.setattr("mmu_pipeline.stages.match_units.stage_receipts", lambda *_: pytest.fail("read receipts"))
    assert key_units(build) == []


def test_a_second_run_does_nothing_and_a_changed_file_redoes_what_follows_from_it(stars: Stars) -> None:
    recipe = {"counterparts": [{**BY_STAR, "pick": "best: snr"}]}
    first, before = run(stars.build(**recipe))
    known = {unit.name: unit.fingerprint for unit in sample_units(stars.build(**recipe))}
    again, _ = run(stars.build(**recipe))
    assert {state for done in (first["keys"], first["match"]) for state in done.values()} == {"done"}
    assert {state for stage in ("scan", "objects", "keys", "match") for state in again[stage].values()} == {"reused"}

    (path,) = [path for path in (stars.folder / "two").glob("healpix=*/*.hdf5") if has(path, "S000")]
    with h5py.File(path, "r+") as file:
        row = file["object_id"][()].tolist().index(b"S000")
        file["snr"][row] = 50.0
    build = stars.build(**recipe)
    changed, after = run(build)
    assert list(changed["scan"].values()).count("done") == list(changed["objects"].values()).count("done") == 1
    assert set(changed["keys"].values()) == {"done"}
    assert list(changed["match"].values()).count("done") == 1, "only the block of the star whose pair is another"
    redone = {unit.name.rsplit("/", 1)[1] for unit in sample_units(build) if unit.fingerprint != known[unit.name]}
    pointing = {str(row["healpix"]) for row in after if row["has_two"] and cell_of(row, "two") == int(path.parent.name[8:])}
    assert redone == pointing, "samples that hold rows of the changed file"
    assert [row["two_object_id"] for row in after if row["one_object_id"] == "A000"] == ["S000"]
    assert [row["two_object_id"] for row in before if row["one_object_id"] == "A000"] == ["S001"]


def has(path: Path, name: str) -> bool:
    with h5py.File(path) as file:
        return name.encode() in file["object_id"][()].tolist()


def cell_of(row: Mapping[str, Any], survey: str) -> int:
    return int(pixels_at(healpix29(np.array([row[f"{survey}_ra"]]), np.array([row[f"{survey}_dec"]])), 4)[0])


def test_where_a_keyed_survey_cannot_be_read_stars_without_a_pair_are_unknown(stars: Stars) -> None:
    broken = next(path for path in sorted((stars.folder / "two").glob("healpix=*/*.hdf5")))
    with h5py.File(broken) as file:
        missing = len(set(file["star"][()].tolist()) - {9, 19, 29})
    broken.write_bytes(broken.read_bytes()[:400])
    build = stars.build(counterparts=[BY_STAR])
    _, samples = run(build)
    cell = broken.parent.name[8:]
    unpaired = missing + 10 + 3
    assert lost(build) == {f"no two with the same star, but scan two/{cell} set aside": unpaired}
    assert len(samples) == COUNT - unpaired
    assert all(row["has_two"] for row in samples)


def test_a_part_of_the_sky_sees_keyed_counterparts_anywhere(stars: Stars) -> None:
    cell = int(pixels_at(healpix29(stars.ra[:1], stars.dec[:1]), 4)[0])
    recipe = {"counterparts": [{**BY_STAR, "pick": "mutual"}, {"survey": "three", "radius_arcsec": 1.0}]}
    _, whole = run(stars.build("whole", **recipe))
    done, part = run(stars.build("part", cells=[cell], **recipe))
    names = ("one_object_id", "two_object_id", "three_object_id")
    assert sorted(str([row[name] for name in names]) for row in part) == sorted(
        str([row[name] for name in names]) for row in whole if row["healpix"] == cell
    )
    every = {path.parent.name[8:] for path in (stars.folder / "two").glob("healpix=*/*.hdf5")}
    assert {name.split("/")[1] for name in done["scan"] if name.startswith("two/")} == every
    near = {str(cell), *map(str, hp.get_all_neighbours(16, cell, nest=True))}
    assert {name.split("/")[1] for name in done["scan"] if name.startswith("three/")} <= near


@pytest.mark.parametrize(
    ("repeats", "seen"),
    [(None, ("D0", "D0", "D1", "D2", "D2", "D2")), ("first", ("D0", "D1", "D2")), ("best: snr", ("D0", "D1", "D2"))],
)
def test_observations_of_one_star_on_both_sides_of_a_border(stars: Stars, repeats: str | None, seen: tuple[str, ...]) -> None:
    corner = hp.boundaries(16, 1108, step=1, nest=True).T[0]
    ra, dec = hp.vec2ang(corner, lonlat=True)
    ids, snr = ["D0", "D0", "D1", "D2", "D2", "D2"], np.array([1.0, 5.0, 2.0, 3.0, 9.0, -99.0])
    ra, dec = np.mod(ra + 2e-4 * np.array([1, -1, 0, 0, 1, -1]), 360), dec + 2e-4 * np.array([0, 0, 1, -1, 1, 1])
    assert len(set(pixels_at(healpix29(ra, dec), 4).tolist())) > 2
    stars.write("obs", ra, dec, ids, np.arange(6), snr, repeated_ids=True)
    primary = {"survey": "obs", **({"repeats": repeats} if repeats else {})}
    for rows in (1, 100):
        build = stars.build(f"root{rows}", rows, name=f"obs{rows}", primary=primary)
        _, samples = run(build)
        assert tuple(sorted(row["obs_object_id"] for row in samples)) == seen
        assert len({row["key"] for row in samples}) == len(seen)
        if repeats == "best: snr":
            assert sorted(row["obs_snr"] for row in samples) == [2.0, 5.0, 9.0]
            assert lost(build) == {"not the best observation of its object (snr)": 3}
        elif repeats == "first":
            assert sum(lost(build).values()) == 3


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, {"best"}),
        ({"repeats": "first"}, {"first"}),
        ({"repeats": "all"}, {"first", "best", "other"}),
        ({"repeats": "all", "pick": "mutual"}, {"first", "best", "other"}),
        ({"repeats": "best: snr asc", "pick": "all"}, {"first", "alone"}),
        ({"pick": "all"}, {"first", "best", "other", "alone"}),
    ],
)
def test_of_a_counterpart_with_repeats_the_object_is_picked(stars: Stars, other: dict[str, str], expected: set[str]) -> None:
    tags = {0: "first", 1: "best", 2: "other", 3: "alone"}
    ra, dec = 41.0 + np.array([3e-5, 2e-5, 4e-5, 1e-4]), np.zeros(4)
    stars.write("near", np.array([41.0]), np.zeros(1), ["P"], np.zeros(1, int))
    stars.write("obs", ra, dec, ["D", "D", "D", "E"], np.arange(4), np.array([1.0, 7.0, 3.0, 2.0]), repeated_ids=True,
                quality="snr desc")  # fmt: skip
    build = stars.build(name="near", primary={"survey": "near"}, counterparts=[{"survey": "obs", "radius_arcsec": 1.0, **other}])
    _, samples = run(build)
    assert {tags[row["obs_star"]] for row in samples} == expected
    assert len({row["key"] for row in samples}) == len(samples) == len(expected)
    counted = {reason: n for receipt in stage_receipts(build, "keys") for reason, n in receipt.skipped.items()}
    assert sum(counted.values()) == (0 if build.recipe.counterparts[0].repeats == "all" else 2)


def test_a_form_without_the_column_of_a_join_is_refused(stars: Stars, tmp_path: Path) -> None:
    fields = [{**field, "from": {"mmu_v1": None}} if field["name"] == "star" else field for field in FIELDS]
    survey_yaml(tmp_path / "surveys", "two", tmp_path / "two", fields=fields)
    with pytest.raises(BadInput, match="does not carry the column 'star' to join on"):
        stars.build(counterparts=[BY_STAR])


def test_the_manifest_says_how_each_counterpart_was_found(stars: Stars) -> None:
    build = stars.build(counterparts=[BY_STAR, {"survey": "three", "radius_arcsec": 1.0}])
    run(build)
    latest = build.root.read_bytes("shards/keyed/LATEST").decode().strip()
    two, three = build.root.read_json(f"shards/keyed/{latest}/manifest.json")["recipe"]["counterparts"]
    assert two["on"] == {"star": "star"}
    assert "radius_arcsec" not in two
    assert three["radius_arcsec"] == 1.0
    table = pa.concat_tables([build.root.read_table(path) for r in stage_receipts(build, "match") for path in r.outputs
                              if path.startswith("matches/keyed/")])  # fmt: skip
    assert table["two_crosses_border"].to_pylist().count(True) == 27

"""Listing and fetching from real servers on loopback: faults are retried, checked and told."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BadInput, BrokenSource, Unreachable
from mmu_pipeline.readers.companions import companion, find_companion
from mmu_pipeline.simulate.serve import Busy, CutShort, serving
from mmu_pipeline.stages.build import SourceFile
from mmu_pipeline.stages.download import companion_versions, detect_form, fetched, list_files, reading

CELLS = Form(reader="mmu_v1", files=("healpix=*/*.hdf5", "healpix=*/*.h5"), cut_by_cell=True)
FLAT = Form(reader="snana", files=("*.txt",))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    for name in ("healpix=1/a.hdf5", "healpix=0011/b.h5", "healpix=11/c.hdf5", "healpix=110/d.hdf5", "other/e.hdf5", "f.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def test_cells_are_exact_path_components_padded_or_not(place: Path) -> None:
    for url in (str(place), f"file://{place}"):
        assert [(f.relative, f.cells) for f in list_files(CELLS, url)] == [
            ("healpix=0011/b.h5", range(11, 12)), ("healpix=1/a.hdf5", range(1, 2)),
            ("healpix=11/c.hdf5", range(11, 12)), ("healpix=110/d.hdf5", range(110, 111)),
        ]  # fmt: skip
        assert [f.relative for f in list_files(CELLS, url, cells=[1])] == ["healpix=1/a.hdf5"]
        assert [f.relative for f in list_files(CELLS, url, cells=[11])] == ["healpix=0011/b.h5", "healpix=11/c.hdf5"]


def test_hats_partitions_of_any_order_are_chosen_by_the_cells_that_they_cover(tmp_path: Path) -> None:
    partitions = {"Norder=2/Dir=0/Npix=7": range(112, 128), "Norder=4/Dir=0/Npix=1104": range(1104, 1105),
                  "Norder=6/Dir=10000/Npix=17680": range(1105, 1106)}  # fmt: skip
    for name in partitions:
        path = tmp_path / f"dataset/{name}.parquet"
        path.parent.mkdir(parents=True)
        path.touch()
    form = Form(reader="hats", files=("dataset/Norder=*/Dir=*/Npix=*.parquet",), cut_by_cell=True)
    found = {file.relative: file.cells for file in list_files(form, str(tmp_path))}
    assert found == {f"dataset/{name}.parquet": cells for name, cells in partitions.items()}
    for wanted, expected in (([1105], [17680]), ([1104, 113], [7, 1104]), ([5], [])):
        names = [file.relative.rpartition("=")[2] for file in list_files(form, str(tmp_path), cells=wanted)]
        assert names == [f"{pixel}.parquet" for pixel in expected]


def test_companions_of_a_file_come_with_it(tmp_path: Path) -> None:
    for name in ("spectra/coadd-1.fits", "redshifts/redrock-1.fits", "spectra/coadd-2.fits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    form = Form(reader="x", files=("*/coadd-*",), companions={"redrock": ("coadd-", "../redshifts/redrock-")})
    local = SourceFile("spectra/coadd-1.fits", (f"{tmp_path}/spectra/coadd-1.fits",))
    with reading(local, form, "") as path:
        assert companion(form, "redrock", path).read_text() == "redshifts/redrock-1.fits"
    with serving(tmp_path) as server:
        for number in (1, 2):
            name = f"spectra/coadd-{number}.fits"
            with reading(SourceFile(name, (f"{server.url}/{name}",)), form, tmp_path / "cache") as path:
                assert path.read_text() == name
                found = find_companion(form, "redrock", path)
                assert (found is None) == (number == 2)
                if found is None:
                    with pytest.raises(BrokenSource, match="redrock is not there"):
                        companion(form, "redrock", path)
                else:
                    assert found.read_text() == "redshifts/redrock-1.fits"


def test_versions_of_companions_are_listed_here_and_at_a_distance(tmp_path: Path) -> None:
    for name in ("spectra/coadd-1.fits", "redshifts/redrock-1.fits", "spectra/coadd-2.fits", "all.fits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    companions = {"redrock": ("coadd-", "../redshifts/redrock-"), "catalog": ("*", "../all.fits"), "none": ("*", "../x/y"),
                  "far": ("*", f"{'../' * 9}x/y")}  # fmt: skip
    form = Form(reader="x", files=("*/coadd-*",), companions=companions)

    def versions(place: str) -> dict[str, list[tuple[str, int | None, str]]]:
        return companion_versions(form, list_files(form, place))

    with serving(tmp_path) as server:
        for place in (str(tmp_path), server.url):
            before = versions(place)
            assert {name: [found[:2] for found in listed] for name, listed in before.items()} == {
                "spectra/coadd-1.fits": [("redrock", 24), ("catalog", 8)], "spectra/coadd-2.fits": [("catalog", 8)],
            }  # fmt: skip
            (tmp_path / "redshifts/redrock-1.fits").write_text("REDSHIFTS/redrock-1.fits")
            after = versions(place)
            assert before["spectra/coadd-1.fits"][0] != after["spectra/coadd-1.fits"][0]
            assert before["spectra/coadd-2.fits"] == after["spectra/coadd-2.fits"]


def test_the_same_listing_over_http_with_sizes_and_tags(place: Path) -> None:
    with serving(place) as server:
        over_http = list_files(CELLS, server.url)
    assert [f.relative for f in over_http] == [f.relative for f in list_files(CELLS, str(place))]
    assert all(f.size == len(f.relative) * 1000 and f.tag for f in over_http)


def test_a_form_is_told_by_the_files_that_are_there(place: Path) -> None:
    assert detect_form({"flat": FLAT, "cells": CELLS}, str(place)) == "flat"
    (place / "f.txt").unlink()
    assert detect_form({"flat": FLAT, "cells": CELLS}, str(place)) == "cells"
    assert detect_form({"flat": FLAT}, str(place)) is None
    with pytest.raises(BadInput, match="no file of this survey"):
        list_files(FLAT, str(place))


def fetch(file: SourceFile, cache: Path) -> bytes:
    with fetched(file, str(cache)) as path:
        return path.read_bytes()


def source(url: str, name: str, **known: object) -> SourceFile:
    return SourceFile(name, (f"{url}/{name}",), **known)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [Busy(2), CutShort(2), CutShort(1, keep=0.0)])
def test_passing_faults_are_retried(place: Path, tmp_path: Path, fault: Busy | CutShort) -> None:
    with serving(place, {"f.txt": fault}) as server:
        content = fetch(source(server.url, "f.txt", size=5000), tmp_path / "cache")
        assert content == (place / "f.txt").read_bytes()
        assert fetch(source(server.url, "f.txt", size=5000), tmp_path / "cache") == content
        assert server.requests["f.txt"] == fault.times + 1


@pytest.mark.parametrize("fault", [Busy(99), CutShort(99)])
def test_lasting_faults_end_unreachable_and_leave_no_file(place: Path, tmp_path: Path, fault: Busy | CutShort) -> None:
    with serving(place, {"f.txt": fault}) as server, pytest.raises(Unreachable, match="no place gave this file whole"):
        fetch(source(server.url, "f.txt", size=5000), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("f.txt"))


def test_a_mirror_takes_over(place: Path, tmp_path: Path) -> None:
    with serving(place, {"f.txt": Busy(99)}) as broken, serving(place) as mirror:
        file = SourceFile("f.txt", (f"{broken.url}/f.txt", f"{mirror.url}/f.txt"))
        assert fetch(file, tmp_path / "cache") == (place / "f.txt").read_bytes()


def test_a_wrong_checksum_is_not_accepted(place: Path, tmp_path: Path) -> None:
    good = hashlib.sha256((place / "f.txt").read_bytes()).hexdigest()
    with serving(place) as server:
        assert len(fetch(source(server.url, "f.txt", sha256=good), tmp_path / "one")) == 5000
        with pytest.raises(Unreachable, match="published is 0000"):
            fetch(source(server.url, "f.txt", sha256="0" * 64), tmp_path / "two")


def test_checksums_beside_the_data_are_found(place: Path, tmp_path: Path) -> None:
    good = hashlib.sha256((place / "f.txt").read_bytes()).hexdigest()
    (place / "SHA256SUMS").write_text(f"{good}  f.txt\n")
    with serving(place) as server:
        (listed,) = list_files(FLAT, server.url)
        assert listed.sha256 == good
        (place / "f.txt").write_bytes(b"x" * 5000)
        with pytest.raises(Unreachable, match="published is"):
            fetch(replace(listed, tag=""), tmp_path / "cache")


def test_no_server_at_all_is_told_in_one_error() -> None:
    with pytest.raises(Unreachable, match="cannot be read"):
        list_files(FLAT, "http://127.0.0.1:9/nothing")

"""HDF5 with a group per object: broken and hostile files are named with group and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, hdf5, mmu_v1_groups
from mmu_pipeline.simulate import mmu_v1
from mmu_pipeline.simulate.objects import Objects, invented
from mmu_pipeline.simulate.sky import sky_objects

SURVEY = load_surveys()["manga"]
Galaxies = tuple[Objects, Path]


@pytest.fixture
def galaxies(tmp_path: Path) -> Galaxies:
    """Two galaxies."""
    truth = invented(SURVEY, "mmu_v1", sky_objects(3).slice(5, 2), ["8485-0", "8485-1"], seed=3)
    mmu_v1.write_file(tmp_path / "0001-of-0001.hdf5", truth)
    return truth, tmp_path / "0001-of-0001.hdf5"


def read(path: Path, row: int = 1, object_id: str = "8485-1", members: tuple[str, ...] = ()) -> dict[str, list[np.ndarray]]:
    fields = [SURVEY.field(name) for name in members] or [*SURVEY.members]
    found = mmu_v1_groups.read_arrays(SURVEY, "mmu_v1", path, np.array([row]), [object_id], fields)
    return {name: list(arrays) for name, arrays in found.items()}


def changed_table(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "a") as file:
        table = file[f"8485-1/{name}"][()]
        del file[f"8485-1/{name}"]
        file[f"8485-1/{name}"] = change(table)


def without(name: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(table: np.ndarray) -> np.ndarray:
        kept = [column for column in table.dtype.names or () if column != name]
        result = np.zeros(len(table), [(column, table.dtype[column]) for column in kept])
        for column in kept:
            result[column] = table[column]
        return result

    return change


def test_spaxels_without_data_are_left_out_whatever_is_asked_for(galaxies: Galaxies) -> None:
    truth, path = galaxies
    (only,) = read(path, members=("x",))["x"]
    np.testing.assert_array_equal(only, truth.members["x"][1])


def test_a_table_is_read_in_slabs(galaxies: Galaxies, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, path = galaxies
    monkeypatch.setattr(hdf5, "SLAB_BYTES", 100_000)
    (flux,) = read(path, members=("flux",))["flux"]
    np.testing.assert_array_equal(flux, np.where(truth.members["mask"][1] | (flux != 0), truth.members["flux"][1], 0))


def test_a_galaxy_without_an_id_is_skipped(galaxies: Galaxies) -> None:
    _, path = galaxies
    with h5py.File(path, "a") as file:
        del file["8485-0/object_id"]
        file["8485-0/object_id"] = b""
    found = mmu_v1_groups.read_objects(SURVEY, "mmu_v1", path)
    assert found.table["object_id"].to_pylist() == ["8485-1"]
    assert found.skipped == (Skipped(0, "", "no object id"),)


@pytest.mark.parametrize(
    ("table", "change", "names"),
    [
        ("spaxels", without("lsf_sigma"), ["a declared column is missing", "column: lsf_sigma", "8485-1"]),
        ("images", without("image_psf"), ["a declared column is missing", "column: psf"]),
        ("maps", lambda table: table[:3], ["a table lacks a row", "column: "]),
        ("maps", without("label"), ["a declared column is missing", "label"]),
    ],
)
def test_what_a_table_lacks_is_named(
    galaxies: Galaxies, table: str, change: Callable[[np.ndarray], np.ndarray], names: list[str]
) -> None:
    _, path = galaxies
    changed_table(path, table, change)
    with pytest.raises(BrokenSource) as caught:
        read(path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_a_mask_that_is_a_copy_of_the_flux_is_refused(galaxies: Galaxies) -> None:
    _, path = galaxies

    def copied(table: np.ndarray) -> np.ndarray:
        kind = [(name, ("f4", (4563,)) if name == "mask" else table.dtype[name]) for name in table.dtype.names or ()]
        result = np.zeros(len(table), kind)
        for name in table.dtype.names or ():
            result[name] = table["flux" if name == "mask" else name]
        return result

    changed_table(path, "spaxels", copied)
    with pytest.raises(BrokenSource, match=r"a mask of fractions[\s\S]*column: mask"):
        read(path)
    assert len(read(path, members=("wavelength", "image"))["image"][0]) == 4


def test_links_missing_tables_and_other_rows_are_refused(galaxies: Galaxies) -> None:
    _, path = galaxies
    with pytest.raises(BrokenSource, match="another object"):
        read(path, object_id="8485-0")
    with pytest.raises(BrokenSource, match="no such row"):
        read(path, row=2)
    with h5py.File(path, "a") as file:
        del file["8485-1/maps"]
        file["8485-1/maps"] = h5py.SoftLink("/8485-0/maps")
    with pytest.raises(BrokenSource, match=r"a declared table is missing[\s\S]*column: g_flux"):
        read(path)
    with h5py.File(path, "a") as file:
        file["8485-2"] = h5py.ExternalLink("other.hdf5", "/x")
    with pytest.raises(BrokenSource, match="not a group of this file"):
        mmu_v1_groups.read_objects(SURVEY, "mmu_v1", path)

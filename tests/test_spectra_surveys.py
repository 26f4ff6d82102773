"""Surveys of spectra: generated cells of each in its published form, read and compared with the truth, value by value."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate import apogee, chandra, desi, gaia, galah, lamost, sdss, vipers
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.hats import RECORDS, write_partition
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.sky import sky_objects

SURVEYS = load_surveys()
LAYOUTS: dict[str, ModuleType] = {
    "apogee": apogee, "chandra": chandra, "desi": desi, "galah": galah, "lamost": lamost, "vipers": vipers,
}  # fmt: skip
ALL = {**LAYOUTS, "sdss": sdss, "gaia": gaia}
EXACT = 1e-6
WAVELENGTH = {"galah": 2e-7, "apogee": 1e-12}
"""Relative: the published wavelengths of GALAH are float32, those of APOGEE are put back on their grid."""


def some_rows(name: str, count: int = 6) -> pa.Table:
    """What the survey sees of the sky, with its ids: the first objects of every second kind."""
    layout = ALL[name]
    rows = detect(sky_objects(0), INSTRUMENTS[name], 0)
    rows = rows.filter(pc.and_(pc.is_finite(rows["ra"]), pc.equal(rows["fault"], "")))
    rows = rows.take(np.linspace(0, len(rows) - 1, count).astype(int))
    return rows.append_column("object_id", pa.array(layout.object_ids(rows)))


def everything(survey: Survey, form: str, path: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Id -> row and arrays of each object of a file, read in another order than they stand in."""
    format_reader = reader(survey.forms[form].reader)
    found = format_reader.read_objects(survey, form, path)
    assert found.skipped == ()
    table = found.table.take(np.random.default_rng(0).permutation(len(found.table)))
    members = [field for field in survey.members if field.is_carried(form)]
    ids = table["object_id"].to_pylist()
    arrays = format_reader.read_arrays(survey, form, path, table["source_row"].to_numpy(), ids, members)
    return {
        row["object_id"]: (row, {name: values[at] for name, values in arrays.items()}) for at, row in enumerate(table.to_pylist())
    }


def agree(survey: Survey, found: Any, expected: Any, name: str) -> None:
    """One field of one object against what it should be."""
    if expected is None:
        assert found is None, name
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        assert found.dtype == survey.field(name).numpy_dtype
        np.testing.assert_allclose(
            found, expected, rtol=WAVELENGTH.get(survey.name, EXACT) if "wavelength" in name else EXACT, err_msg=name
        )
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, err_msg=name)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-30), name
    else:
        assert found == expected, name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_generated_cell_gives_back_the_truth(name: str, tmp_path: Path) -> None:
    survey, rows = SURVEYS[name], some_rows(name)
    truth = LAYOUTS[name].true_rows(rows, 0)
    LAYOUTS[name].write_file(tmp_path / "cell.hdf5", rows, 0)
    objects = everything(survey, "mmu_v1", tmp_path / "cell.hdf5")
    assert sorted(objects) == sorted(rows["object_id"].to_pylist())
    carried = {field.name for field in survey.fields if field.is_carried("mmu_v1")}
    for position, expected in zip(rows.select(["object_id", "ra", "dec"]).to_pylist(), truth, strict=True):
        row, arrays = objects[position["object_id"]]
        assert (row["ra"], row["dec"]) == (position["ra"], position["dec"])
        assert expected.keys() == carried
        for field, value in expected.items():
            agree(survey, {**row, **arrays}[field], value, field)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_files_lie_where_the_survey_is_looked_for(name: str) -> None:
    rows = some_rows(name)
    last = LAYOUTS[name].FOLDER.split("/")[-1]
    patterns = SURVEYS[name].forms["mmu_v1"].files
    for file in LAYOUTS[name].file_names(rows):
        assert any(Path(file).match(pattern) or Path(f"{last}/{file}").match(pattern) for pattern in patterns)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cell_without_rows_is_read(name: str, tmp_path: Path) -> None:
    LAYOUTS[name].write_file(tmp_path / "cell.hdf5", some_rows(name), 0)
    with h5py.File(tmp_path / "cell.hdf5") as full, h5py.File(tmp_path / "empty.hdf5", "w") as empty:
        for dataset in full:
            empty.create_dataset(dataset, data=full[dataset][:0], dtype=full[dataset].dtype)
    found = reader("mmu_v1").read_objects(SURVEYS[name], "mmu_v1", tmp_path / "empty.hdf5")
    assert len(found.table) == 0


@pytest.mark.parametrize("name", sorted(RECORDS.keys() & ALL.keys()))
@pytest.mark.parametrize("row_group_size", [2, 100])
def test_the_hats_form_gives_the_same_as_the_cells(name: str, row_group_size: int, tmp_path: Path) -> None:
    survey = SURVEYS[name]
    ALL[name].write_file(tmp_path / "cell.hdf5", some_rows(name), 0)
    write_partition(name, tmp_path / "cell.hdf5", tmp_path / "Npix=1.parquet", row_group_size)
    cells = everything(survey, "mmu_v1", tmp_path / "cell.hdf5")
    partition = everything(survey, "hats", tmp_path / "Npix=1.parquet")
    assert sorted(partition) == sorted(cells)
    both = [field for field in survey.fields if field.is_carried("hats") and field.is_carried("mmu_v1")]
    assert len(both) >= 5
    for object_id, (row, arrays) in partition.items():
        expected = {**cells[object_id][0], **cells[object_id][1]}
        for field in both:
            found, wanted = {**row, **arrays}[field.name], expected[field.name]
            if field.name in ("zwarn", "zwarning"):
                found, wanted = found, int(bool(wanted))
            if field.name == "ivar" and name == "vipers":
                known = found > 0
                np.testing.assert_allclose(found[known], wanted[known], rtol=2e-6)
                np.testing.assert_array_equal(known, wanted > 0)
            else:
                agree(survey, found, wanted, field.name)


def damaged(path: Path, name: str, change: str) -> None:
    with h5py.File(path, "a") as file:
        values = file[name][()]
        del file[name]
        if change == "text":
            file[name] = np.full(len(values), b"none")
        elif change == "short":
            file[name] = values[..., :-1]


BROKEN = {
    "apogee": ("spectrum_ivar", "ivar", "teff", "teff"),
    "chandra": ("spectrum_ene_hi", "energy_high", "theta", "off_axis_angle"),
    "desi": ("spectrum_mask", "mask", "ZWARN", "zwarn"),
    "galah": ("spectrum_norm_flux", "norm_flux", "flag_Li_fe", "flag_li_fe"),
    "lamost": ("spectrum_flux", "flux", "snrg", "snrg"),
    "vipers": ("spectrum_noise", "ivar", "REDSHIFT", "redshift"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("change", ["missing", "text", "short"])
def test_a_file_that_is_not_as_declared_is_named_with_its_column(name: str, change: str, tmp_path: Path) -> None:
    survey, path = SURVEYS[name], tmp_path / "cell.hdf5"
    array, member, scalar, column = BROKEN[name]
    LAYOUTS[name].write_file(path, some_rows(name, 3), 0)
    ids = reader("mmu_v1").read_objects(survey, "mmu_v1", path).table["object_id"].to_pylist()
    damaged(path, array, change)
    members = [field for field in survey.members if field.is_carried("mmu_v1")]
    with pytest.raises(BrokenSource) as caught:
        reader("mmu_v1").read_arrays(survey, "mmu_v1", path, np.arange(3), ids, members)
    assert caught.value.where["file"] == path
    if change != "short" or name != "chandra":  # there the shorter array is the number of rows
        assert caught.value.where["column"] == member
    damaged(path, scalar, change)
    with pytest.raises(BrokenSource) as caught:
        reader("mmu_v1").read_objects(survey, "mmu_v1", path)
    assert caught.value.where["file"] == path
    assert caught.value.where["column"] == column

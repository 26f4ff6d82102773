"""Every survey's published layout, written from known values and read back: array for array, column for column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmu_pipeline.catalog import Survey, load_surveys
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate.mmu_v1 import FILES, file_ids, write_file
from mmu_pipeline.simulate.objects import Objects, invented
from mmu_pipeline.simulate.sky import sky_objects
from mmu_pipeline.sky import healpix29, pixels_at

SURVEYS = load_surveys()
COUNT = 6


def expected(objects: Objects) -> Objects:
    """What a reader can find: what the published form has lost is lost."""
    survey = objects.survey.name
    columns, members = dict(objects.columns), dict(objects.members)
    if survey == "ssl_legacysurvey":
        ids = [name.split("-") for name in objects.object_ids]
        columns |= {name: [int(one[at]) for one in ids] for at, name in enumerate(("release", "brickid", "objid"))}
    if survey in ("allwise", "twomass"):
        columns["cntr" if survey == "allwise" else "pts_key"] = [int(name) for name in objects.object_ids]
    if survey == "allwise":
        columns = {
            name: [None if value is None else float(np.float32(value)) for value in values]
            if SURVEYS[survey].field(name).dtype == "float64" else values
            for name, values in columns.items()
        }  # fmt: skip
    if survey == "tess_tglc":
        columns["tic_id"] = list(objects.object_ids)
    if survey == "plasticc":
        keep = [band != 5 for band in members["band"]]
        members = {name: [array[kept] for array, kept in zip(arrays, keep, strict=True)] for name, arrays in members.items()}
    if survey == "jwst":
        for name, arrays in members.items():
            members[name] = [np.concatenate([np.zeros_like(array[:1]), array[1:]]) for array in arrays]
        columns |= {name: [[None, *row[1:]] for row in columns[name]] for name in ("psf_fwhm", "pixel_scale")}
    return Objects(objects.survey, objects.form, objects.object_ids, objects.ra, objects.dec, columns, members)


def written(name: str, folder: Path, count: int = COUNT) -> tuple[Survey, Objects, Path]:
    survey = SURVEYS[name]
    sky = sky_objects(3).slice(5, count)
    objects = invented(survey, "mmu_v1", sky, file_ids(name, [*range(count)]), seed=3)
    cell = int(pixels_at(healpix29(objects.ra, objects.dec), 4)[0]) if count else 7
    path = folder / FILES[name].format(cell=cell)
    write_file(path, objects)
    return survey, expected(objects), path


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    survey, truth, path = written(name, tmp_path)
    assert any(path.relative_to(tmp_path).match(pattern) for pattern in survey.forms["mmu_v1"].files)
    module = reader(survey.forms["mmu_v1"].reader)
    found = module.read_objects(survey, "mmu_v1", path)
    assert found.skipped == ()
    table = found.table.sort_by("source_row")
    assert table["object_id"].to_pylist() == truth.object_ids
    off = survey.forms["mmu_v1"].position_precision_arcsec / 3600
    for axis, true in (("ra", truth.ra), ("dec", truth.dec)):
        assert str(table[axis].type) == "double"
        np.testing.assert_allclose(table[axis].to_numpy(), true, rtol=0, atol=off)
    for field in survey.columns:
        assert table.schema.field(field.name).type == field.arrow_type
        wanted: list[Any] = truth.columns.get(field.name, [None] * len(truth))
        assert table[field.name].to_pylist() == wanted, field.name
    rows = np.array([4, 1, 4, 0])
    members = [field for field in survey.members if field.is_carried("mmu_v1")]
    assert {field.name for field in members} == set(truth.members)
    arrays = module.read_arrays(survey, "mmu_v1", path, rows, [truth.object_ids[row] for row in rows], members)
    for field in members:
        for array, row in zip(arrays[field.name], rows, strict=True):
            assert array.dtype == field.numpy_dtype
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, truth.members[field.name][row], field.name)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"ssl_legacysurvey"}))
def test_a_cell_without_objects_is_read(name: str, tmp_path: Path) -> None:
    survey, _, path = written(name, tmp_path, 0)
    found = reader(survey.forms["mmu_v1"].reader).read_objects(survey, "mmu_v1", path)
    assert len(found.table) == 0

"""Every raw form, written from known values and read back: array for array, column for column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmu_pipeline.catalog import load_surveys
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate.objects import Objects, invented
from mmu_pipeline.simulate.raw import WRITERS, raw_ids, write_raw
from mmu_pipeline.simulate.sky import sky_objects

SURVEYS = load_surveys()
COUNT = 5


def made(name: str, form: str) -> Objects:
    objects = invented(SURVEYS[name], form, sky_objects(4).slice(9, COUNT), raw_ids(name, form, range(1, COUNT + 1)), seed=4)
    columns, members = objects.columns, objects.members
    if name in ("allwise", "twomass"):
        columns["cntr" if name == "allwise" else "pts_key"] = [int(one) for one in objects.object_ids]
    if name == "csp":
        members["time"] = [53000 + np.round(time * 1024) / 1024 for time in members["time"]]
    if name == "kepler":
        members["quarter"] = [np.full(len(time), 4, np.int8) for time in members["time"]]
    return objects


@pytest.mark.parametrize(("name", "form"), sorted(WRITERS))
def test_what_was_written_is_read(name: str, form: str, tmp_path: Path) -> None:
    survey, truth = SURVEYS[name], made(name, form)
    paths = write_raw(tmp_path, truth)
    patterns = survey.forms[form].files
    assert all(any(path.match(pattern) for pattern in patterns) for path in paths)
    module = reader(survey.forms[form].reader)
    tables = [module.read_objects(survey, form, path).table for path in paths]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["object_id"] for row in rows] == truth.object_ids
    np.testing.assert_array_equal([row["ra"] for row in rows], truth.ra)
    np.testing.assert_array_equal([row["dec"] for row in rows], truth.dec)
    for field in survey.columns:
        assert all(table.schema.field(field.name).type == field.arrow_type for table in tables)
        assert [row[field.name] for row in rows] == truth.columns.get(field.name, [None] * COUNT), field.name
    members = [field for field in survey.members if field.is_carried(form)]
    assert {field.name for field in members} == set(truth.members)
    for at, row in enumerate(rows):
        path = paths[at] if len(paths) > 1 else paths[0]
        arrays = module.read_arrays(survey, form, path, np.array([row["source_row"]]), [row["object_id"]], members)
        for field in members:
            (array,) = arrays[field.name]
            assert array.dtype == field.numpy_dtype
            np.testing.assert_array_equal(array, truth.members[field.name][at], field.name)

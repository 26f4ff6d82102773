"""A table in delimited text, and NumPy files beside it with a row per row of it, to an object table and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.companions import companion
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.readers.text_table import check_rows, read_objects
from mmu_pipeline.sky import Int

__all__ = ["read_arrays", "read_objects"]


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen rows. The source of a member names the companion that holds it. Raises BrokenSource."""
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    with blaming(path):
        count = check_rows(survey, form, path, rows, object_ids)
        sources = {}
        for field in needed_members(survey, form, members):
            beside = companion(declared, field.source_name(form) or "", path)
            try:
                whole = np.load(beside, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise BrokenSource("not a readable NumPy file", file=beside, reason=str(error)) from error
            if len(whole) != count:
                raise BrokenSource("not one array per row", column=field.name, file=beside, arrays=len(whole), rows=count)
            values = np.asarray(whole[rows])
            if values.ndim == len(field.shape) + 1 and form in field.axes:
                values = np.ascontiguousarray(values.transpose(0, *(1 + axis for axis in field.axes[form])))
            sources[field.name] = values
        arrays = finished(survey, form, sources)
        return {field.name: arrays[field.name] for field in members}

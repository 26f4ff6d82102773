"""Columns of a file of the MMU to what a right reading of them gives, by the rules of the survey's declaration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.catalog import Survey
from mmu_pipeline.fields import Field
from mmu_pipeline.simulate.objects import Objects
from mmu_pipeline.simulate.sky import Columns

Values = npt.NDArray[Any]
NO_WEIGHT = 1e37
"""Inverse variances from here on are those of a variance of 0."""


def told(survey: Survey, table: Columns, ids: list[str]) -> Objects:
    """Objects of rows of a MMU v1 table without ragged bands. Values, weights and masks agree as the survey promises."""
    columns: dict[str, list[Any]] = {}
    for field in survey.columns:
        if field.is_carried("mmu_v1"):
            columns[field.name] = [_value(field, value) for value in table[field.source_name("mmu_v1") or field.name]]
    for field in survey.columns:
        if field.error_of in columns:
            pairs = zip(columns[field.name], columns[field.error_of], strict=True)
            columns[field.name] = [None if known is None else value for value, known in pairs]
    members = {
        field.name: list(table[field.source_name("mmu_v1") or field.name])
        for field in survey.members
        if field.is_carried("mmu_v1")
    }
    padding = survey.forms["mmu_v1"].padding
    for at in range(len(ids)):
        row = {name: arrays[at] for name, arrays in members.items()}
        if padding is not None and padding.field in row:
            here = row[padding.field] != padding.value
            row = {name: array[here] if survey.field(name).is_ragged else array for name, array in row.items()}
        for name, array in _agreeing(survey, row).items():
            members[name][at] = array
    return Objects(survey, "mmu_v1", ids, table["ra"], table["dec"], columns, members)


def _value(field: Field, value: Any) -> Any:
    if field.shape:
        return [_value(field.model_copy(update={"shape": ()}), one) for one in value]
    if field.dtype == "string":
        return (value.decode() if isinstance(value, bytes) else str(value)).strip() or None
    if value != value or value in field.sentinels:
        return None
    return bool(value) if field.dtype == "bool" else int(value) if field.numpy_dtype.kind in "iu" else float(value)


def _agreeing(survey: Survey, row: dict[str, Values]) -> dict[str, Values]:
    """Where a value is lost, its weight unknown or its mask bad, the mask is False, the weight 0, and a lost value 0."""
    found = {name: ~array if survey.field(name).true_means == "bad" else array.copy() for name, array in row.items()}
    for field in survey.members:
        ivar, mask = found.get(field.ivar or ""), found.get(field.mask or "")
        if field.name not in found or (ivar is None and mask is None):
            continue
        good = np.isfinite(found[field.name])
        if ivar is not None:
            good &= np.isfinite(ivar) & (ivar > 0) & (ivar < NO_WEIGHT)
        if mask is not None:
            good &= mask
            found[field.mask or ""] = good
        if ivar is not None:
            found[field.ivar or ""] = np.where(good, ivar, 0).astype(ivar.dtype)
        found[field.name] = np.nan_to_num(found[field.name])
    return found

"""A survey's declaration and some places on the sky to objects with known values: what a reader must find in a file of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.fields import ENCODED, Field
from mmu_pipeline.sky import Float

SHORTEST, LONGEST = 4, 9
"""Of lengths that vary by object."""
FLAG = 8192
"""A bit that is set where a cadence is bad."""


@dataclass(frozen=True)
class Objects:
    """Objects of one survey as one of its forms can tell them, in our terms."""

    survey: Survey
    form: str
    object_ids: list[str]
    ra: Float
    dec: Float
    columns: dict[str, list[Any]]
    """Field name -> value of each object, None where missing; a list of them for a column with a shape."""
    members: dict[str, list[npt.NDArray[Any]]]
    """Field name -> array of each object."""

    def __len__(self) -> int:
        return len(self.object_ids)

    def take(self, rows: Sequence[int]) -> Objects:
        """Some of them, in that order."""
        return replace(
            self,
            object_ids=[self.object_ids[row] for row in rows],
            ra=self.ra[list(rows)],
            dec=self.dec[list(rows)],
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            members={name: [arrays[row] for row in rows] for name, arrays in self.members.items()},
        )


def invented(survey: Survey, form: str, sky: pa.Table, object_ids: Sequence[str], seed: int = 0) -> Objects:
    """Objects at the positions of `sky` (columns ra, dec), with arbitrary values in every field that the form carries.

    Values keep the rules of the survey: observations in its order, inverse variances 0 and masks False together, some
    values missing wherever the source can say so.
    """
    rng = np.random.default_rng([seed, 11, *survey.name.encode()])
    ra, dec = (sky[name].to_numpy() for name in ("ra", "dec"))
    columns = {
        field.name: _column(field, len(sky), rng, survey.modality == "table")
        for field in survey.columns
        if field.is_carried(form)
    }
    for field in survey.columns:
        if field.error_of in columns and field.name in columns:
            known = columns[field.error_of]
            columns[field.name] = [None if one is None else e for e, one in zip(columns[field.name], known, strict=True)]
    rows = [_members(survey, form, rng) for _ in object_ids]
    members = {field.name: [row[field.name] for row in rows] for field in survey.members if field.is_carried(form)}
    return Objects(survey, form, list(object_ids), ra, dec, columns, members)


def _column(field: Field, count: int, rng: np.random.Generator, whole_can_miss: bool) -> list[Any]:
    if field.dtype == "string":
        return [f"{field.name[:2]} {number}" for number in rng.integers(0, 99, count)]
    if field.dtype == "bool":
        return [bool(value) for value in rng.integers(0, 2, count)]
    whole, size = field.numpy_dtype.kind in "iu", 1
    for length in field.shape:
        size *= int(length)
    values = rng.uniform(0.5, 9.5, (count, size)).astype("f8" if whole else field.dtype)
    can_miss = not whole or whole_can_miss or any(not isinstance(value, str) for value in field.sentinels)
    missing = rng.uniform(0, 1, values.shape) < (0.15 if can_miss else 0)
    kind = int if whole else float
    flat = [None if lost else kind(value) for value, lost in zip(values.flat, missing.flat, strict=True)]
    return [flat[row * size : (row + 1) * size] for row in range(count)] if field.shape else flat


def _members(survey: Survey, form: str, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one object."""
    fields = [field for field in survey.members if field.is_carried(form)]
    lengths = {str(field.shape[0]): int(rng.integers(SHORTEST, LONGEST + 1)) for field in fields if field.is_ragged}
    arrays = {field.name: _values(field, lengths, rng) for field in fields}
    for field in fields:
        if field.is_band_code:
            arrays[field.name].sort()
        elif field.name in survey.order_by:
            arrays[field.name] = np.sort(arrays[field.name])
        if field.true_means is not None:
            same = [other for other in fields if other.source_names(form) == field.source_names(form) and other is not field]
            for other in same:
                arrays[field.name] = np.asarray(arrays[other.name] == 0)
    _lose(fields, arrays, rng)
    return arrays


def _values(field: Field, lengths: dict[str, int], rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = [lengths[size] if isinstance(size, str) else size for size in field.shape]
    if field.is_encoded:
        return picture(shape, rng)
    if field.is_band_code:
        return rng.integers(0, len(field.bands), shape).astype(field.dtype)
    if field.dtype == "bool":
        return np.asarray(rng.uniform(0, 1, shape) < 0.9)
    if field.numpy_dtype.kind in "iu":
        bits = any(word in field.name for word in ("quality", "flags"))
        return (FLAG * (rng.uniform(0, 1, shape) < 0.2) if bits else rng.integers(1, 99, shape)).astype(field.dtype)
    return rng.uniform(1.0, 2.0, shape).astype(field.dtype)


def picture(shape: Sequence[int], rng: np.random.Generator) -> npt.NDArray[Any]:
    """A JPEG of a bright spot on a dark sky, as an array of its bytes."""
    from PIL import Image

    height, width, components = shape
    down, across = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    spot = np.exp(-8 * (down**2 / rng.uniform(0.2, 1) + across**2))
    planes = spot[:, :, np.newaxis] * rng.uniform(90, 250, components)
    file = io.BytesIO()
    Image.fromarray(planes.astype(np.uint8).squeeze()).save(file, "JPEG", quality=60)
    return np.frombuffer(file.getvalue(), ENCODED)


def _lose(fields: Sequence[Field], arrays: dict[str, npt.NDArray[Any]], rng: np.random.Generator) -> None:
    """Some values are not there: 0, with mask False and inverse variance 0."""
    for field in fields:
        mask = arrays.get(field.mask or "")
        if mask is None:
            continue
        lost = rng.uniform(0, 1, arrays[field.name].shape) < 0.02
        arrays[field.name] = np.where(lost, 0, arrays[field.name]).astype(field.dtype)
        arrays[field.mask or ""] = mask = mask & ~lost.any(axis=tuple(range(lost.ndim - mask.ndim)))
    for field in fields:
        mask, ivar = arrays.get(field.mask or ""), arrays.get(field.ivar or "")
        if ivar is not None:
            good = np.ones(ivar.shape, bool) if mask is None else np.broadcast_to(mask, ivar.shape)
            arrays[field.ivar or ""] = np.where(good, ivar, 0).astype(ivar.dtype)

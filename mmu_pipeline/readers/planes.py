"""Images whose planes stand in any order, under the source's names, to planes in the order of the field's bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.ragged import known_bands
from mmu_pipeline.readers.text import as_text


def has_planes(field: Field) -> bool:
    """Whether the first axis of a field's rows runs over its bands."""
    return bool(field.bands) and not field.is_ragged and field.shape[:1] == (len(field.bands),)


def in_order_of_bands(field: Field, values: Array, names: Array) -> Array:
    """Values of shape (n, planes, ...) as (n, bands, ...), given the band of each plane, text of shape (n, planes).

    A band that a row lacks becomes NaN (False in a mask, 0 in whole numbers). Raises BrokenSource for a band that is not
    declared, one that stands twice, and where there is not one name per plane.
    """
    if names.shape != values.shape[:2]:
        what = "not one band per plane"
        raise BrokenSource(what, column=field.name, planes=values.shape[1:2], bands=names.shape[1:])
    known = known_bands(field)
    distinct, back = np.unique(np.array(as_text(names), str), return_inverse=True)
    for name in distinct.tolist():
        if name not in known:
            hint = f"declare it in the survey's file; known: {', '.join(known)}"
            raise BrokenSource("unknown band", column=field.name, value=repr(name), hint=hint)
    codes = np.array([known[name] for name in distinct.tolist()], np.int64)[back].reshape(values.shape[0], values.shape[1])
    if codes.shape[1] == len(field.bands) and (codes == np.arange(len(field.bands))).all():
        return values
    ordered: npt.NDArray[Any] = np.full((len(values), len(field.bands), *values.shape[2:]), _missing(field, values), values.dtype)
    at = np.arange(len(values))[:, np.newaxis]
    if (np.sort(codes, axis=1)[:, 1:] == np.sort(codes, axis=1)[:, :-1]).any():
        raise BrokenSource("a band stands twice in one image", column=field.name)
    ordered[at, codes] = values
    return ordered


def _missing(field: Field, values: Array) -> float:
    return np.nan if values.dtype.kind == "f" else float(field.true_means == "bad")

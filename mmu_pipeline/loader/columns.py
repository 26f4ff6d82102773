"""Records of samples -> one array a scalar, typed as the manifest says, whatever is null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.loader.layout import Column, is_presence


def scalar_arrays(records: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> dict[str, Any]:
    """Scalar -> array of shape (samples,), or (samples, length) for short lists; text stays a list.

    A null is NaN among floats; integers and bools have 0 and False there, and a bool array `<name>.valid` beside them
    (but for `has_<survey>`, which is never null). Raises BrokenArtefact where a record lacks one of them.
    """
    found: dict[str, Any] = {}
    for column in columns:
        try:
            values = [record[column.name] for record in records]
        except KeyError as error:
            raise BrokenArtefact("a record lacks a scalar that the manifest lists", scalar=column.name) from error
        if column.dtype == "string":
            found[column.name] = values
            continue
        dtype = np.dtype(column.dtype)
        null: Any = np.nan if dtype.kind == "f" else 0
        if column.length is not None:
            filled = [[null] * column.length if value is None else value for value in values]
            found[column.name] = np.array(filled, dtype).reshape(len(records), column.length)
        elif dtype.kind == "f":
            found[column.name] = np.array(values, dtype)
        else:
            found[column.name] = np.array([null if value is None else value for value in values], dtype)
        if dtype.kind != "f" and not is_presence(column):
            found[f"{column.name}.valid"] = np.array([value is not None for value in values], np.bool_)
    return found

"""Bytes, numbers and text as a source holds them -> text without blanks at its ends: Python's or Arrow's."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.fields import Array

BLANKS = " \t\r\n\0"


def as_text(values: Array) -> list[str]:
    """Any array, flattened, as text without blanks or zero bytes at its ends; whole floats without a point, NaN empty."""
    flat = values.reshape(-1)
    if flat.dtype.kind in "Siu":
        return cast(list[str], arrow_text(flat).to_pylist())
    if flat.dtype.kind == "f":
        return ["" if value != value else str(int(value)) if value.is_integer() else str(value) for value in flat.tolist()]
    texts = (value.decode() if isinstance(value, bytes) else "" if value is None else str(value) for value in flat.tolist())
    return [text.strip(BLANKS) for text in texts]


def arrow_text(values: Array) -> pa.Array:
    """Bytes of fixed length or whole numbers, shape (n,), as Arrow strings. Raises UnicodeDecodeError."""
    return utf8(values) if values.dtype.kind == "S" else pc.cast(pa.array(_native(values)), pa.string())


def _native(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def utf8(values: Array) -> pa.Array:
    """Bytes of fixed length as Arrow strings without blanks at their ends. Raises UnicodeDecodeError."""
    if not len(values):
        return pa.array([], pa.string())
    width = values.dtype.itemsize
    codes = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
    try:
        texts = pc.cast(pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(codes)]), pa.string())
    except pa.ArrowInvalid:
        texts = pa.array([value.decode() for value in values.tolist()], pa.string())
    if min(codes[:, 0].min(), codes[:, -1].min()) > ord(" "):
        return texts
    return pc.utf8_trim(texts, characters=BLANKS)

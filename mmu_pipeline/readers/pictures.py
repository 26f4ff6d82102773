"""JPEG files as a table holds them to arrays of their bytes, unchanged; one of another size than declared is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import ENCODED, Array, Field
from mmu_pipeline.jpeg import size_of


def encoded(field: Field, files: Sequence[Any]) -> list[Array]:
    """The bytes of each file, dtype ENCODED, shape (nbytes,). Raises BrokenSource for what is not a JPEG of the declared size."""
    for row, content in enumerate(files):
        if not isinstance(content, bytes):
            raise BrokenSource("not the bytes of a file", column=field.name, row=row, dtype=type(content).__name__)
        try:
            size = size_of(content)
        except ValueError as error:
            raise BrokenSource(str(error), column=field.name, row=row) from error
        if size != field.shape:
            raise BrokenSource("a picture of another size", column=field.name, row=row, shape=size, declared=field.shape)
    return [np.frombuffer(content, ENCODED) for content in files]

"""Ids as a source holds them, in one column or several -> ids as the survey writes them; rows checked by the ids they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array
from mmu_pipeline.readers.text import arrow_text, as_text
from mmu_pipeline.sky import Int

ROW_NUMBER = "#"
"""As the source name of an id: the number of the row in its file."""
REPR_OF_BYTES = re.compile(r"""b(['"])(.*)\1""", re.DOTALL)


def id_sources(form: Form) -> tuple[str, ...]:
    """Source names that the id is made of."""
    named = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(form.object_id) if name))
    return named or (form.object_id,)


def object_ids(form: Form, sources: Mapping[str, Array]) -> list[str]:
    """Ids as the survey writes them, from the arrays of `id_sources`. "" where there is none. Raises BrokenSource."""
    try:
        texts = [
            as_text(values) if values.dtype.kind in "iuf" else [_unwrapped(text) for text in as_text(values)]
            for values in sources.values()
        ]
        if form.object_id in sources:
            ids = texts[0]
        else:
            whole = [values.dtype.kind in "iuf" for values in sources.values()]
            ids = [_filled(form.object_id, dict(zip(sources, row, strict=True)), whole) for row in zip(*texts, strict=True)]
    except ValueError as error:
        raise BrokenSource(f"no id can be made: {error}", column=form.object_id) from error
    return [_bare(form, text) for text in ids] if form.id_prefix or form.id_suffix else ids


def id_column(form: Form, sources: Mapping[str, Array]) -> pa.Array:
    """The same as an Arrow array; ids that are used as they are stored never become Python objects. Raises BrokenSource."""
    stored = sources.get(form.object_id)
    if stored is not None and stored.dtype.kind in "Siu" and not form.id_prefix and not form.id_suffix:
        try:
            texts = arrow_text(stored.reshape(-1))
        except UnicodeDecodeError as error:
            raise BrokenSource(f"no id can be made: {error}", column=form.object_id) from error
        if stored.dtype.kind != "S" or not pc.any(pc.starts_with(texts, "b")).as_py():
            return texts
    return pa.array(object_ids(form, sources), pa.string())


def _bare(form: Form, text: str) -> str:
    text = text.removesuffix(form.id_suffix)
    return next((text.removeprefix(prefix) for prefix in form.id_prefix if text.startswith(prefix)), text)


def _filled(template: str, parts: Mapping[str, str], whole: Sequence[bool]) -> str:
    """A template with its parts, those that are whole numbers as such; "" where one is empty."""
    if "" in parts.values():
        return ""
    numbered = zip(parts.items(), whole, strict=True)
    return template.format(**{name: int(text) if is_number else text for (name, text), is_number in numbered})


def _unwrapped(text: str) -> str:
    """The content of what Python wrote for a bytes object, b'  46'."""
    wrapped = REPR_OF_BYTES.fullmatch(text) if text.startswith("b") else None
    return wrapped[2].strip() if wrapped else text


def check_ids(rows: Int, found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise BrokenSource where a row does not hold the object that was asked for."""
    for row, here, wanted in zip(rows.tolist(), found, expected, strict=True):
        if here != wanted:
            raise BrokenSource("the row holds another object", row=row, object_id=here, expected=wanted)


def check_only_row(rows: Int, found: str, expected: Sequence[str]) -> None:
    """Raise BrokenSource unless every one of some rows is the only one of its file, 0, and that holds the object asked for."""
    if np.any(rows):
        raise BrokenSource("no such row: the file holds one object", row=int(np.max(rows)))
    check_ids(rows, [found] * len(rows), expected)

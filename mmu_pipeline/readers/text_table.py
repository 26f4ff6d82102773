"""Delimited text, plain or compressed, with or without a header line, to an object table: in batches, needed columns only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import ObjectRows
from mmu_pipeline.readers.arrow_table import ids_of, object_rows, source_types
from mmu_pipeline.readers.bounded import FIRST_LINE, unpacked
from mmu_pipeline.readers.identity import check_ids, id_sources
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.sky import Int

BLOCK_BYTES = 16 * 1024**2
END_OF_LINE = "end of line"
"""Name of the empty column after a delimiter at the end of each line."""


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The objects of one file, in file order; rows without an id are skipped. Raises BrokenSource naming the column."""
    with blaming(path):
        declared = survey.forms[form]
        types = source_types(survey, form, column_names(declared, path))
        return object_rows(survey, form, batches(declared, path, types))


def read_arrays(
    survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """A table has no arrays: raises BrokenSource if any member is asked for."""
    for field in members:
        raise BrokenSource(
            "this form of the survey does not carry the field",
            file=path if isinstance(path, Path) else str(path),
            column=field.name,
        )
    return {}


def check_rows(survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str]) -> int:
    """Compare the ids of chosen rows; the number of rows of the file. Raises BrokenSource."""
    declared = survey.forms[form]
    types = {name: pa.string() for name in id_sources(declared)}
    ids: list[str] = []
    for batch in batches(declared, path, types):
        ids += ids_of(survey, form, batch, len(ids))
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(ids):
        raise BrokenSource("no such row", row=int(rows.max()), rows=len(ids))
    check_ids(rows, [ids[row] for row in rows.tolist()], object_ids)
    return len(ids)


def column_names(form: Form, path: Path) -> list[str]:
    """Names of the columns of a file, of its header line or as declared. Raises BrokenSource for an empty file."""
    with unpacked(path) as stream:
        first = stream.read(FIRST_LINE).split(b"\n", 1)[0].decode("utf-8-sig", "replace").rstrip("\r")
    if not first:
        raise BrokenSource("the file is empty")
    fields = first.split(form.text.delimiter)
    if not form.text.columns:
        return [name.strip().strip('"').lstrip("#").strip() for name in fields]
    names = list(form.text.columns)
    if len(fields) == len(names) + 1 and fields[-1] == "":
        names.append(END_OF_LINE)
    if len(fields) != len(names):
        what = "not as many columns as declared"
        raise BrokenSource(what, columns=len(fields), declared=len(names), first_line=first[:80])
    return names


def batches(form: Form, path: Path, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Some columns of a file in the given types, a batch at a time; one batch at least. Raises BrokenSource naming the column."""
    names = column_names(form, path)
    if missing := [name for name in types if name not in names]:
        raise BrokenSource("a declared column is missing", column=missing[0], hint=f"the file has: {', '.join(names[:20])}")
    try:
        with unpacked(path) as stream, csv.open_csv(
            stream,
            csv.ReadOptions(
                column_names=names, skip_rows=0 if form.text.columns else 1, block_size=BLOCK_BYTES, use_threads=False
            ),
            csv.ParseOptions(delimiter=form.text.delimiter, quote_char=False if form.text.columns else '"'),
            csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=list(form.text.nulls), strings_can_be_null=True
            ),
        ) as reader:  # fmt: skip
            yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        found = re.search(r"column #(\d+)", str(error))
        column = names[int(found[1])] if found and int(found[1]) < len(names) else None
        raise BrokenSource("not the declared table", column=column, reason=str(error)) from error

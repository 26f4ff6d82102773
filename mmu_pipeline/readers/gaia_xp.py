"""Gaia continuous mean spectra (csv, ecsv or FITS, gzipped or not) joined with the source table of the same range of ids."""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, identity, normalise
from mmu_pipeline.readers.bounded import FIRST_LINE, unpacked
from mmu_pipeline.readers.companions import companion
from mmu_pipeline.readers.fits_address import opened_fits
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

ID = "source_id"
NOT_LISTED = "not in the source table"
MISSING = ["", "null", "nan", "NaN"]
"""What stands for a missing value: `null` in the bulk files, nothing or nan in those of the archive."""
BLOCK_BYTES = 64 * 1024**2


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The sources of one file, in file order, with the columns of either table. Raises BrokenSource naming the column.

    A spectrum whose source is not in the source table has no position and is skipped.
    """
    with normalise.blaming(path):
        carried = {field.name: field.source_names(form)[0] for field in survey.columns if field.source_names(form)}
        spectra = _table(path, carried.values(), required=(ID,))
        known = companion(survey.forms[form], "source", path)
        rest = [name for name in carried.values() if name not in spectra]
        with normalise.blaming(known):
            sources = _table(known, rest, required=(ID, "ra", "dec", *rest))
        place, found = _located(sources[ID], spectra[ID])
        columns = {name: _values(source, spectra, sources, place)[found] for name, source in carried.items()}
        rows = np.flatnonzero(found)
        table = pa.table(
            {
                "object_id": pa.array([str(value) for value in spectra[ID][rows].tolist()], pa.string()),
                "ra": sources["ra"][place[rows]],
                "dec": sources["dec"][place[rows]],
                "source_row": rows.astype(np.int64),
                **normalise.columns(survey, form, columns, len(rows)),
            }
        )
    lost = np.flatnonzero(~found).tolist()
    return ObjectRows(table, tuple(Skipped(row, str(spectra[ID][row]), NOT_LISTED) for row in lost))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of chosen sources. A member's source names one column of arrays, or several joined by " & "; a boolean member
    tells where they have values. Raises BrokenSource."""
    rows = np.asarray(rows, np.int64)
    with normalise.blaming(path):
        needed = needed_members(survey, form, members)
        parts = {field.name: field.source_names(form)[0].split(" & ") for field in needed}
        names = {name for each in parts.values() for name in each}
        table = _table(path, names, (ID, *names), rows)
        identity.check_ids(rows, [str(value) for value in table[ID].tolist()], object_ids)
        blocks = {}
        for field in needed:
            width = int(field.shape[0]) // len(parts[field.name])
            block = np.concatenate([_block(table[name], width, name) for name in parts[field.name]], axis=1)
            blocks[field.name] = np.isfinite(block) if field.dtype == "bool" else block
        arrays = finished(survey, form, blocks)
        return {field.name: arrays[field.name] for field in members}


def _located(known: Array, wanted: Array) -> tuple[Int, npt.NDArray[np.bool_]]:
    """Row of each wanted id among those known, and whether it is there."""
    order = np.argsort(known, kind="stable")
    if not len(order):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(order) - 1)]
    return place, np.asarray(known[place] == wanted)


def _values(name: str, spectra: Mapping[str, Array], sources: Mapping[str, Array], place: Int) -> Array:
    return spectra[name] if name in spectra else sources[name][np.minimum(place, max(len(sources[ID]) - 1, 0))]


def _block(values: Array, width: int, column: str) -> npt.NDArray[np.float64]:
    """Arrays of a column as a block (n, width); a row without is NaN. Raises BrokenSource."""
    block = np.full((len(values), width), np.nan)
    for row, value in zip(block, values, strict=True):
        array = _numbers(value, column) if isinstance(value, str) else np.zeros(0) if value is None else np.asarray(value)
        if len(array) not in (0, width):
            raise BrokenSource("not the declared shape", column=column, shape=array.shape, declared=width)
        if len(array):
            row[:] = array
    return block


def _numbers(text: str, column: str) -> Array:
    """The numbers of a text such as "[1.5,2]" or "(1.5, null)"."""
    words = text.strip().strip("()[]").replace("null", "nan").split(",")
    try:
        return np.array(words, np.float64) if words != [""] else np.zeros(0)
    except ValueError as error:
        raise BrokenSource("not a list of numbers", column=column, value=repr(text[:40])) from error


def _table(path: Path, names: Collection[str], required: Collection[str], rows: Int | None = None) -> dict[str, Array]:
    """Columns of a table by name, those of `names` that it has, of all or chosen rows.

    Ids are int64, numbers float64, arrays text or objects. Raises BrokenSource where one of `required` or a row is missing.
    """
    is_fits = path.name.removesuffix(".gz").endswith((".fits", ".fit"))
    found = (_fits if is_fits else _text)(path, {*names, *required}, rows)
    for name in required:
        if name not in found:
            raise BrokenSource("a declared column is missing", column=name, file=path)
    return found


def _check_rows(rows: Int | None, count: int) -> None:
    if rows is not None and rows.size and (rows.min() < 0 or rows.max() >= count):
        raise BrokenSource("no such row", row=int(rows.max()), rows=count)


def _fits(path: Path, names: Collection[str], rows: Int | None) -> dict[str, Array]:
    with opened_fits(path) as hdus:
        data = next((hdu.data for hdu in hdus if getattr(hdu, "columns", None) is not None), None)
        if data is None:
            raise BrokenSource("the file has no table")
        _check_rows(rows, len(data))
        found = {name: np.asarray(data[name]) for name in data.columns.names if name in names}
        found = found if rows is None else {name: values[rows] for name, values in found.items()}
        return {name: values.astype(values.dtype.newbyteorder("="), copy=False) for name, values in found.items()}


def _text(path: Path, names: Collection[str], rows: Int | None) -> dict[str, Array]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            comments, line = 0, lines.readline(FIRST_LINE)
            while line.startswith("#"):
                comments, line = comments + 1, lines.readline(FIRST_LINE)
        header = [name.strip().strip('"') for name in line.strip().split(",")]
        present = [name for name in header if name in names]
        is_text = {name: bool(re.search(r"coefficient|flag$|libname|designation", name)) for name in present}
        types = {name: pa.int64() if name == ID else pa.string() if is_text[name] else pa.float64() for name in present}
        with unpacked(path) as stream:
            table = pa.csv.read_csv(
                stream,
                read_options=pa.csv.ReadOptions(skip_rows=comments, block_size=BLOCK_BYTES),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=present, column_types=types, null_values=MISSING, strings_can_be_null=True
                ),
            )
    except (pa.ArrowInvalid, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        at = re.search(r"In CSV column #(\d+)", str(error))
        column = header[int(at[1])] if at else None
        raise BrokenSource("the table cannot be read", column=column, reason=str(error)) from error
    _check_rows(rows, len(table))
    chosen = table if rows is None else table.take(pa.array(rows))
    return {name: chosen[name].combine_chunks().to_numpy(zero_copy_only=False) for name in present}

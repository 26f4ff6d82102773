"""SNANA text, one supernova per file: header keys to a row, OBS rows to the arrays of a light curve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped
from mmu_pipeline.readers.identity import check_only_row, id_sources, object_ids
from mmu_pipeline.readers.normalise import blaming, columns, member, number, numbers_of
from mmu_pipeline.readers.ragged import band_codes, sorted_observations
from mmu_pipeline.sky import Int

KEY = re.compile(r"([^\s:]+)\s*:(.*)")
COMMENT = re.compile(r"(?:^|\s)#.*")
PART = re.compile(r"(.*)\[(err|err_plus|err_minus)\]")
SYMMETRIC = re.compile(r"\S+?\s*\+/?-\s*(\S+)")
ASYMMETRIC = re.compile(r"\S+\s+\+\s*([^\s/]+)\s*/?\s*-\s*(\S+)")
NO_ID = "no object id"
NO_OBSERVATIONS = "no observations"


@dataclass(frozen=True)
class LightCurve:
    """One file, taken apart but not converted."""

    header: Mapping[str, str]
    """Key -> text of its value, without the comment. A key that stands twice has its last value."""
    names: tuple[str, ...]
    """Columns of the observations, from VARLIST; NVAR is not trusted."""
    rows: tuple[tuple[int, list[str]], ...]
    """Line number and words of each observation."""


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The object of one file. Header keys that it lacks are null; without observations it is skipped. Raises BrokenSource."""
    with blaming(path):
        curve = parse(path)
        object_id = _object_id(survey, form, curve)
        table = _table(survey, form, curve, object_id)
        reason = NO_ID if not object_id else NO_OBSERVATIONS if not curve.rows else None
        return ObjectRows(table.slice(0, 0), (Skipped(0, object_id, reason),)) if reason else ObjectRows(table)


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of one value per observation, in the survey's order, for each of `rows` (all 0). Raises BrokenSource."""
    with blaming(path):
        curve = parse(path)
        found = _object_id(survey, form, curve)
        check_only_row(rows, found, object_ids)
        names = {*survey.order_by, *(field.name for field in members)}
        arrays = {field.name: _observations(field, form, curve) for field in survey.members if field.name in names}
        ordered = sorted_observations(survey, arrays)
        return {field.name: [ordered[field.name]] * len(rows) for field in members}


def parse(path: Path) -> LightCurve:
    """Take a file apart. Raises BrokenSource naming the line where it is not SNANA text, or fewer rows than it declares."""
    try:
        lines = path.read_bytes().decode().splitlines()
    except UnicodeDecodeError as error:
        raise BrokenSource("not text") from error
    header: dict[str, str] = {}
    names: tuple[str, ...] = ()
    rows: list[tuple[int, list[str]]] = []
    for line, content in enumerate(lines, start=1):
        text = COMMENT.sub("", content).strip()
        if not text:
            continue
        found = KEY.fullmatch(text)
        if not found:
            raise BrokenSource("not a line of the form KEY: value", line=line, value=repr(text[:60]))
        key, value = found[1], found[2].strip()
        if key == "OBS":
            rows.append((line, value.split()))
            if len(rows[-1][1]) != len(names):
                raise BrokenSource(
                    "an observation does not have one word per column", line=line, column=_first_missing(names, rows[-1][1]),
                    words=len(rows[-1][1]), columns=" ".join(names), hint="the file is damaged or cut short",
                )  # fmt: skip
        elif key == "VARLIST":
            if rows or len(set(value.split())) != len(value.split()):
                raise BrokenSource("a second list of columns, or one that repeats a name", line=line, column=key, value=value)
            names = tuple(value.split())
        else:
            header[key] = value
    declared = header.get("NOBS", str(len(rows))).split()
    if declared[:1] != [str(len(rows))]:
        raise BrokenSource(
            "the number of observations is not the declared one", column="NOBS", declared=header["NOBS"], found=len(rows),
            hint="the file is cut short: fetch it again",
        )  # fmt: skip
    return LightCurve(header, names, tuple(rows))


def _first_missing(names: Sequence[str], words: Sequence[str]) -> str | None:
    return names[len(words)] if len(words) < len(names) else None


def _object_id(survey: Survey, form: str, curve: LightCurve) -> str:
    declared = survey.forms[form]
    return object_ids(declared, {name: _first_word(curve, (name,)) for name in id_sources(declared)})[0]


def _first_word(curve: LightCurve, keys: Sequence[str]) -> Array:
    """First word of a required header key, as text of shape (1,)."""
    key = next((key for key in keys if key in curve.header), None)
    if key is None:
        raise BrokenSource("a required header key is missing", column=" or ".join(keys))
    return np.array(curve.header[key].split()[:1] or [""], object)


def _table(survey: Survey, form: str, curve: LightCurve, object_id: str) -> pa.Table:
    declared = survey.forms[form]
    sources = {field.name: words for field in survey.columns if (words := _header_words(field, form, curve)) is not None}
    return pa.table(
        {
            "object_id": pa.array([object_id], pa.string()),
            "ra": numbers_of(_first_word(curve, declared.ra), "ra").astype(np.float64),
            "dec": numbers_of(_first_word(curve, declared.dec), "dec").astype(np.float64),
            "source_row": pa.array([0], pa.int64()),
            **columns(survey, form, sources, 1),
        }
    )


def _header_words(field: Field, form: str, curve: LightCurve) -> Array | None:
    """Text of a column field, shape (1, *field.shape); None where the header has nothing under any of its names.

    A name may end in [err], [err_plus] or [err_minus]: the error that follows the value, as in `10.8 +- 0.2` or
    `10.8 +0.2 -0.3`.
    """
    for name in field.source_names(form):
        key, part = found.groups() if (found := PART.fullmatch(name)) else (name, None)
        text = curve.header.get(key)
        if text is None:
            continue
        if part is None:
            words = [text] if field.dtype == "string" else text.split() if field.shape else text.split()[:1] or [""]
            return np.array(words, object).reshape(1, *([len(words)] if field.shape else []))
        if (error := _error(text, key, part)) is not None:
            return np.array([error], object)
    return None


def _error(text: str, key: str, part: str) -> str | None:
    """The error that follows a value, None where none does."""
    if found := SYMMETRIC.match(text):
        return found[1]
    if found := ASYMMETRIC.match(text):
        if part == "err":
            hint = f"declare columns from {key}[err_plus] and {key}[err_minus]"
            raise BrokenSource("an asymmetric error where one number is declared", column=key, value=repr(text), hint=hint)
        return found[1] if part == "err_plus" else found[2]
    return None


def _observations(field: Field, form: str, curve: LightCurve) -> Array:
    """One member of a light curve, shape (observations,), in file order."""
    if not field.source_names(form):
        raise BrokenSource("this form of the survey does not carry the field", column=field.name)
    at = next((curve.names.index(name) for name in field.source_names(form) if name in curve.names), None)
    if at is None:
        names = " or ".join(field.source_names(form))
        raise BrokenSource("a declared column is missing", column=field.name, expected=names, columns=" ".join(curve.names))
    words = [row[at] for _, row in curve.rows]
    if field.is_band_code:
        return band_codes(field, words)
    try:
        values = np.array([number(word) for word in words], np.float64)
    except ValueError as error:
        line, word = next((line, row[at]) for line, row in curve.rows if not _is_number(row[at]))
        raise BrokenSource("not a number", line=line, column=curve.names[at], value=repr(word)) from error
    return member(field, form, values)


def _is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True

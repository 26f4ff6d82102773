"""SNooPy text, one supernova per file: its first line to a row, its blocks of one filter each to the arrays of a light curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped
from mmu_pipeline.readers.identity import check_only_row, id_sources, object_ids
from mmu_pipeline.readers.normalise import blaming, columns, numbers_of
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.sky import Int

HEADER = ("name", "redshift", "ra", "dec")
COLUMNS = ("time", "mag", "mag_err")
BAND = "filter"
NO_OBSERVATIONS = "no observations"


@dataclass(frozen=True)
class LightCurve:
    """One file, taken apart but not converted."""

    header: dict[str, str]
    """Words of the first line, by HEADER."""
    observations: dict[str, Array]
    """Numbers by COLUMNS, and the filter of each observation, in file order."""


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The object of one file; without observations it is skipped. Raises BrokenSource."""
    declared = survey.forms[form]
    with blaming(path):
        curve = parse(path)
        words = {name: np.array([word], object) for name, word in curve.header.items()}
        object_id = object_ids(declared, {name: words[name] for name in id_sources(declared)})[0]
        sources = {field.name: words[name] for field in survey.columns if (name := field.source_name(form) or "") in words}
        table = pa.table(
            {
                "object_id": pa.array([object_id], pa.string()),
                "ra": numbers_of(words["ra"], "ra").astype(np.float64),
                "dec": numbers_of(words["dec"], "dec").astype(np.float64),
                "source_row": pa.array([0], pa.int64()),
                **columns(survey, form, sources, 1),
            }
        )
    empty = len(curve.observations[BAND]) == 0
    return ObjectRows(table.slice(0, 0), (Skipped(0, object_id, NO_OBSERVATIONS),)) if empty else ObjectRows(table)


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids_: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of one value per observation, in the survey's order, for each of `rows` (all 0). Raises BrokenSource."""
    declared = survey.forms[form]
    with blaming(path):
        curve = parse(path)
        found = object_ids(declared, {name: np.array([curve.header[name]], object) for name in id_sources(declared)})[0]
        check_only_row(rows, found, object_ids_)
        sources = {}
        for field in needed_members(survey, form, members):
            name = field.source_name(form)
            if name not in curve.observations:
                raise BrokenSource("this form of the survey does not carry the field", column=field.name)
            sources[field.name] = of_arrays([curve.observations[name]])
        arrays = finished(survey, form, sources)
    return {field.name: arrays[field.name] * len(rows) for field in members}


def parse(path: Path) -> LightCurve:
    """Take a file apart. Raises BrokenSource naming the line where it is not SNooPy text."""
    try:
        lines = path.read_bytes().decode().splitlines()
    except UnicodeDecodeError as error:
        raise BrokenSource("not text") from error
    first = lines[0].split() if lines else []
    if len(first) != len(HEADER):
        raise BrokenSource("the first line is not: name redshift ra dec", line=1, value=repr(" ".join(first)[:60]))
    band, bands, rows = None, [], []
    for line, text in enumerate(lines[1:], start=2):
        words = text.split("#")[0].split()
        if not words:
            continue
        if words[0] == BAND and len(words) == 2:
            band = words[1]
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise BrokenSource("not a number", line=line, value=repr(text[:60])) from error
        if len(words) != len(COLUMNS) or band is None:
            raise BrokenSource("not an observation of a filter: time magnitude error", line=line, value=repr(text[:60]))
        bands.append(band)
    numbers = np.array(rows, np.float64).reshape(-1, len(COLUMNS)).T
    return LightCurve(
        dict(zip(HEADER, first, strict=True)), {**dict(zip(COLUMNS, numbers, strict=True)), BAND: np.array(bands, str)}
    )

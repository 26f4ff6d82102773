"""Chandra Source Catalog products of one detection: counts per channel, background, effective area and response as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, identity, normalise
from mmu_pipeline.readers.fits_address import Files, opened
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

NO_ID = "no object id"
FROM_PHA = ("counts", "background_counts", "background_scale")
FROM_EBOUNDS = ("energy_low", "energy_high")
FROM_ARF = ("photon_energy_low", "photon_energy_high", "effective_area")
QUANTITIES = (*FROM_PHA, *FROM_EBOUNDS, *FROM_ARF, "rate", "rate_err", "response")
"""What a field may name as its source here; a column may also name a key of the spectrum's header."""


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The one detection of a PHA file. Raises BrokenSource naming the column."""
    declared = survey.forms[form]
    with normalise.blaming(path), opened(declared, path) as files:
        header = _spectra(files)[0].header
        object_id = _object_id(files)
        position = {
            name: _key(header, names[0], name).astype(np.float64) for name, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = {field.name: field.source_names(form)[0] for field in survey.columns if field.source_names(form)}
        sources = {
            name: np.array([_background_scale(files)]) if source == "background_scale" else _key(header, source, name)
            for name, source in carried.items()
        }
        columns = normalise.columns(survey, form, sources, 1)
        table = pa.table({"object_id": pa.array([object_id], pa.string()), **position, "source_row": pa.array([0]), **columns})
    return ObjectRows(table) if object_id else ObjectRows(table.slice(0, 0), (Skipped(0, "", NO_ID),))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Arrays of the one detection, per channel or per bin of photon energy, for each of `rows` (all 0). Raises BrokenSource."""
    with normalise.blaming(path), opened(survey.forms[form], path) as files:
        identity.check_only_row(rows, _object_id(files), object_ids)
        needed = {field.name: field.source_names(form)[0] for field in needed_members(survey, form, members)}
        found: dict[str, npt.NDArray[Any]] = {}
        for name, source in needed.items():
            if source not in QUANTITIES:
                hint = f"known: {', '.join(QUANTITIES)}"
                raise BrokenSource("these files have no such array", column=name, expected=source, hint=hint)
            found[name] = quantity(files, source)[np.newaxis]
        arrays = finished(survey, form, found)
        return {field.name: arrays[field.name] * len(rows) for field in members}


def quantity(files: Files, name: str) -> npt.NDArray[Any]:
    """One of QUANTITIES: per channel (channels,) or per photon energy (energies,), the response (energies, channels).

    counts, background_counts: count; energies: keV; effective_area: cm2; rate and rate_err: count / s / keV, the background
    scaled by region area and exposure and taken off, errors after Gehrels (1986, ApJ 303, 336, eq. 7) added in quadrature.
    """
    if name in FROM_PHA:
        spectra = _spectra(files)
        return _column(spectra[0 if name == "counts" else 1], "COUNTS", name)
    if name in FROM_EBOUNDS:
        return _column(_extension(files, "rmf", "EBOUNDS"), "E_MIN" if name == "energy_low" else "E_MAX", name)
    if name in FROM_ARF:
        column = {"photon_energy_low": "ENERG_LO", "photon_energy_high": "ENERG_HI", "effective_area": "SPECRESP"}[name]
        return _column(_extension(files, "arf", "SPECRESP"), column, name)
    if name == "response":
        return _response(files)
    source, background = (quantity(files, each).astype(np.float64) for each in ("counts", "background_counts"))
    scale, width = _background_scale(files), quantity(files, "energy_high") - quantity(files, "energy_low")
    per_unit = _number(_spectra(files)[0].header, "EXPOSURE", name) * width.astype(np.float64)
    if len(width) != len(source):
        raise BrokenSource(
            "counts and energies are not of the same channels", column=name, counts=len(source), energies=len(width)
        )
    if name == "rate":
        return np.asarray((source - scale * background) / per_unit)
    return np.asarray(np.hypot(_gehrels(source), scale * _gehrels(background)) / per_unit)


def _gehrels(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(1 + np.sqrt(counts + 0.75))


def _spectra(files: Files) -> tuple[Any, Any]:
    """The spectra of the source and of its background."""
    found = [hdu for hdu in files.hdus(None) if hdu.name == "SPECTRUM"]
    source = next((hdu for hdu in found if hdu.header.get("HDUCLAS2", "TOTAL") != "BKG"), None)
    background = next((hdu for hdu in found if hdu.header.get("HDUCLAS2") == "BKG"), None)
    if source is None or background is None:
        missing = "of the source" if source is None else "of the background"
        hint = f"the file has: {', '.join(hdu.name for hdu in files.hdus(None))}"
        raise BrokenSource(f"the spectrum {missing} is missing", column="SPECTRUM", hint=hint)
    return source, background


def _background_scale(files: Files) -> float:
    """Ratio of source to background in region area, fractional area and exposure."""
    ratio = 1.0
    source, background = _spectra(files)
    for key in ("BACKSCAL", "AREASCAL", "EXPOSURE"):
        ratio *= _number(source.header, key, key) / _number(background.header, key, key)
    return ratio


def _response(files: Files) -> npt.NDArray[np.float32]:
    """The redistribution matrix of the RMF, unpacked: rows are photon energies, columns channels (OGIP CAL/GEN/92-002)."""
    table = _extension(files, "rmf", "MATRIX", "RSP_MATRIX", "SPECRESP MATRIX")
    channels = len(quantity(files, "energy_low"))
    at = 1 + [name.upper() for name in table.columns.names].index("F_CHAN")
    first = int(table.header.get(f"TLMIN{at}", 1))
    matrix = np.zeros((len(table.data), channels), np.float32)
    columns = (table.data[name] for name in ("N_GRP", "F_CHAN", "N_CHAN", "MATRIX"))
    for row, groups, starts, lengths, values in zip(matrix, *columns, strict=True):
        used = 0
        for start, length in zip(np.atleast_1d(starts)[:groups], np.atleast_1d(lengths)[:groups], strict=True):
            row[start - first : start - first + length] = values[used : used + length]
            used += int(length)
    return matrix


def _extension(files: Files, role: str, *names: str) -> Any:
    hdus = files.hdus(role)
    for name in names:
        if name in hdus:
            return hdus[name]
    hint = f"the {role} has: {', '.join(hdu.name for hdu in hdus)}"
    raise BrokenSource("a declared extension is missing", column=names[0], file=hdus.filename(), hint=hint)


def _column(table: Any, column: str, name: str) -> npt.NDArray[Any]:
    if column not in table.columns.names:
        hint = f"the table has: {', '.join(table.columns.names)}"
        raise BrokenSource("a declared column is missing", column=name, expected=column, hint=hint)
    values = np.asarray(table.data[column])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _key(header: Any, key: str, name: str) -> Array:
    """A header value, shape (1,)."""
    if key not in header:
        raise BrokenSource("a required header key is missing", column=name, expected=key)
    return np.array([header[key]])


def _number(header: Any, key: str, name: str) -> float:
    return float(normalise.numbers_of(_key(header, key, name), name)[0])


def _object_id(files: Files) -> str:
    header = _spectra(files)[0].header
    return identity.object_ids(files.form, {name: _key(header, name, name) for name in identity.id_sources(files.form)})[0]

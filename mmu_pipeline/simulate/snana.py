"""Light curves to SNANA text as supernova surveys publish it, with the faults of real files on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmu_pipeline.simulate.light_curves import LightCurve

COLUMNS = ("MJD", "FLT", "FIELD", "FLUXCAL", "FLUXCALERR", "MAG", "MAGERR")
NO_MAG = 27.5
"""What real files hold as magnitude of a negative flux."""


@dataclass(frozen=True)
class Supernova:
    """One object of a raw supernova set."""

    snid: str
    """As the file writes it, leading zeros included."""
    ra: float
    dec: float
    curves: Mapping[str, LightCurve]
    header: Mapping[str, str] = field(default_factory=dict)
    """Further header keys and their text: {"REDSHIFT_CMB": "0.2459 +- 0.001", "HOSTGAL_LOGMASS": "-99"}."""


@dataclass(frozen=True)
class Traps:
    """How the file departs from what the format promises."""

    columns: Sequence[str] = COLUMNS
    """Order of VARLIST; real files put MAG before FLUXCAL, or FIELD before FLT."""
    band_key: str = "FLT"
    """DES writes BAND, some CSP files FILTER."""
    dec_key: str = "DECL"
    """CSP writes DEC."""
    unit: str = " deg"
    """Word after the coordinates; DES has none."""
    nvar_off: int = 0
    """NVAR is wrong by so much."""
    nobs_off: int = 0
    end: bool = True
    """Whether END: closes the file."""
    comments: bool = True
    shuffled: bool = False
    """Rows of a band not in time order."""
    broken_row: int | None = None
    """This OBS row has lost its last two values."""
    cut_at: float | None = None
    """Keep only this share of the bytes."""


PLAIN = Traps()


def snana_text(supernova: Supernova, traps: Traps = PLAIN) -> str:
    """The file of one supernova as text. A light curve without epochs gives NOBS: 0 and no row."""
    rows = [line for band, curve in supernova.curves.items() for line in _rows(band, curve, traps)]
    if traps.shuffled:
        order = np.random.default_rng(len(rows)).permutation(len(rows))
        rows = [rows[at] for at in order]
    if traps.broken_row is not None:
        rows[traps.broken_row] = rows[traps.broken_row].rsplit(maxsplit=2)[0]
    names = [traps.band_key if name == "FLT" else name for name in traps.columns]
    lines = [
        "SURVEY:  SIM",
        f"SNID:  {supernova.snid}",
        "IAUC:    UNKNOWN",
        f"RA:   {supernova.ra:.6f}{traps.unit}",
        f"{traps.dec_key}:   {supernova.dec:.6f}{traps.unit}",
        f"FILTERS: {''.join(supernova.curves)}",
        *(f"{key}: {value}" for key, value in supernova.header.items()),
        *(["", "# TERSE LIGHT CURVE OUTPUT:"] if traps.comments else []),
        f"NOBS: {len(rows) + traps.nobs_off}",
        f"NVAR:   {len(names) + traps.nvar_off}",
        f"VARLIST:  {'  '.join(names)}",
        *rows,
        *(["END:"] if traps.end else []),
    ]
    text = "\n".join(lines) + "\n"
    return text if traps.cut_at is None else text[: int(len(text) * traps.cut_at)]


def write_snana(path: Path, supernova: Supernova, traps: Traps = PLAIN) -> Path:
    """Write that text to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(snana_text(supernova, traps))
    return path


def _rows(band: str, curve: LightCurve, traps: Traps) -> list[str]:
    lines = []
    for mjd, flux, error in zip(curve.mjd, curve.flux, curve.error, strict=True):
        bright = flux > 0
        values = {
            "MJD": f"{mjd:.3f}",
            "FLT": band,
            "FIELD": "NULL",
            "FLUXCAL": f"{flux:.3f}",
            "FLUXCALERR": f"{error:.3f}",
            "MAG": f"{27.5 - 2.5 * np.log10(flux) if bright else NO_MAG:.3f}",
            "MAGERR": f"{1.0857 * error / flux if bright else -9.0:.3f}",
        }
        lines.append(f"OBS: {' '.join(values[name] for name in traps.columns)}")
    return lines

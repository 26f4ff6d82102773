"""Gaia sources to the archive's bulk files: gzipped ECSV of continuous BP and RP spectra, and of the source table beside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmu_pipeline.simulate.objects import Objects

BAND = 55
"""Coefficients of each of BP and RP."""
SPECTRA = "Spectroscopy/xp_continuous_mean_spectrum/XpContinuousMeanSpectrum_000000-003111.csv.gz"
SOURCES = "gaia_source/GaiaSource_000000-003111.csv.gz"
OF_SPECTRUM = ("bp_n_relevant_bases", "rp_n_relevant_bases", "bp_standard_deviation", "rp_standard_deviation")


def write_xp(folder: Path, objects: Objects) -> list[Path]:
    """Spectra in order of source_id, sources in another; null where a value, or a whole band, is missing."""
    arrays = objects.members
    rows = []
    for at, object_id in enumerate(objects.object_ids):
        row = {"source_id": object_id}
        for name in OF_SPECTRUM:
            row[name] = _word(objects.columns[name][at])
        for number, band in enumerate(("bp", "rp")):
            here = slice(BAND * number, BAND * (number + 1))
            known = arrays["coeff_known"][at][here].all()
            parts = {
                "coefficients": arrays["coeff"][at][here],
                "coefficient_errors": arrays["coeff_error"][at][here],
                "coefficient_correlations": arrays[f"{band}_correlations"][at],
            }
            for kind, values in parts.items():
                row[f"{band}_{kind}"] = f'"{json.dumps(values.astype("f8").tolist())}"' if known else "null"
        rows.append(row)
    sources = []
    for at in np.random.default_rng(len(objects)).permutation(len(objects)):
        place = {"ra": repr(float(objects.ra[at])), "dec": repr(float(objects.dec[at]))}
        row = {"source_id": objects.object_ids[at], **place}
        for field in objects.survey.columns:
            if field.name not in OF_SPECTRUM and (source := field.source_name("xp")):
                row[source] = _word(objects.columns[field.name][at])
        sources.append(row)
    _write(folder / SOURCES, sources)
    return [_write(folder / SPECTRA, rows)]


def _word(value: Any) -> str:
    return "null" if value is None else repr(value)


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True)
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", ",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path

"""Detections of stars to APOGEE cells of the MMU: rest-frame spectra of three detectors, wavelengths from rounded logarithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import files_of_cells, table_of, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of
from mmu_pipeline.simulate.spectra import light

FOLDER = "apogee/apogee"
WINDOWS = ((246, 3274), (3585, 6080), (6344, 8335))
"""Pixels of each detector that are kept of the 8,575 of the combined grid."""
LSF_SIGMA = (0.326, 0.283, 0.236)
PIXEL = np.concatenate([np.arange(*window) for window in WINDOWS])
LOG_WAVELENGTH = 4.179 + 6e-6 * PIXEL
PARAMETERS = ("teff", "logg", "m_h", "alpha_m")


def object_ids(rows: pa.Table) -> list[str]:
    """APOGEE_ID: 2M and the position in hours and degrees."""
    ids = []
    for ra, dec in zip(rows["ra"].to_pylist(), rows["dec"].to_pylist(), strict=True):
        hours, degrees = round(ra / 15 * 360_000), round(abs(dec) * 36_000)
        when = f"{hours // 360000:02d}{hours // 6000 % 60:02d}{hours % 6000:04d}"
        ids.append(f"2M{when}{'-' if dec < 0 else '+'}{degrees // 36000:02d}{degrees // 600 % 60:02d}{degrees % 600:03d}")
    return ids


file_names = files_of_cells


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 22, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    flux = light({**row, "redshift": 0.0}, 10**LOG_WAVELENGTH)
    sigma = 0.01 * flux + 0.05
    no_error = rng.uniform(size=len(flux)) < 0.002
    good = (rng.uniform(size=len(flux)) > 0.01) & ~no_error
    continuum = 1 + 0.01 * rng.standard_normal(len(flux))
    known = row["true_id"] % 4 != 1
    values = {"teff": row["teff"], "logg": 4.4, "m_h": -0.25, "alpha_m": 0.05}
    return {
        "wavelength": 10**LOG_WAVELENGTH,
        "flux": (flux + sigma * rng.standard_normal(len(flux))).astype("f4"),
        "ivar": np.where(good, sigma**-2.0, 0).astype("f4"),
        "lsf_sigma": np.concatenate([np.full(b - a, s, "f4") for (a, b), s in zip(WINDOWS, LSF_SIGMA, strict=True)]),
        "mask": good,
        "pseudo_continuum_flux": continuum.astype("f4"),
        "pseudo_continuum_ivar": np.where(no_error, 0, 1e4).astype("f4"),
        **{name: float(np.float32(value)) if known else None for name, value in values.items()},
        **{f"{name}_err": float(np.float32(0.02)) if known else None for name in values},
        "radial_velocity": float(np.float32(row["redshift"] * 299_792.458)),
    }


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: float64 arrays, infinite inverse variance without error, -9999 for missing parameters, ids as bytes."""
    truth = table_of(true_rows(rows, seed))
    bad = ~truth["mask"].astype(bool)
    names = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS))
    catalog = {
        "object_id": np.array([value.encode() for value in object_ids(rows)], "S18"),
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        "healpix": rows["cell"].to_numpy(),
        **{name: np.where(truth[name] == None, -9999, truth[name]).astype("f4") for name in names},  # noqa: E711
        "radial_velocity": truth["radial_velocity"].astype("f4"),
    }
    spectra = {
        "spectrum_flux": truth["flux"].astype("f8"),
        "spectrum_ivar": np.where(bad, np.inf, truth["ivar"]).astype("f8"),
        "spectrum_lsf_sigma": truth["lsf_sigma"].astype("f8"),
        "spectrum_lambda": np.tile(10 ** LOG_WAVELENGTH.astype("f4").astype("f8"), (len(bad), 1)),
        "spectrum_mask": bad,
        "pseudo_continuum_spectrum_flux": truth["pseudo_continuum_flux"].astype("f8"),
        "pseudo_continuum_spectrum_ivar": np.where(truth["pseudo_continuum_ivar"] > 0, truth["pseudo_continuum_ivar"], np.inf),
    }
    write_columns(path, {**catalog, **spectra}, big_endian=True)

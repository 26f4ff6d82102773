"""Detections of galaxies to VIPERS cells of the MMU: `vipers_w1|w4/healpix=N/001-of-001.h5`, fluxes and noise in cgs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import table_of, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of
from mmu_pipeline.simulate.spectra import light

FOLDER = "vipers"
WAVELENGTH = 5500 + 7.14 * np.arange(557)


def object_ids(rows: pa.Table) -> list[str]:
    """Nine digits, the first of which names the field."""
    fields = zip(rows["true_id"].to_pylist(), rows["ra"].to_pylist(), strict=True)
    return [str((100_000_000 if ra < 180 else 400_000_000) + 7 * true_id) for true_id, ra in fields]


def file_names(rows: pa.Table) -> list[str]:
    cells = zip(rows["cell"].to_pylist(), rows["ra"].to_pylist(), strict=True)
    return [f"vipers_w{1 if ra < 180 else 4}/healpix={cell}/001-of-001.h5" for cell, ra in cells]


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 23, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    flux = light(row, WAVELENGTH)
    sigma = 0.1 * np.median(flux) + 0.05 * rng.uniform(0.5, 1.5, len(flux))
    good = rng.uniform(size=len(flux)) > 0.02
    return {
        "wavelength": WAVELENGTH.astype("f4"),
        "flux": (flux + sigma * rng.standard_normal(len(flux))).astype("f4"),
        "ivar": np.where(good, sigma**-2.0, 0).astype("f4"),
        "mask": good,
        "redshift": float(row["redshift"]),
        "redflag": float(row["redshift"]),
        "exptime": 540.0,
        "norm": None if row["true_id"] % 3 == 1 else 1.25,
        "mag": float(np.float32(row["mag"])),
    }


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: header keys as float64, ids too; arrays float32 in erg/s/cm2/A; mask codes as float32, 0 usable."""
    truth = table_of(true_rows(rows, seed))
    rng = np.random.default_rng([seed, 24])
    good = truth["mask"].astype(bool)
    noise = np.where(good, np.where(good, truth["ivar"], 1.0).astype("f8") ** -0.5, 1.0) * 1e-17
    catalog = {
        "object_id": np.array(object_ids(rows), np.float64),
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        **{name.upper(): truth[name].astype("f8") for name in ("redshift", "redflag", "exptime", "mag")},
        "NORM": np.where(truth["norm"] == None, -99, truth["norm"]).astype("f8"),  # noqa: E711
        "healpix": rows["cell"].to_numpy(),
    }
    spectra = {
        "spectrum_wave": truth["wavelength"],
        "spectrum_flux": (truth["flux"].astype("f8") * 1e-17).astype("f4"),
        "spectrum_noise": noise.astype("f4"),
        "spectrum_mask": np.where(good, 0, rng.integers(1, 4, good.shape)).astype("f4"),
    }
    write_columns(path, {**catalog, **spectra})

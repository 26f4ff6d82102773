"""Detections to DESI cells of the MMU: `desi/edr_sv3/healpix=N/001-of-001.hdf5`, all spectra on one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import files_of_cells, table_of, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of
from mmu_pipeline.simulate.spectra import light

FOLDER = "desi/edr_sv3"
WAVELENGTH = 3600 + 0.8 * np.arange(7781)
BANDS = {"g": 4800.0, "r": 6400.0, "z": 9000.0}


def object_ids(rows: pa.Table) -> list[str]:
    """TARGETID: 17 digits."""
    return [str(39_627_700_000_000_000 + 13 * true_id) for true_id in rows["true_id"].to_pylist()]


file_names = files_of_cells


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 21, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    flux = light(row, WAVELENGTH)
    sigma = 0.05 * np.median(flux) + 0.3
    good = rng.uniform(size=len(flux)) > 0.003
    photometry = row["true_id"] % 5 != 2
    fluxes = {band: float(np.float32(10 ** (-0.4 * (row["mag"] - 22.5)) * at / 7480)) for band, at in BANDS.items()}
    return {
        "wavelength": WAVELENGTH.astype("f4"),
        "flux": (flux + sigma * rng.standard_normal(len(flux))).astype("f4"),
        "ivar": np.where(good, sigma**-2.0, 0).astype("f4"),
        "lsf_sigma": np.full(len(flux), 0.87, "f4"),
        "mask": good,
        "z": float(row["redshift"]),
        "z_err": 1e-5,
        "zwarn": 4 if row["true_id"] % 7 == 3 else 0,
        "ebv": float(np.float32(0.031)) if photometry else None,
        **{f"{kind}_{band}": _share(kind, value) if photometry else None for band, value in fluxes.items()
           for kind in ("flux", "flux_ivar", "fiberflux", "fibertotflux")},
    }  # fmt: skip


def _share(kind: str, flux: float) -> float:
    return float(
        np.float32({"flux": flux, "flux_ivar": 400 / flux**2, "fiberflux": 0.7 * flux, "fibertotflux": 0.71 * flux}[kind])
    )


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: catalogue columns in the byte order of FITS; -99 or 0 where there is no photometry."""
    truth = table_of(true_rows(rows, seed))
    catalog = {
        "object_id": np.array([int(value) for value in object_ids(rows)], np.int64),
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        "healpix": rows["cell"].to_numpy(),
        "Z": truth["z"].astype("f8"),
        "ZERR": truth["z_err"].astype("f8"),
        "ZWARN": truth["zwarn"].astype("i8"),
        **{
            name.upper(): np.where(values == None, -99 if name.startswith("flux_") else 0, values).astype("f4")  # noqa: E711
            for name, values in truth.items()
            if name == "ebv" or "flux_" in name
        },
    }
    spectra = {
        "spectrum_lambda": truth["wavelength"],
        "spectrum_flux": truth["flux"],
        "spectrum_ivar": truth["ivar"],
        "spectrum_lsf_sigma": truth["lsf_sigma"],
        "spectrum_mask": ~truth["mask"].astype(bool),
    }
    write_columns(path, {**catalog, **spectra}, big_endian=True)

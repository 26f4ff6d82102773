"""Detections to Chandra cells of the MMU: `spectra/healpix=N/001-of-001.hdf5`, spectra of their own lengths as float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import files_of_cells, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of

FOLDER = "chandra/spectra"
CHANNEL = 0.0146
"""Width in keV."""


def object_ids(rows: pa.Table) -> list[str]:
    """What tells two detections apart: name, observation, interval, region. The file's own object_id is a running number."""
    return [".".join(map(str, _parts(row).values())) for row in rows_of(rows)]


def _parts(row: Row) -> dict[str, Any]:
    sign = "-" if row["dec"] < 0 else "+"
    name = f"2CXO J{row['ra'] / 15 * 10_000:06.0f}{sign}{abs(row['dec']) * 10_000:06.0f}"
    return {"name": name, "obsid": 1000 + row["true_id"], "obi": row["true_id"] % 2, "region_id": 1 + row["true_id"] % 90}


file_names = files_of_cells


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 27, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    edges = 0.5 + CHANNEL * np.concatenate([[0], np.cumsum(rng.integers(1, 9, 20 + row["true_id"] % 100))])
    low, high = edges[:-1], edges[1:]
    rate = 0.02 * low**-1.7 * (1 + 0.2 * rng.standard_normal(len(low)))
    return {
        "energy_low": low.astype("f4"),
        "energy_high": high.astype("f4"),
        "rate": rate.astype("f4"),
        "rate_err": (0.3 * np.abs(rate)).astype("f4"),
        "mjd": 52_187.02 + row["true_id"],
        "source_name": _parts(row)["name"],
        "off_axis_angle": float(np.float32(4.5)),
        "flux_aper_b": 1.25e-14,
        "flux_bb_aper_b": 1.5e-14,
        "flux_significance_b": 7.5,
        "hard_hm": -0.25,
        "hard_hs": 0.5,
        "hard_ms": 0.125,
        "var_index_b": 1.0,
        "var_prob_b": None if row["true_id"] % 4 == 0 else 0.25,
    }


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: text as UTF-8 bytes, numbers as float64 with NaN where missing, spectra of variable length."""
    truth = true_rows(rows, seed)
    parts = [_parts(row) for row in rows_of(rows)]
    names = {"mjd": "gti_mjd_obs", "off_axis_angle": "theta"}
    catalog = {
        "object_id": np.arange(len(truth)),
        "name": np.array([part["name"].encode() for part in parts], "S32"),
        **{key: np.array([part[key] for part in parts], np.int64) for key in ("obsid", "obi", "region_id")},
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        "healpix": rows["cell"].to_numpy(),
        **{
            names.get(name, name): np.array([np.nan if row[name] is None else row[name] for row in truth], np.float64)
            for name in (
                "mjd",
                "off_axis_angle",
                *(key for key in (truth[0] if truth else {}) if key.endswith(("_b", "_hm", "_hs", "_ms"))),
            )
        },
    }
    write_columns(path, catalog)
    arrays = {"energy_low": "ene_lo", "energy_high": "ene_hi", "rate": "flux", "rate_err": "flux_err"}
    with h5py.File(path, "a") as file:
        for name, published in arrays.items():
            stored = file.create_dataset(f"spectrum_{published}", (len(truth),), h5py.vlen_dtype(np.float64))
            for at, row in enumerate(truth):
                stored[at] = row[name].astype(np.float64)
        centre = file.create_dataset("spectrum_ene", (len(truth),), h5py.vlen_dtype(np.float64))
        for at, row in enumerate(truth):
            centre[at] = (row["energy_low"].astype(np.float64) + row["energy_high"]) / 2

"""Detections to LAMOST cells of the MMU: flux and wavelength alone, cut to 3,908 pixels or filled up with zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import files_of_cells, table_of, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of
from mmu_pipeline.simulate.spectra import light

FOLDER = "lamost/lamost"
LENGTH = 3908
LENGTHS = (3909, 3906, 3801)
"""Pixels that the survey's own files have."""


def object_ids(rows: pa.Table) -> list[str]:
    """obsid: a running number; that of a star's later spectra follows, where rows have a column `visit` (0 to 2)."""
    return [str(101_001 + 3 * row["true_id"] + row.get("visit", 0)) for row in rows_of(rows)]


file_names = files_of_cells


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 25, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(min(LENGTH, LENGTHS[row["true_id"] % 3])))
    flux = 37.5 * light(row, wavelength)
    known, visit = row["true_id"] % 6 != 5, row.get("visit", 0)
    return {
        "wavelength": wavelength.astype("f4"),
        "flux": (flux * (1 + 0.02 * rng.standard_normal(len(flux)))).astype("f4"),
        "z": float(row["redshift"]) if known else None,
        "z_err": 2.5e-5 if known else None,
        "spectral_class": "STAR" if row["kind"] == "star" else "GALAXY",
        "subclass": "G5" if row["kind"] == "star" else None,
        **{
            f"snr{band}": float(np.float32(10 + 5 * number + 2 * ((row["true_id"] + visit) % 3)))
            for number, band in enumerate("ugriz")
        },
        "gaia_source_id": row.get("gaia_source_id"),
        "mjd": 56_650 + row["true_id"] % 900 + visit,
    }


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: the catalogue's columns in lower case, -9999 and "Non" where missing, restframe True for all.

    Gaia's ids are those of a column `gaia_source_id` of the rows, if they have one.
    """
    truth = true_rows(rows, seed)
    table = table_of(truth)

    def filled(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        block = np.zeros((len(truth), LENGTH), "f4")
        for line, row in zip(block, truth, strict=True):
            line[: len(row[name])] = row[name]
        return block

    catalog = {
        "obsid": np.array(object_ids(rows), np.int64),
        "object_id": np.array(object_ids(rows), np.int64),
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        "healpix": rows["cell"].to_numpy(),
        **{name: np.where(table[name] == None, -9999, table[name]).astype("f8") for name in ("z", "z_err")},  # noqa: E711
        "class": np.array([row["spectral_class"].encode() for row in truth], "S8"),
        "subclass": np.array([(row["subclass"] or "Non").encode() for row in truth], "S8"),
        **{f"snr{band}": table[f"snr{band}"].astype("f4") for band in "ugriz"},
        "gaia_source_id": np.where(table["gaia_source_id"] == None, -9999, table["gaia_source_id"]).astype("i8"),  # noqa: E711
        "mjd": table["mjd"].astype("i4"),
        "restframe": np.ones(len(truth), bool),
    }
    write_columns(
        path, {**catalog, "spectrum_flux": filled("flux"), "spectrum_wavelength": filled("wavelength")}, big_endian=True
    )

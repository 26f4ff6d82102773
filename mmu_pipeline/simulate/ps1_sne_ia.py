"""Detections to PS1 supernova files of the MMU: `healpix=NNNN/PS1_<n>.hdf5`, one per object, bands padded with -99."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.light_curves import BANDS, light_curve
from mmu_pipeline.simulate.sky import Row, Values, rows_of
from mmu_pipeline.sky import Float

FOLDER = "ps1_sne_ia/ps1_sne_ia"


def _number(true_id: int) -> int:
    return 10 + 37 * true_id


def object_ids(rows: pa.Table) -> list[str]:
    """SNID: six digits. The MMU's own id, in the file and its name, lost the leading zeros."""
    return [f"{_number(true_id):06d}" for true_id in rows["true_id"].to_pylist()]


def file_names(rows: pa.Table) -> list[str]:
    """Cell folders are padded to four digits."""
    pairs = zip(rows["cell"].to_pylist(), rows["true_id"].to_pylist(), strict=True)
    return [f"healpix={cell:04d}/PS1_{_number(true_id)}.hdf5" for cell, true_id in pairs]


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write the one object of a file. Everything is float32, also time and position, as published."""
    (row,) = rows_of(rows)
    curves = light_curve(row, np.random.default_rng([seed, 6, row["true_id"]]))
    longest = max(len(curve.mjd) for curve in curves.values())

    def padded(values: list[Float], fill: float) -> Values:
        return np.array([np.pad(array, (0, longest - len(array)), constant_values=fill) for array in values], np.float32)

    flux = padded([curves[band].flux for band in BANDS], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = np.where(flux > 0, -2.5 * np.log10(flux) - 5, np.where(flux < 0, 27.5, 0)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in {
            "time": padded([curves[band].mjd for band in BANDS], -99),
            "flux": flux,
            "flux_err": padded([curves[band].error for band in BANDS], 0),
            "MAG": mag,
            "MAGERR": np.where(flux != 0, 0.1, 0).astype(np.float32),
        }.items():
            file[name] = values
        file["bands"] = ",".join(BANDS)
        for name, scalar in _header(row, sum(len(curve.mjd) for curve in curves.values())).items():
            file[name] = scalar


def _header(row: Row, observations: int) -> Row:
    redshift = np.float32(row["redshift"])
    true_id = row["true_id"]
    return {
        "object_id": np.bytes_(f"PS1_{_number(true_id)}"),
        "obj_type": np.bytes_("Ia"),
        "SNID": np.int64(_number(true_id)),
        "SURVEY": np.bytes_("PS1MD"),
        "IAUC": np.bytes_("UNKNOWN"),
        "FILTERS": np.bytes_("griz"),
        "ra": np.float32(row["ra"]),
        "dec": np.float32(row["dec"]),
        "healpix": np.int64(row["cell"]),
        "redshift": redshift,
        "REDSHIFT_HELIO": np.float32(redshift - 7e-4),
        "host_log_mass": np.float32(-99.0 if true_id % 9 == 4 else 9.4 + true_id % 17 / 10),
        "HOSTGAL_SNSEP": np.float32(row["sn_offset_arcsec"]),
        "MWEBV": np.float32(0.02),
        "VPEC": np.float32(12.5),
        "SEARCH_PEAKMJD": np.float32(row["sn_peak_mjd"]),
        "NOBS": np.int64(observations),
    }

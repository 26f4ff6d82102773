"""Detections to HSC cells of the MMU: `pdr3_dud_22.5/healpix=N/001-of-001.hdf5`, stamps in counts and the forced catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.images import BANDS, SCALE_ARCSEC, SEEING_ARCSEC, SIZE, SKY_NOISE, Stamp, band_magnitudes, stamp
from mmu_pipeline.simulate.layout import files_of_cells, write_columns
from mmu_pipeline.simulate.sky import Columns, rows_of

FOLDER = "hsc/pdr3_dud_22.5"


def object_ids(rows: pa.Table) -> list[str]:
    """HSC ids: tract, patch and a running number packed in 64 bits."""
    return [
        str(40_000_000_000_000_000 + 4_294_967_296 * (1 + true_id // 8) + 613 * true_id)
        for true_id in rows["true_id"].to_pylist()
    ]


file_names = files_of_cells


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell; `rows` are detections with their object_id, none is allowed."""
    write_columns(path, file_columns(rows, seed), big_endian=True)


def file_columns(rows: pa.Table, seed: int) -> Columns:
    """The datasets of such a file, in native byte order."""
    columns: Columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    stamps = [stamp(row, np.random.default_rng([seed, 3, row["true_id"]])) for row in rows_of(rows)]
    return {**_catalog(columns, seed), **_pixels(stamps)}


def _pixels(stamps: list[Stamp]) -> Columns:
    count, shape = len(stamps), (len(BANDS), SIZE, SIZE)
    return {
        "image_band": np.full((count, len(BANDS)), [f"hsc-{band}" for band in BANDS], "S5"),
        "image_array": np.array([stamp.image for stamp in stamps], np.float32).reshape(count, *shape),
        "image_ivar": np.array([stamp.ivar for stamp in stamps], np.float32).reshape(count, *shape),
        "image_mask": np.array([stamp.mask for stamp in stamps], bool).reshape(count, *shape),
        "image_psf_fwhm": np.full((count, len(BANDS)), SEEING_ARCSEC, np.float32),
        "image_scale": np.full((count, len(BANDS)), SCALE_ARCSEC, np.float32),
    }


def _catalog(columns: Columns, seed: int) -> Columns:
    """The forced photometry: magnitudes, fluxes (nJy), second moments (arcsec squared), all float32 but ids and positions."""
    count = len(columns["ra"])
    mags = band_magnitudes(columns["mag"], columns["colour"])
    noise = np.array([np.random.default_rng([seed, 4, int(true_id)]).standard_normal(5) for true_id in columns["true_id"]])
    error = np.hypot(0.004, SKY_NOISE * 10 ** (0.4 * (mags - 26.0)))
    mags = mags + error * noise.reshape(count, 5)
    point = columns["kind"] == "star"
    moment = (SEEING_ARCSEC / 2.3548) ** 2
    table: Columns = {
        "object_id": np.array([int(value) for value in columns["object_id"]], np.int64),
        "ra": columns["ra"],
        "dec": columns["dec"],
        "healpix": columns["cell"],
        "tract": (columns["cell"] + 8000).astype(np.int32),
        "patch": (columns["true_id"] % 9 * 100 + columns["true_id"] % 7).astype(np.int32),
    }
    for band, at in zip(BANDS, range(5), strict=True):
        flux = 10 ** (-0.4 * (mags[:, at] - 31.4))
        size = np.where(point, 0.0, columns["radius_arcsec"] ** 2 / 2)
        tilt = size * (1 - columns["axis_ratio"] ** 2) / 2
        lie = np.radians(columns["angle_deg"])
        floats = {
            f"a_{band}": np.full(count, (0.11, 0.08, 0.06, 0.04, 0.04)[at]),
            f"{band}_extendedness_value": np.where(point, 0.0, 1.0),
            f"{band}_variance_value": np.full(count, SKY_NOISE[at] ** 2),
            f"{band}_cmodel_mag": np.where((columns["true_id"] % 50 == 7) & (band == "y"), np.nan, mags[:, at]),
            f"{band}_cmodel_magerr": error[:, at],
            f"{band}_cmodel_flux": flux,
            f"{band}_cmodel_fluxerr": flux * error[:, at] / 1.0857,
            f"{band}_sdssshape_psf_shape11": np.full(count, moment[at]),
            f"{band}_sdssshape_psf_shape22": np.full(count, moment[at]),
            f"{band}_sdssshape_psf_shape12": np.zeros(count),
            f"{band}_sdssshape_shape11": moment[at] + size / 2 + tilt * np.cos(2 * lie),
            f"{band}_sdssshape_shape22": moment[at] + size / 2 - tilt * np.cos(2 * lie),
            f"{band}_sdssshape_shape12": tilt * np.sin(2 * lie),
        }
        table |= {name: values.astype(np.float32) for name, values in floats.items()}
    return table

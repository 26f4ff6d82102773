"""Detections to SDSS cells of the MMU: `sdss/healpix=N/001-of-001.hdf5`, spectra padded to the longest of the cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.images import band_magnitudes
from mmu_pipeline.simulate.layout import files_of_cells, text, write_columns
from mmu_pipeline.simulate.sky import Columns, Values, rows_of
from mmu_pipeline.simulate.spectra import GRIDS, Spectrum, spectrum

FOLDER = "sdss/sdss"
ID_WIDTH = 22


def object_ids(rows: pa.Table) -> list[str]:
    """SPECOBJID: 18 or 19 digits, another one for the repeat of a coincident object."""
    repeat = [fault == "coincident" for fault in rows["fault"].to_pylist()]
    return [
        str(461_628_614_023_079_936 + 2_048 * (3 * true_id + again))
        for true_id, again in zip(rows["true_id"].to_pylist(), repeat, strict=True)
    ]


file_names = files_of_cells


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell; `rows` are detections with their object_id, none is allowed."""
    write_columns(path, file_columns(rows, seed), big_endian=True)


def file_columns(rows: pa.Table, seed: int) -> Columns:
    """The datasets of such a file, in native byte order."""
    columns: Columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    spectra = [spectrum(row, np.random.default_rng([seed, 5, row["true_id"]])) for row in rows_of(rows)]
    return {**_catalog(columns), **_padded(spectra)}


def _padded(spectra: list[Spectrum]) -> Columns:
    """Arrays (n, longest): flux and LSF repeat their last value, ivar 0, wavelength -1, mask True (bad)."""
    longest = max((len(spectrum.flux) for spectrum in spectra), default=GRIDS[0][1])

    def filled(arrays: list[Values], fill: float | None, dtype: str) -> Values:
        table = np.empty((len(arrays), longest), dtype)
        for row, array in zip(table, arrays, strict=True):
            row[: len(array)] = array
            row[len(array) :] = array[-1] if fill is None else fill
        return table

    return {
        "spectrum_flux": filled([spectrum.flux for spectrum in spectra], None, "f4"),
        "spectrum_ivar": filled([spectrum.ivar for spectrum in spectra], 0, "f4"),
        "spectrum_lsf_sigma": filled([spectrum.lsf_sigma for spectrum in spectra], None, "f4"),
        "spectrum_lambda": filled([spectrum.wavelength for spectrum in spectra], -1, "f4"),
        "spectrum_mask": filled([spectrum.bad for spectrum in spectra], True, "bool"),
    }


def _catalog(columns: Columns) -> Columns:
    """Columns of specObj. ZWARNING is an integer of bits, non-zero where the redshift is doubtful; Z_ERR -6 there."""
    count = len(columns["ra"])
    doubtful = columns["true_id"] % 23 == 11
    griz = band_magnitudes(columns["mag"], columns["colour"])[:, :4]
    ugriz = np.concatenate([griz[:, :1] + 1.1, griz], axis=1)
    flux = 10 ** (-0.4 * (ugriz - 22.5))
    star = columns["kind"] == "star"
    return {
        "object_id": text([str(value) for value in columns["object_id"]], ID_WIDTH),
        "ra": columns["ra"],
        "dec": columns["dec"],
        "healpix": columns["cell"],
        "PLATE": (266 + columns["cell"] % 3000).astype(np.int32),
        "MJD": np.full(count, 53000, np.int32),
        "FIBERID": (1 + columns["true_id"] % 640).astype(np.int32),
        "CLASS": text(list(np.where(star, "STAR", "GALAXY")), 6),
        "Z": columns["redshift"].astype(np.float32),
        "Z_ERR": np.where(doubtful, -6.0, 1.2e-5 * (1 + columns["redshift"])).astype(np.float32),
        "ZWARNING": np.where(doubtful, 4, 0).astype(np.int32),
        "VDISP": np.where(star, 0.0, 90 + 70 * columns["colour"]).astype(np.float32),
        "VDISP_ERR": np.where(star, 0.0, 12.0 + columns["true_id"] % 9).astype(np.float32),
        "SPECTROFLUX": flux.astype(np.float32),
        "SPECTROFLUX_IVAR": (400 / flux**2).astype(np.float32),
        "SPECTROSYNFLUX": (0.97 * flux).astype(np.float32),
        "SPECTROSYNFLUX_IVAR": (380 / flux**2).astype(np.float32),
    }

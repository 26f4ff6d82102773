"""Detections of stars to GALAH cells of the MMU: four windows end to end, every wavelength two pixels too large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline.simulate.layout import table_of, write_columns
from mmu_pipeline.simulate.sky import Row, rows_of
from mmu_pipeline.simulate.spectra import light

FOLDER = "galah/dr3"
WINDOWS = {"B": (4713.99, 0.0460), "G": (5648.5, 0.0546), "R": (6478.3, 0.0631), "I": (7585.1, 0.0736)}
"""First wavelength and step, Angstrom."""
LENGTHS = (4096, 4088)
"""Pixels per window; padding fills the shorter spectra."""
SPECIES = tuple(
    "Li C O Na Mg Al Si K Ca Sc Sc2 Ti Ti2 V Cr Cr2 Mn Co Ni Cu Zn Rb Sr Y Zr Mo Ru Ba La Ce Nd Sm Eu".split()  # noqa: SIM905
)
VALUES = {"rv": 12.5, "log_lum": 0.1, "m_act": 0.98, "age": 5.5, "distance": 0.4, "radius": 1.05, "logg": 4.3, "fe_h": -0.2,
          "vbroad": 8.0, "alpha_fe": 0.07}  # fmt: skip


def object_ids(rows: pa.Table) -> list[str]:
    """sobject_id: fifteen digits, date, run, fibre and arm."""
    return [str(140_312_004_501_000 + 1_000 * true_id) for true_id in rows["true_id"].to_pylist()]


def file_names(rows: pa.Table) -> list[str]:
    """The next star's cell, as in the published form: cells were looked up before the rows were sorted."""
    cells = rows["cell"].to_pylist()
    return [f"healpix={cell}/001-of-001.hdf5" for cell in [*cells[1:], *cells[:1]]]


def true_rows(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """What a right reading of those rows gives: field -> value, arrays as in the survey's declaration, None where missing."""
    return [_true(row, np.random.default_rng([seed, 26, row["true_id"]])) for row in rows_of(rows)]


def _true(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    length = LENGTHS[row["true_id"] % 2]
    wavelength = np.concatenate([start + step * np.arange(length) for start, step in WINDOWS.values()])
    flux = 900 * light(row, wavelength) / light(row, np.array([6500.0]))
    sigma = 0.03 * flux
    flux = flux + sigma * rng.standard_normal(len(flux))
    dead = rng.uniform(size=len(flux)) < 0.001
    edges: dict[str, int] = {}
    for number, arm in enumerate("bgri"):
        edges |= {f"{arm}_start": number * length, f"{arm}_end": (number + 1) * length - 1}
    abundances: dict[str, Any] = {}
    for number, species in enumerate(SPECIES):
        known = (row["true_id"] + number) % 5 != 0
        abundances |= {
            f"{species.lower()}_fe": float(np.float32(0.01 * number)) if known else None,
            f"e_{species.lower()}_fe": float(np.float32(0.05)) if known else None,
            f"flag_{species.lower()}_fe": 0 if known else 32,
        }
    return {
        "wavelength": wavelength,
        "flux": np.where(dead, 0, flux).astype("f4"),
        "ivar": np.where(dead, 0, sigma**-2.0).astype("f4"),
        "norm_wavelength": wavelength + 0.5,
        "norm_flux": np.where(dead, 0, 1 + 0.03 * rng.standard_normal(len(flux))).astype("f4"),
        "norm_ivar": np.where(dead, 0, 1100.0).astype("f4"),
        **edges,
        "mjd": float(np.float32(56_728.75)),
        **{name: float(np.float32(value)) for name, value in VALUES.items()},
        **{f"e_{name}": float(np.float32(0.02 * abs(value))) for name, value in {**VALUES, "teff": row["teff"]}.items()},
        "teff": float(np.float32(row["teff"])),
        "vmic": 1.0,
        "ebv": 0.125,
        "flag_sp": row["true_id"] % 3,
        "flag_fe_h": 0,
        **abundances,
    }


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell: padding -1 in wavelengths and 0 elsewhere, infinite inverse variance of dead pixels, NaN for missing."""
    truth = true_rows(rows, seed)
    table = table_of(truth)
    longest = max((len(row["flux"]) for row in truth), default=0)

    def filled(arrays: list[Any], fill: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        block = np.full((len(arrays), longest), fill, "f4")
        for line, array in zip(block, arrays, strict=True):
            line[: len(array)] = array
        return block

    steps = [np.repeat([step for _, step in WINDOWS.values()], len(row["flux"]) // 4) for row in truth]
    moved = {
        name: [row[name] + 2 * step for row, step in zip(truth, steps, strict=True)] for name in ("wavelength", "norm_wavelength")
    }
    weights = {name: [np.where(row[name] > 0, row[name], np.inf) for row in truth] for name in ("ivar", "norm_ivar")}
    spectra = {
        "spectrum_lambda": filled(moved["wavelength"], -1),
        "spectrum_flux": filled([row["flux"] for row in truth], 0),
        "spectrum_ivar": filled(weights["ivar"], 0),
        "spectrum_lsf_sigma": np.full((len(truth), longest), 40_263.0, "f4"),
        "spectrum_norm_lambda": filled(moved["norm_wavelength"], -1),
        "spectrum_norm_flux": filled([row["norm_flux"] for row in truth], 0),
        "spectrum_norm_ivar": filled(weights["norm_ivar"], 0),
    }
    names = {f"{species.lower()}_fe": f"{species}_fe" for species in SPECIES}
    names |= {f"{kind}_{species.lower()}_fe": f"{kind}_{species}_fe" for species in SPECIES for kind in ("e", "flag")}
    edges = {f"{arm}_{end}": f"spectrum_{arm.upper()}_ind_{end}" for arm in "bgri" for end in ("start", "end")}
    scalars = {
        {**names, **edges, "mjd": "timestamp"}.get(name, name): values.astype("i4" if values.dtype.kind == "i" else "f4")
        for name, values in table.items()
        if not isinstance(truth[0][name], np.ndarray)
    }
    catalog = {
        "object_id": np.array(object_ids(rows), np.int64),
        **{name: rows[name].to_numpy() for name in ("ra", "dec")},
        "healpix": rows["cell"].to_numpy(),
    }
    write_columns(path, {**catalog, **scalars, **spectra}, big_endian=True)

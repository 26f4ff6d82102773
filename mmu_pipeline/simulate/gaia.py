"""Detections to Gaia cells of the MMU: `gaia/healpix=N/001-of-001.hdf5`, source table and BP/RP coefficients."""

from __future__ import annotations

from pathlib import Path

import healpy as hp
import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.coordinates import BarycentricMeanEcliptic, SkyCoord

from mmu_pipeline.simulate.layout import files_of_cells, write_columns
from mmu_pipeline.simulate.sky import Columns, Values

FOLDER = "gaia/gaia"
COEFFICIENTS = 55
"""Per band; BP then RP makes 110."""
CORRELATIONS = tuple(
    f"{first}_{second}_corr"
    for at, first in enumerate(("ra", "dec", "parallax", "pmra", "pmdec"))
    for second in ("ra", "dec", "parallax", "pmra", "pmdec")[at + 1 :]
)
GSPPHOT = {"teff": 1.0, "logg": 4.3, "mh": -0.3, "distance": 800.0, "azero": 0.12, "ag": 0.1, "ebpminrp": 0.05}


def object_ids(rows: pa.Table) -> list[str]:
    """source_id: the order-12 NESTED pixel of the source in the high bits, then a running number."""
    sky = {name: rows[name].to_numpy() for name in ("ra", "dec", "true_id")}
    pixel = hp.ang2pix(4096, np.nan_to_num(sky["ra"], nan=150.0), sky["dec"], nest=True, lonlat=True).astype(np.int64)
    return [str(value) for value in (pixel << 35) + 128 * (1 + sky["true_id"])]


file_names = files_of_cells


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write one cell; `rows` are detections with their object_id. The file has source_id and no object_id."""
    write_columns(path, file_columns(rows, seed))


def file_columns(rows: pa.Table, seed: int) -> Columns:
    """The datasets of such a file."""
    columns: Columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    rng = np.random.default_rng([seed, 7, int(columns["true_id"].sum())])
    return {**_astrometry(columns, rng), **_photometry(columns, rng), **_parameters(columns, rng), **_spectra(columns, rng)}


def _astrometry(columns: Columns, rng: np.random.Generator) -> Columns:
    count = len(columns["ra"])
    error = 0.02 * 10 ** (0.2 * (columns["mag"] - 15)).clip(1, None)
    ecliptic = SkyCoord(np.nan_to_num(columns["ra"]) * u.deg, columns["dec"] * u.deg).transform_to(BarycentricMeanEcliptic())
    double = {
        "ra": columns["ra"],
        "dec": columns["dec"],
        "parallax": columns["parallax"] + error * rng.standard_normal(count),
        "pmra": columns["pmra"] + error * rng.standard_normal(count),
        "pmdec": columns["pmdec"] + error * rng.standard_normal(count),
        "ecl_lon": ecliptic.lon.deg,
        "ecl_lat": ecliptic.lat.deg,
        "ref_epoch": np.full(count, 2016.0),
    }
    errors = {
        f"{name}_error": (error * rng.uniform(0.9, 1.1, count)).astype("f4")
        for name in ("ra", "dec", "parallax", "pmra", "pmdec")
    }
    correlations = {name: rng.uniform(-0.4, 0.4, count).astype("f4") for name in CORRELATIONS}
    ids = {
        "source_id": np.array([int(value) for value in columns["object_id"]], np.int64),
        "healpix": columns["cell"],
        "astrometric_params_solved": np.full(count, 31, np.int16),
        "ruwe": rng.lognormal(0.02, 0.06, count).astype("f4"),
        "nu_eff_used_in_astrometry": (1.25 + (columns["teff"] - 3400) / 2e4).astype("f4"),
        "pseudocolour": np.full(count, np.nan, "f4"),
    }
    return {**ids, **double, **errors, **correlations}


def _photometry(columns: Columns, rng: np.random.Generator) -> Columns:
    """Vega magnitudes and fluxes (electrons per second) in G, BP, RP; zero points 25.69, 25.34, 24.75."""
    count, colour = len(columns["ra"]), columns["colour"]
    mags = {"g": columns["mag"] + 0.3 * colour, "bp": columns["mag"] + 0.7 * colour, "rp": columns["mag"] - 0.3}
    table: Columns = {}
    for band, zero_point in (("g", 25.6874), ("bp", 25.3385), ("rp", 24.7479)):
        flux = 10 ** (-0.4 * (mags[band] - zero_point))
        table |= {
            f"phot_{band}_mean_mag": mags[band].astype("f4"),
            f"phot_{band}_mean_flux": flux,
            f"phot_{band}_mean_flux_error": (flux * rng.uniform(0.001, 0.004, count)).astype("f4"),
        }
    pairs = {"bp_rp": ("bp", "rp"), "bp_g": ("bp", "g"), "g_rp": ("g", "rp")}
    table |= {name: (mags[blue] - mags[red]).astype("f4") for name, (blue, red) in pairs.items()}
    return table | {"phot_bp_rp_excess_factor": rng.normal(1.2, 0.02, count).astype("f4")}


def _parameters(columns: Columns, rng: np.random.Generator) -> Columns:
    """Radial velocities of bright stars, stellar parameters; missing values are NaN."""
    count = len(columns["ra"])
    bright = columns["mag"] < 17
    velocity = columns["redshift"] * 299_792.458
    table: Columns = {
        "radial_velocity": np.where(bright, velocity, np.nan),
        "radial_velocity_error": np.where(bright, 1.5, np.nan),
        "rv_template_teff": np.where(bright, columns["teff"].round(-2), np.nan),
        "rv_template_logg": np.where(bright, 4.5, np.nan),
        "rv_template_fe_h": np.where(bright, -0.25, np.nan),
        "grvs_mag": np.where(bright, columns["mag"] - 0.4, np.nan),
    }
    for name, typical in GSPPHOT.items():
        value = columns["teff"] if name == "teff" else typical * rng.lognormal(0, 0.1, count)
        spread = np.abs(value) * 0.03
        table |= {f"{name}_gspphot": value, f"{name}_gspphot_lower": value - spread, f"{name}_gspphot_upper": value + spread}
    return {name: values.astype("f4") for name, values in table.items()}


def _spectra(columns: Columns, rng: np.random.Generator) -> dict[str, Values]:
    """Coefficients in the basis of the instrument: the first ones carry the light, the rest is noise."""
    count = len(columns["ra"])
    order = np.tile(np.arange(COEFFICIENTS), 2)
    light = 10 ** (-0.4 * (columns["mag"] - 20.0))[:, None]
    error = np.sqrt(light) * 0.8 * (1 + 0.02 * order)
    tilt = np.repeat(np.array([[-1.0, 1.0]]), COEFFICIENTS, axis=1) * ((columns["teff"] - 5500) / 5000)[:, None]
    coefficients = 90 * light * np.exp(-order / 2.5) * np.cos(order * (1 + 0.3 * tilt)) + error * rng.standard_normal(
        (count, 110)
    )
    return {"coeff": coefficients.astype("f4"), "coeff_error": error.astype("f4")}

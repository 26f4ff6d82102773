"""Supernova hosts to type Ia light curves in g, r, i, z: rise, decline, second maximum in the red, seasons, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.cosmology import Planck18

from mmu_pipeline.simulate.sky import Row
from mmu_pipeline.sky import Float

BANDS = ("g", "r", "i", "z")
ZERO_POINT = 27.5
"""Magnitude of FLUXCAL = 1 in SNANA files."""
PEAK_ABSOLUTE = {"g": -19.25, "r": -19.2, "i": -18.75, "z": -18.6}
DECLINE_DAYS = {"g": 17.0, "r": 24.0, "i": 28.0, "z": 32.0}
BUMP = {"g": 0.0, "r": 0.12, "i": 0.32, "z": 0.38}
SKY_NOISE = {"g": 2.2, "r": 2.6, "i": 3.0, "z": 4.5}


@dataclass(frozen=True)
class LightCurve:
    """Epochs of one band: mjd (days, float64), flux and error (FLUXCAL, zero point 27.5), in time order."""

    mjd: Float
    flux: Float
    error: Float


def light_curve(row: Row, rng: np.random.Generator) -> dict[str, LightCurve]:
    """The light curve of one supernova by band, given the `sky_objects` columns of its host as scalars."""
    redshift, peak = float(row["redshift"]), float(row["sn_peak_mjd"])
    modulus = float(Planck18.distmod(redshift).value)
    stretch = rng.normal(1.0, 0.08)
    curves = {}
    for band in BANDS:
        nights = np.arange(peak - 22 * (1 + redshift), peak + 75 * (1 + redshift), 6.0)
        nights = nights[rng.uniform(0, 1, len(nights)) < 0.62] + rng.uniform(-1.2, 1.2)
        mjd = np.round(np.sort(nights if len(nights) else np.array([peak])), 1)
        brightest = 10 ** (-0.4 * (PEAK_ABSOLUTE[band] + modulus - ZERO_POINT))
        flux = brightest * _shape(band, (mjd - peak) / (1 + redshift) / stretch)
        error = np.asarray(np.hypot(SKY_NOISE[band] * rng.lognormal(0, 0.3, len(mjd)), 0.025 * flux).round(3), float)
        curves[band] = LightCurve(mjd, np.round(flux + error * rng.standard_normal(len(mjd)), 3), error)
    return curves


def _shape(band: str, phase: Float) -> Float:
    """Brightness relative to the peak at rest-frame days from it."""
    main = np.exp(-(phase + 1) / DECLINE_DAYS[band]) / (1 + np.exp(-(phase + 9) / 2.6))
    tail = 0.06 * np.exp(-phase.clip(0) / 60) * (phase > 0)
    return np.asarray(main / 0.92 + BUMP[band] * np.exp(-0.5 * ((phase - 25) / 8) ** 2) + tail)

"""Objects to optical spectra: continuum, 4000 Angstrom break, absorption and emission lines at the redshift, noise, sky lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.simulate.sky import Row
from mmu_pipeline.sky import Float

GRIDS = ((3.5797, 3849), (3.5557, 4620))
"""log10 of the first wavelength in Angstrom and number of pixels: an SDSS and a BOSS plate, 1e-4 dex per pixel."""
EMISSION = {3728.5: 1.0, 4341.7: 0.35, 4862.7: 0.75, 4960.3: 0.3, 5008.2: 0.9, 6549.9: 0.32, 6564.6: 2.3, 6585.3: 0.95}
"""Vacuum wavelength of a line -> strength relative to [O II]; with [S II] below."""
SULPHUR = {6718.3: 0.42, 6732.7: 0.33}
METALS = {3934.8: 0.45, 3969.6: 0.42, 4305.6: 0.2, 5176.6: 0.22, 5271.0: 0.1, 5335.0: 0.08, 5895.6: 0.16}
BALMER = {3971.2: 0.5, 4102.9: 0.55, 4341.7: 0.6, 4862.7: 0.6, 6564.6: 0.5}
SKY_LINES = (5578.9, 5891.6, 6302.0, 6865.0, 7278.0, 7342.0, 7796.0, 7916.0, 8346.0, 8401.0, 8829.0, 8888.0, 9378.0, 9442.0)


@dataclass(frozen=True)
class Spectrum:
    """One object: flux (1e-17 erg/s/cm2/Angstrom), inverse variance, wavelength (Angstrom, vacuum), LSF sigma (pixels), all
    float32 of one length; `bad` bool, True = do not use, as SDSS has it."""

    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    wavelength: npt.NDArray[np.float32]
    lsf_sigma: npt.NDArray[np.float32]
    bad: npt.NDArray[np.bool_]


def spectrum(row: Row, rng: np.random.Generator) -> Spectrum:
    """The spectrum of one object, given its `sky_objects` columns as scalars."""
    start, length = GRIDS[int(rng.integers(len(GRIDS)))]
    wavelength = 10 ** (start + 1e-4 * np.arange(length))
    rest = wavelength / (1 + row["redshift"])
    shape = _stellar(rest, row["teff"]) if row["kind"] == "star" else _galaxy(rest, row["colour"])
    at_i = np.abs(wavelength - 7480) < 600
    flux = shape / shape[at_i].mean() * _flux_density(float(row["mag"]), 7480.0)
    sigma = 0.035 * flux[at_i].mean() * (1 + 2.5 * np.exp(-(wavelength - 3600) / 250)) + 0.012 * flux + 0.25
    for line in SKY_LINES:
        sigma *= 1 + 4 * np.exp(-0.5 * ((wavelength - line) / 4.0) ** 2)
    bad = (np.abs(wavelength - 5578.9) < 6) | (rng.uniform(0, 1, length) < 0.002)
    bad[:3] = True
    noisy = flux + sigma * rng.standard_normal(length)
    noisy[bad] += 6 * sigma[bad] * rng.standard_normal(int(bad.sum()))
    lsf = 1.15 - 0.25 * np.linspace(-1, 1, length) ** 2
    single = [values.astype(np.float32) for values in (noisy, np.where(bad, 0, sigma**-2.0), wavelength, lsf)]
    return Spectrum(single[0], single[1], single[2], single[3], bad)


def light(row: Row, wavelength: npt.NDArray[Any]) -> Float:
    """Flux density in 1e-17 erg/s/cm2/Angstrom without noise, at wavelengths in Angstrom, of an object at its magnitude in i."""

    def shape(observed: npt.NDArray[Any]) -> Float:
        rest = observed / (1 + row["redshift"])
        return _stellar(rest, row["teff"]) if row["kind"] == "star" else _galaxy(rest, row["colour"])

    return np.asarray(shape(wavelength) / shape(np.arange(6880.0, 8081.0)).mean() * _flux_density(float(row["mag"]), 7480.0))


def _flux_density(mag: float, wavelength: float) -> float:
    """AB magnitude to 1e-17 erg/s/cm2/Angstrom at a wavelength in Angstrom (Oke and Gunn 1983: zero point 48.6)."""
    return float(10 ** (-0.4 * (mag + 48.6)) * 2.99792458e18 / wavelength**2 / 1e-17)


def _planck(wavelength: Float, temperature: float) -> Float:
    """Blackbody in wavelength, 1 at 5500 Angstrom; hc/k = 1.4388e8 Angstrom K."""
    light = wavelength**-5.0 / np.expm1(1.4388e8 / wavelength / temperature)
    return np.asarray(light / (5500.0**-5 / np.expm1(1.4388e8 / 5500.0 / temperature)))


def _lines(wavelength: Float, lines: dict[float, float], width: float) -> Float:
    """Sum of Gaussians of given height and sigma (Angstrom)."""
    return np.asarray(np.sum([height * np.exp(-0.5 * ((wavelength - at) / width) ** 2) for at, height in lines.items()], axis=0))


def _galaxy(rest: Float, colour: float) -> Float:
    """Old and young stars mixed by colour, with nebular lines in proportion to the young."""
    young = float(np.clip((1.75 - colour) / 1.2, 0.02, 1.0))
    break_4000 = 1 - 0.45 / (1 + np.exp((rest - 3990) / 25))
    old = _planck(rest, 4600) * break_4000 * (1 - _lines(rest, METALS, 11.0))
    new = _planck(rest, 9500) * (1 - 0.25 * _lines(rest, BALMER, 9.0)) * (1 - 0.25 / (1 + np.exp((rest - 3800) / 40)))
    return np.asarray((1 - young) * old + young * (0.8 * new + 0.9 * _lines(rest, EMISSION | SULPHUR, 3.2)))


def _stellar(rest: Float, teff: float) -> Float:
    """Blackbody with Balmer lines where hot, metal lines and molecular bands where cool."""
    hot, cool = float(np.clip((teff - 5200) / 3500, 0, 1)), float(np.clip((6500 - teff) / 2500, 0, 1))
    light = _planck(rest, teff) * (1 - hot * _lines(rest, BALMER, 12.0)) * (1 - cool * _lines(rest, METALS, 9.0))
    if teff < 4200:
        for head in (5448.0, 5847.0, 6159.0, 6651.0, 7053.0, 7589.0, 8432.0):
            light *= 1 - 0.35 * (rest > head) * np.exp(-(rest - head).clip(0) / 120)
    return np.asarray(light)

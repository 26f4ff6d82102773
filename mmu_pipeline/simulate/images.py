"""Objects to five-band stamps as HSC ships them: galaxies with bulge, disc and arms, stars, neighbours, noise, bad pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from mmu_pipeline.simulate.sky import Row
from mmu_pipeline.sky import Float

BANDS = ("g", "r", "i", "z", "y")
SIZE = 160
SCALE_ARCSEC = 0.168
ZERO_POINT = 27.0
"""AB magnitude of one count: HSC coadds are in counts, not nanomaggies."""
SEEING_ARCSEC = np.array([0.78, 0.72, 0.60, 0.68, 0.70])
SKY_NOISE = np.array([0.035, 0.04, 0.05, 0.07, 0.13])
"""Standard deviation of the background per pixel, in counts."""
GAIN = 150.0
"""Electrons per count of the coadd."""
REDDENING = np.array([1.0, 0.38, 0.0, -0.2, -0.3])
"""Magnitude of each band less that of i, for g - i = 1."""
CENTRE = 78.5
"""Pixel index of the object: HSC stamps of the MMU are shifted by one pixel in both axes."""
INFINITE_WEIGHT = np.float32(3.4028235e38)
"""What the published files hold where the variance is 0."""

Pixels = npt.NDArray[np.float32]
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(float)


@dataclass(frozen=True)
class Stamp:
    """One object: image and inverse variance float32, mask bool with True = good; all (5, 160, 160)."""

    image: Pixels
    ivar: Pixels
    mask: npt.NDArray[np.bool_]


def band_magnitudes(mag: Float, colour: Float) -> Float:
    """AB magnitudes (n, 5) in g, r, i, z, y of objects with magnitude i and colour g - i, both (n,)."""
    magnitudes: Float = mag[:, None] + colour[:, None] * REDDENING
    return magnitudes


def stamp(row: Row, rng: np.random.Generator) -> Stamp:
    """The stamp of one object, given its `sky_objects` columns as scalars."""
    scene = _object(row) + _neighbours(rng)
    sky = SKY_NOISE[:, None, None]
    variance = _rounded(sky**2 + scene.clip(0) / GAIN)
    step = 2.0 ** np.floor(np.log2(sky / 4))
    noisy = scene + np.sqrt(variance) * rng.standard_normal(scene.shape)
    image = (np.round(noisy / step) * step).astype(np.float32)
    ivar = (1 / variance).astype(np.float32)
    mask = np.ones(scene.shape, bool)
    _spoil(image, ivar, mask, rng)
    if row["kind"] == "star" and row["mag"] < 17.5:
        mask &= scene < 0.35 * scene.max(axis=(1, 2), keepdims=True)
    return Stamp(image, ivar, mask)


def _object(row: Row) -> Float:
    """Noiseless counts (5, 160, 160) of the object itself."""
    counts = 10 ** (-0.4 * (band_magnitudes(np.array([row["mag"]]), np.array([row["colour"]]))[0] - ZERO_POINT))[:, None, None]
    if row["kind"] == "star":
        return np.asarray(counts * np.stack([_star(CENTRE, CENTRE, seeing) for seeing in SEEING_ARCSEC]))
    radius, ratio, angle = row["radius_arcsec"] / SCALE_ARCSEC, row["axis_ratio"], np.radians(row["angle_deg"])
    if row["sersic"] > 2:
        return _seen(counts * _sersic(CENTRE, CENTRE, radius, row["sersic"], ratio, angle))
    bulge = _sersic(CENTRE, CENTRE, 0.25 * radius, 2.0, max(ratio, 0.7), angle)
    disc = _sersic(CENTRE, CENTRE, radius, 1.0, ratio, angle, arms=0.75)
    share = np.array([0.14, 0.2, 0.25, 0.28, 0.3])[:, None, None]
    return _seen(counts * (share * bulge + (1 - share) * disc))


def _neighbours(rng: np.random.Generator) -> Float:
    """Noiseless counts of faint galaxies that happen to lie in the stamp."""
    scene = np.zeros((len(BANDS), SIZE, SIZE))
    count = rng.poisson(7)
    mags = band_magnitudes(22.2 + 3 * np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0.1, 2.4, count))
    for counts in 10 ** (-0.4 * (mags - ZERO_POINT)):
        x, y = rng.uniform(0, SIZE, 2)
        blob = _sersic(x, y, rng.uniform(1.5, 4.0), 1.0, rng.uniform(0.4, 1.0), rng.uniform(0, np.pi))
        scene += counts[:, None, None] * blob
    return _seen(scene)


def _sersic(x: float, y: float, radius: float, index: float, ratio: float, angle: float, arms: float = 0.0) -> Float:
    """Sersic profile of unit total flux on the pixel grid; radius in pixels; `arms` is the contrast of two spiral arms."""
    east, north = X - x, Y - y
    along, across = east * np.cos(angle) + north * np.sin(angle), (north * np.cos(angle) - east * np.sin(angle)) / ratio
    r = np.sqrt(along**2 + across**2 + 0.25) / radius
    light = np.exp(-(2 * index - 1 / 3) * r ** (1 / index))
    if arms:
        phase = 2 * (np.arctan2(across, along) - 2.6 * np.log(r + 0.15))
        light *= 1 + arms * np.cos(phase) * np.tanh(r / 0.6)
    return np.asarray(light / light.sum())


def _star(x: float, y: float, seeing_arcsec: float) -> Float:
    """Moffat profile (beta = 3) of unit total flux."""
    width = seeing_arcsec / SCALE_ARCSEC / (2 * np.sqrt(2 ** (1 / 3) - 1))
    light = (1 + ((X - x) ** 2 + (Y - y) ** 2) / width**2) ** -3
    return np.asarray(light / light.sum())


def _seen(scene: Float) -> Float:
    """A scene (5, 160, 160) through the atmosphere: each band blurred by its seeing."""
    widths = SEEING_ARCSEC / SCALE_ARCSEC / 2.3548
    return np.stack([gaussian_filter(plane, width, mode="nearest") for plane, width in zip(scene, widths, strict=True)])


def _rounded(variance: Float) -> Float:
    """Variance to 4 %: the noise does not know better, and the files become half as large."""
    return np.asarray(np.exp2(np.round(np.log2(variance) * 16) / 16))


def _spoil(image: Pixels, ivar: Pixels, mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Put the faults of real coadds into some stamps: bad columns, an edge without data, pixels of variance 0."""
    band, chance = int(rng.integers(len(BANDS))), rng.uniform()
    if chance < 0.25:
        column = int(rng.integers(20, SIZE - 20))
        image[band, :, column] += 5 * SKY_NOISE[band]
        mask[band, :, column] = False
    elif chance < 0.32:
        rows = int(rng.integers(4, 20))
        image[band, :rows], ivar[band, :rows], mask[band, :rows] = np.nan, 0.0, False
    elif chance < 0.45:
        at = tuple(rng.integers(0, SIZE, (2, 3)))
        ivar[band][at] = INFINITE_WEIGHT

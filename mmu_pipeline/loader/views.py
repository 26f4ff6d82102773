"""A batch of raw values -> the arrays that a known trainer takes: pure functions, to be given to a loader as `transform`.

Each takes a batch of arrays with ragged members padded, as `ShardDataset.batch` makes it, and the names of what it needs
from it; the defaults are the shipped surveys. `functools.partial` sets others. None of them changes the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.errors import BadInput
from mmu_pipeline.fields import Array
from mmu_pipeline.sky import Float

Float32 = npt.NDArray[np.float32]

ASTROCLIP_PIXELS = 152
DESI_PIXELS = 7781
"""Points of the wavelength grid of DESI, 3600 to 9824 Angstrom by 0.8."""
AION_PIXELS = 96
AION_PAD_WAVELENGTH = 99_999.0
ASTROM3_GRID = np.arange(3850.0, 9000.0, 2.0)
"""Angstrom."""
DAYS_PER_YEAR = 365.0


def crop(image: Array, size: int) -> Array:
    """The middle of images (..., height, width). Raises BadInput if they are smaller."""
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise BadInput(f"images of {height} x {width} pixels cannot be cut to {size}", hint="choose a survey with larger stamps")
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


def astroclip(
    batch: Mapping[str, Any],
    image: str = "legacysurvey.image",
    bands: Sequence[str] = ("g", "r", "i", "z"),
    spectrum: str = "desi.flux",
    redshift: str = "desi_z",
    targetid: str = "desi_object_id",
) -> dict[str, Array]:
    """What AstroCLIP reads of its data set, before its own ToRGB and CenterCrop.

    `image` (n, 152, 152, 3) float32, flux in g, r, z; `spectrum` (n, 7781, 1) float32; `redshift` (n,) float32; `targetid`
    (n,) int64, -1 where there is none. `bands` are those of the planes of the image. A spectrum that is not there is 0.
    """
    planes = [list(bands).index(band) for band in ("g", "r", "z")]
    flux = np.zeros((len(batch[spectrum]), DESI_PIXELS), np.float32)
    found = batch[spectrum]
    if found.shape[1] > DESI_PIXELS:
        raise BadInput("spectra are longer than those of DESI", member=spectrum, pixels=found.shape[1])
    flux[:, : found.shape[1]] = found
    return {
        "image": np.ascontiguousarray(np.moveaxis(crop(batch[image][:, planes], ASTROCLIP_PIXELS), 1, -1), np.float32),
        "spectrum": flux[..., None],
        "redshift": np.asarray(batch[redshift], np.float32),
        "targetid": np.array([-1 if name is None else int(name) for name in batch[targetid]], np.int64),
    }


def aion_image(batch: Mapping[str, Any], image: str = "hsc.image", bands: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of AION's images: `flux` (n, bands, 96, 96) float32 and `bands` by AION's names.

    Values stay as the survey has them: AION's codec clamps them and takes HSC's zero point to that of the Legacy Surveys.
    """
    names = list(bands) or ["HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y"]
    if batch[image].shape[1] != len(names):
        raise BadInput("not as many band names as planes", member=image, planes=batch[image].shape[1], bands=names)
    return {"flux": np.ascontiguousarray(crop(batch[image], AION_PIXELS), np.float32), "bands": names}


def aion_spectrum(batch: Mapping[str, Any], survey: str = "sdss") -> dict[str, Array]:
    """Arguments of AION's spectra: `flux`, `ivar`, `wavelength` float32 and `mask` bool, all (n, longest).

    AION's mask is True where a pixel is bad: the opposite of ours. Beyond the end of a spectrum the mask is True, the
    inverse variance 0 and the wavelength 99999.
    """
    there = batch[f"{survey}.wavelength.mask"]
    return {
        "flux": np.where(there, batch[f"{survey}.flux"], 0).astype(np.float32),
        "ivar": np.where(there, batch[f"{survey}.ivar"], 0).astype(np.float32),
        "mask": ~(there & batch[f"{survey}.mask"]),
        "wavelength": np.where(there, batch[f"{survey}.wavelength"], AION_PAD_WAVELENGTH).astype(np.float32),
    }


def aion(
    batch: Mapping[str, Any],
    image: str = "hsc.image",
    bands: Sequence[str] = (),
    spectrum: str = "sdss",
    scalars: Sequence[str] = (),
) -> dict[str, Any]:
    """AION's modalities of a batch: `image` and `spectrum` as above, and scalars as (n, 1) float32 under their own names."""
    values = {name: np.asarray(batch[name], np.float32)[:, None] for name in scalars}
    return {"image": aion_image(batch, image, bands), "spectrum": aion_spectrum(batch, spectrum), **values}


def astrom3_photometry(
    time: Float, flux: Float, error: Float, features: Float, length: int = 200, rng: np.random.Generator | None = None
) -> tuple[Float32, Float32]:
    """One light curve as AstroM3 takes it: (length, 3 + features + 2) float32, and its mask (length,) float32.

    Columns: time from 0 to 1, flux less its mean over its median absolute deviation (MAD), error over MAD, the features,
    log10 MAD, the span in years. Longer curves are cut in the middle, or where `rng` says; shorter ones filled with 0.
    A curve without spread is divided by 1.
    """
    rows = np.unique(np.stack([time, flux, error], axis=1).astype(np.float64), axis=0)
    curve, mask = np.zeros((length, 3)), np.zeros(length, np.float32)
    mad, span = 1.0, 0.0
    if len(rows):
        mad, span = _mad(rows[:, 1]), float(np.ptp(rows[:, 0]))
        scaled = np.stack(
            [(rows[:, 0] - rows[0, 0]) / (span or 1.0), (rows[:, 1] - rows[:, 1].mean()) / mad, rows[:, 2] / mad], axis=1
        )
        spare = max(len(scaled) - length, 0)
        begin = int(rng.integers(0, spare)) if rng is not None and spare else spare // 2
        kept = scaled[begin : begin + length]
        curve[: len(kept)], mask[: len(kept)] = kept, 1.0
    constant = np.concatenate([np.asarray(features, np.float64), [np.log10(mad), span / DAYS_PER_YEAR]])
    return np.concatenate([curve, np.tile(constant, (length, 1))], axis=1).astype(np.float32), mask


def astrom3_spectrum(wavelength: Float, flux: Float, third: Float) -> Float32:
    """One spectrum as AstroM3 takes it: (3, 2575) float32 on 3850 to 9000 Angstrom by 2: flux, a third column, log10 MAD.

    AstroM3's own data hold the inverse variance as the third column and divide it by MAD as if it were an error; give
    what the model is to see. A spectrum that is not there is 0.
    """
    if not len(wavelength):
        return np.zeros((3, len(ASTROM3_GRID)), np.float32)
    values, others = (np.interp(ASTROM3_GRID, wavelength, column) for column in (flux, third))
    mad = _mad(values[values != 0])
    return np.stack([(values - values.mean()) / mad, others / mad, np.full(len(values), np.log10(mad))]).astype(np.float32)


def astrom3(
    batch: Mapping[str, Any],
    light_curve: tuple[str, str, str],
    spectrum: tuple[str, str, str],
    features: Sequence[str],
    metadata: Sequence[str],
    label: str,
    classes: Sequence[str],
    length: int = 200,
    rng: np.random.Generator | None = None,
) -> tuple[Float32, Float32, Float32, Float32, npt.NDArray[np.int64]]:
    """The five arrays that AstroM3 trains on: light curves (n, length, 9), their masks (n, length), spectra (n, 3, 2575),
    metadata (n, columns), and labels (n,), numbers in the sorted classes.

    `light_curve` names time, flux and error, `spectrum` wavelength, flux and the third column: padded members of the batch.
    `metadata` is taken as it is: AstroM3 scales it by its training set.
    """
    numbers = {name: number for number, name in enumerate(sorted(classes))}
    if unknown := sorted({str(name) for name in batch[label] if name not in numbers}):
        raise BadInput(f"the label {unknown[0]!r} is not among the classes", column=label, hint=f"classes: {sorted(numbers)}")
    aux = np.stack([np.asarray(batch[name], np.float64) for name in features], axis=1)
    curves, spectra = [], []
    for row in range(len(aux)):
        time, flux, error = (batch[name][row][batch[f"{name}.mask"][row]] for name in light_curve)
        curves.append(astrom3_photometry(time, flux, error, aux[row], length, rng))
        wavelength, values, third = (batch[name][row][batch[f"{name}.mask"][row]] for name in spectrum)
        spectra.append(astrom3_spectrum(wavelength, values, third))
    return (
        np.stack([curve for curve, _ in curves]),
        np.stack([mask for _, mask in curves]),
        np.stack(spectra),
        np.stack([np.asarray(batch[name], np.float32) for name in metadata], axis=1),
        np.array([numbers[name] for name in batch[label]], np.int64),
    )


def zoobot(batch: Mapping[str, Any], image: str = "gz10.image", votes: Sequence[str] = ()) -> dict[str, Any]:
    """What zoobot trains on: `id_str`, `image` (n, 3, height, width) float32 from 0 to 1, and each vote count (n,) float32,
    0 where it is missing."""
    if batch[image].dtype != np.uint8:
        raise BadInput("zoobot takes pictures of 8 bits a colour", member=image, dtype=str(batch[image].dtype))
    counts = {name: np.nan_to_num(np.asarray(batch[name], np.float32)) for name in votes}
    return {"id_str": list(batch["key"]), "image": batch[image].astype(np.float32) / 255.0, **counts}


def _mad(values: Array) -> float:
    """Median absolute deviation, 1 where there is none."""
    numbers = np.asarray(values, np.float64)
    spread = float(np.median(np.abs(numbers - np.median(numbers)))) if len(numbers) else 0.0
    return spread or 1.0

"""One sample to pictures of its parts: an image in colour, a spectrum with its errors, a light curve by band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.stats import mad_std
from astropy.visualization import make_lupton_rgb
from matplotlib.axes import Axes

from mmu_pipeline.fields import PICTURE, Array
from mmu_pipeline.report.ink import SURVEY_COLOURS, band_colour
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.sky import Float

LINES = {
    "[O II]": 3728.5, "Ca K": 3934.8, "Hβ": 4862.7, "[O III]": 5008.2, "Mg": 5176.6, "Na": 5895.6, "Hα": 6564.6, "[S II]": 6725.5,
}  # fmt: skip
"""Lines marked at the redshift of a galaxy; vacuum wavelengths in Angstrom."""
SPECTRUM_BINS = 900
RGB_WEIGHTS = (0.85, 1.0, 1.3)
"""Of the red, green and blue plane: turns the colours of stars from yellow to white."""
FILLED = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Part:
    """What a sample holds of one survey that has its object."""

    survey: Mapping[str, Any]
    """The survey's entry in the manifest."""
    arrays: Mapping[str, Array]
    """Field name -> array."""
    members: Mapping[str, Mapping[str, Any]]
    """Field name -> its entry in the manifest: dtype, shape, unit, bands, zero_point, mask, ivar where it has them."""
    record: Mapping[str, Any]
    """The sample's JSON keys of this survey, without the prefix."""


def parts_of(sample: Sample, manifest: Mapping[str, Any]) -> list[Part]:
    """The parts of a sample, primary first; counterparts that are absent are left out."""
    parts = []
    for survey in manifest["surveys"]:
        name = survey["name"]
        if sample.record.get(f"has_{name}", True):
            members = {member["field"]: member for member in manifest["members"] if member["survey"] == name}
            arrays = {field: sample.arrays[f"{name}.{field}"] for field in members}
            scalars = [scalar["name"] for scalar in manifest["scalars"] if scalar["name"].startswith(f"{name}_")]
            parts.append(Part(survey, arrays, members, {key.removeprefix(f"{name}_"): sample.record[key] for key in scalars}))
    return parts


def image_field(part: Part) -> str | None:
    """The field of a part that is an image in several bands, None if there is none."""
    companions = {member.get(kind) for member in part.members.values() for kind in ("ivar", "mask")}
    for name, array in part.arrays.items():
        if array.ndim == 3 and len(part.members[name].get("bands", ())) == len(array) and name not in companions:
            return name
    return None


def picture_field(part: Part) -> str | None:
    """The field of a part that is a picture as its survey ships it, None if there is none."""
    return PICTURE if PICTURE in part.arrays else None


def is_spectrum(part: Part) -> bool:
    return {"wavelength", "flux"} <= part.arrays.keys() and part.arrays["flux"].size > 0


def is_light_curve(part: Part) -> bool:
    return {"time", "band"} <= part.arrays.keys() and any(part.arrays[name].size for name in {"flux", "mag"} & part.arrays.keys())


def plain_arrays(part: Part) -> list[str]:
    """One-dimensional arrays of a part that is neither image, spectrum nor light curve."""
    if image_field(part) or is_spectrum(part) or is_light_curve(part):
        return []
    return [name for name, array in part.arrays.items() if array.ndim == 1 and array.dtype.kind == "f" and array.size]


def colour_image(part: Part, field: str) -> npt.NDArray[np.uint8]:
    """Colour composite (height, width, 3) after Lupton et al. 2004, PASP 116, 133; row 0 at the bottom.

    Red, green and blue are i, r, g where the image has them, else three of its bands from long to short wavelength.
    """
    bands = part.members[field]["bands"]
    wanted = [band for band in ("i", "r", "g") if band in bands]
    if len(wanted) < 3:
        wanted = [bands[at] for at in np.linspace(len(bands) - 1, 0, 3).round().astype(int)]
    planes = np.asarray(part.arrays[field], float)
    red, green, blue = (
        np.nan_to_num(planes[bands.index(band)]) * weight for band, weight in zip(wanted, RGB_WEIGHTS, strict=True)
    )
    noise = max(float(mad_std(green)), 1e-12)
    rgb = make_lupton_rgb(red, green, blue, minimum=-1.0 * noise, stretch=12 * noise, Q=9)
    return np.asarray(rgb, np.uint8)


def draw_spectrum(axes: Axes, part: Part, bins: int = SPECTRUM_BINS) -> None:
    """Flux against wavelength with its one-sigma band, pixels without weight left out, lines marked at the redshift."""
    wavelength, flux, sigma = _binned(part, bins)
    colour = SURVEY_COLOURS[1]
    axes.fill_between(wavelength, flux - sigma, flux + sigma, color=colour, alpha=0.25, linewidth=0)
    axes.plot(wavelength, flux, color=colour, linewidth=0.7)
    low, high = np.nanpercentile(flux, [0.5, 99.7]) if np.isfinite(flux).any() else (0.0, 1.0)
    axes.set_ylim(min(0.0, low) - 0.05 * (high - low), high + 0.28 * (high - low))
    axes.set_xlim(wavelength[0], wavelength[-1])
    axes.set_xlabel("wavelength (Å)")
    axes.set_ylabel(_flux_label(part.members["flux"]), fontsize=7.5)
    redshift = part.record.get("z") or part.record.get("redshift") or 0.0
    for name, rest in LINES.items() if redshift > 0.003 else ():
        at = rest * (1 + redshift)
        if wavelength[0] < at < wavelength[-1]:
            axes.axvline(at, color="#8a94a0", linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
            axes.annotate(name, (at, 0.99), xycoords=("data", "axes fraction"), rotation=90, fontsize=6.5, ha="right", va="top")


def _binned(part: Part, bins: int) -> tuple[Float, Float, Float]:
    """Wavelength, flux and its error, averaged by weight into at most `bins` bins; NaN where nothing is known."""
    wavelength, flux = (np.asarray(part.arrays[name], np.float64) for name in ("wavelength", "flux"))
    ivar, mask = (part.arrays.get(part.members["flux"].get(kind, "")) for kind in ("ivar", "mask"))
    weight = np.ones_like(flux) if ivar is None else np.asarray(ivar, np.float64)
    if mask is not None:
        weight = weight * np.asarray(mask, np.float64)
    step = max(1, -(-len(flux) // bins))
    edges = np.arange(0, len(flux), step)
    total = np.add.reduceat(weight, edges)
    good = total > 0
    mean = np.full(len(edges), np.nan)
    mean[good] = np.add.reduceat(weight * np.nan_to_num(flux), edges)[good] / total[good]
    error = np.full(len(edges), np.nan)
    if ivar is not None:
        error[good] = total[good] ** -0.5 * np.sqrt(step)
    centre = np.add.reduceat(wavelength, edges) / np.diff([*edges, len(flux)])
    return centre, mean, np.nan_to_num(error)


def _flux_label(member: Mapping[str, Any]) -> str:
    unit = member.get("unit", "")
    if "Angstrom" in unit and "1e-17" in unit:
        return "flux (10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹)"
    return f"{member['field']} ({unit})" if unit else str(member["field"])


def draw_light_curve(axes: Axes, part: Part) -> None:
    """Flux (or magnitude, upwards brighter) against time by band, with errors."""
    quantity = "flux" if part.arrays.get("flux", np.zeros(0)).size else "mag"
    time, code, value = (np.asarray(part.arrays[name]) for name in ("time", "band", quantity))
    error = part.arrays.get(f"{quantity}_err")
    names = part.members["band"]["bands"]
    for number, at in enumerate(np.unique(code)):
        band, here = names[int(at)], code == at
        spread = None if error is None else np.asarray(error)[here]
        axes.errorbar(
            time[here], value[here], spread, fmt=FILLED[number % len(FILLED)], markersize=3, linewidth=0.7, alpha=0.9,
            color=band_colour(band, number), label=band,
        )  # fmt: skip
    axes.axhline(0, color="#8a94a0", linewidth=0.5, zorder=0) if quantity == "flux" else axes.invert_yaxis()
    zero_point = part.members[quantity].get("zero_point")
    axes.set_xlabel("time (MJD)")
    axes.set_ylabel(f"{quantity} (zero point {zero_point:g})" if zero_point else quantity)
    axes.legend(ncols=max(1, min(8, len(np.unique(code)))), loc="upper right", handletextpad=0.1, columnspacing=0.9)


def draw_plain(axes: Axes, part: Part) -> None:
    """Arrays that have no picture of their own, element by element; one that has its error beside it with error bars."""
    name = plain_arrays(part)[0]
    values, errors = part.arrays[name], part.arrays.get(f"{name}_error")
    axes.errorbar(np.arange(values.size), values, errors, fmt=".", markersize=2.5, linewidth=0.6, color=SURVEY_COLOURS[2])
    axes.set_xlabel("element")
    axes.set_ylabel(name)

"""Arrays as declared -> the narrower numbers that a recipe asks for, what that loses, and back.

`float16`: rounded; what is beyond its range becomes its largest number and is counted. `int16`: each array is divided by a
scale of its own, its largest absolute value over 32767, which becomes a scalar of the sample; 0 stays 0, -32768 stands for NaN.
Only float32 members with an inverse variance of their own, and images, are narrowed: never an inverse variance, a wavelength,
a time, a magnitude, an id, a mask or a float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from mmu_pipeline.catalog import Survey
from mmu_pipeline.fields import Array, Field

Profile = Literal["float32", "float16", "int16"]
LARGEST_INT = 32767
NOT_A_NUMBER = -32768
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Loss:
    """What narrowing did to the values of one member."""

    values: int = 0
    """Finite values that were narrowed."""
    clipped: int = 0
    """Values beyond the range of the narrower type, infinite ones included."""
    max_error: float = 0.0
    """Largest absolute difference, clipped values left out."""
    squared_error: float = 0.0
    """Sum of squared differences, clipped values left out."""
    squared: float = 0.0
    """Sum of squares of the values, clipped ones left out."""

    def plus(self, other: Loss) -> Loss:
        """Of both together."""
        return Loss(
            self.values + other.values,
            self.clipped + other.clipped,
            max(self.max_error, other.max_error),
            self.squared_error + other.squared_error,
            self.squared + other.squared,
        )

    @property
    def report(self) -> dict[str, float]:
        """For the manifest: errors in the member's unit, and relative to the root mean square of its values."""
        count = max(self.values - self.clipped, 1)
        rms, error = (self.squared / count) ** 0.5, (self.squared_error / count) ** 0.5
        return {
            "values": self.values,
            "clipped": self.clipped,
            "max_error": self.max_error,
            "rms_error": error,
            "rms_error_relative": error / rms if rms else 0.0,
        }


def stored_dtype(survey: Survey, field: Field, profile: Profile) -> str:
    """The dtype of a member in the shards."""
    return profile if profile != "float32" and is_noisy(survey, field) else str(field.dtype)


def is_noisy(survey: Survey, field: Field) -> bool:
    """Whether a member holds measured float32 values that stand a rounding: one with an inverse variance, or an image."""
    companions = {other.ivar for other in survey.fields}
    return field.dtype == "float32" and field.name not in companions and (field.ivar is not None or len(field.shape) >= 3)


def scale_name(survey: str, field: str) -> str:
    """The scalar that holds the scale of an int16 member."""
    return f"{survey}_{field}_scale"


def narrowed(array: Array, dtype: str) -> tuple[Array, float, Loss]:
    """An array of float32 as float16 or int16, its scale (1 for float16), and what was lost.

    A value is `stored * scale`, computed in float32.
    """
    values = cast(npt.NDArray[np.float32], array)
    finite = np.isfinite(values)
    size = np.where(finite, np.abs(values), 0.0)
    if dtype == "float16":
        scale, clipped = 1.0, np.isinf(values) | (size > LARGEST_HALF)
        stored: Array = np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype("<f2")
    else:
        scale, clipped = _scale(float(size.max(initial=0.0))), np.isinf(values)
        steps = np.rint(np.where(finite, values, 0.0) / np.float64(scale))
        stored = np.where(finite, np.clip(steps, -LARGEST_INT, LARGEST_INT), NOT_A_NUMBER).astype("<i2")
    counted = finite & ~clipped
    kept = values[counted].astype(np.float64)
    error = widened(stored, scale)[counted] - kept
    largest = float(np.abs(error).max(initial=0.0))
    lost = Loss(int(finite.sum()), int(clipped.sum()), largest, float(error @ error), float(kept @ kept))
    return stored, scale, lost


def _scale(largest: float) -> float:
    """The step of int16, a float32 rounded down: so the largest step stays within the range of float32. 1 for zeros.

    It is never below the smallest normal float32, under which steps lose their precision.
    """
    scale = np.float32(largest / LARGEST_INT)
    step = float(np.nextafter(scale, np.float32(0)) if float(scale) * LARGEST_INT > largest else scale)
    return max(step, float(np.finfo(np.float32).tiny)) if largest else 1.0


def widened(stored: Array, scale: float, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """The float32 values that stored numbers stand for; into `out` if it is given."""
    values: npt.NDArray[np.float32] = np.empty(stored.shape, np.float32) if out is None else out
    values[...] = stored
    if stored.dtype == np.int16:
        values *= np.float32(scale)
        values[stored == NOT_A_NUMBER] = np.nan
    return values


def widened_sample(
    arrays: Mapping[str, Array], record: Mapping[str, Any], members: Iterable[Mapping[str, Any]]
) -> dict[str, Array]:
    """The arrays of a sample as they were before, by the members of its manifest."""
    scales = {
        member["name"]: record[member["scale"]] if "scale" in member else 1.0 for member in members if "narrowed_from" in member
    }
    return {name: widened(array, scales[name]) if name in scales else array for name, array in arrays.items()}


def add_losses(found: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, Loss]:
    """Member -> what was lost in all units together, from the facts of their receipts."""
    total: dict[str, Loss] = {}
    for losses in found:
        for name, loss in losses.items():
            total[name] = total.get(name, Loss()).plus(Loss(**loss))
    return total

"""Values as a source holds them to values as declared: our types, nulls for sentinels, True = good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers.text import as_text, utf8

LARGEST_IVAR = 1e37
"""From here on an inverse variance is that of a variance of 0 (1/0 clipped to the largest float32, 3.4e38)."""
MARKERS = (-999.0, -9999.0, -99999.0, -999999.0, -1e20, 1e20, -1e30, 1e30)
"""Numbers that surveys write where they have no value, and that hardly occur otherwise."""


@contextmanager
def blaming(path: Path | RangedFile) -> Iterator[None]:
    """Add the file to every BrokenSource that does not name one."""
    try:
        yield
    except BrokenSource as error:
        raise BrokenSource(
            error.what, hint=error.hint, **{"file": path if isinstance(path, Path) else str(path), **error.where}
        ) from error


def columns(survey: Survey, form: str, sources: Mapping[str, Array], count: int) -> dict[str, pa.Array]:
    """Every column field as an Arrow array of `count` rows.

    `sources` has an array of shape (count, *field.shape) per field name, of numbers or text; null columns where it has none.
    Null: sentinels, NaN, infinity, empty text, and errors of what is null. Raises BrokenSource naming the column.
    """
    table = {
        field.name: column(field, form, sources[field.name]) if field.name in sources else pa.nulls(count, field.arrow_type)
        for field in survey.columns
    }
    for field in survey.columns:
        if field.error_of is not None:
            known = pc.is_valid(table[field.error_of])
            table[field.name] = pc.if_else(known, table[field.name], pa.scalar(None, field.arrow_type))
    return table


def column(field: Field, form: str, values: Array) -> pa.Array:
    """One column field of shape (n, *field.shape) as an Arrow array. Raises BrokenSource naming the column."""
    if not field.shape and values.ndim > 1 and values.size == len(values):
        values = values.reshape(-1)
    if values.shape[1:] != field.shape:
        raise BrokenSource("not the declared shape", column=field.name, shape=values.shape[1:], declared=field.shape)
    if field.dtype == "string":
        try:
            texts = utf8(values) if values.dtype.kind == "S" else pa.array(as_text(values), pa.string())
        except UnicodeDecodeError as error:
            raise BrokenSource(f"not UTF-8 text: {error}", column=field.name) from error
        missing = pc.is_in(texts, pa.array(["", *(marker for marker in field.sentinels if isinstance(marker, str))]))
        return pc.if_else(missing, pa.scalar(None, pa.string()), texts) if pc.any(missing).as_py() else texts
    numbers = numbers_of(values, field.name, field.sentinels)
    missing = _missing(field, numbers)
    refuse_markers(field, numbers if missing is None else numbers[~missing])
    present = numbers if missing is None else np.where(missing, np.ones((), numbers.dtype), numbers)
    known = _cast(field, _converted(field, form, present))
    flat = pa.array(known.reshape(-1), mask=None if missing is None else missing.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, field.arrow_type.list_size) if field.shape else flat


def numbers_of(values: Array, column: str, sentinels: Sequence[float | str] = ()) -> Array:
    """Numbers as they are, text parsed; NaN where text is empty or a sentinel. Raises BrokenSource naming the column."""
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind not in "SUO":
        raise BrokenSource("neither numbers nor text", column=column, dtype=values.dtype)
    numbers = []
    for text in as_text(values):
        try:
            numbers.append(np.nan if text == "" or text in sentinels else number(text))
        except ValueError as error:
            raise BrokenSource("not a number", column=column, value=repr(text)) from error
    return np.array(numbers).reshape(values.shape)


def number(text: str) -> float:
    """A decimal number, or a hexadecimal integer. Raises ValueError."""
    return float(int(text, 16)) if text[:2].lower() == "0x" else float(text)


def refuse_markers(field: Field, numbers: Array) -> None:
    """Raise BrokenSource where a column of reals holds what surveys write for a missing value, and does not declare it.

    `numbers` are those that are not missing as declared. Errors are left out: they are null with what they belong to.
    """
    if field.numpy_dtype.kind != "f" or field.any_value or field.error_of is not None:
        return
    if not numbers.size or numbers.dtype.kind not in "iuf":
        return
    least, most = numbers.min(), numbers.max()
    markers = np.array(MARKERS, numbers.dtype if numbers.dtype.kind == "f" else np.float64)
    markers = markers[(markers >= least) & (markers <= most)]
    if markers.size and (found := numbers[np.isin(numbers, markers)]).size:
        hint = "add it to the field's sentinels if it means a missing value, or set any_value: true if it does not"
        raise BrokenSource("a value that looks like a marker", column=field.name, value=found.flat[0], hint=hint)


def _missing(field: Field, numbers: Array) -> npt.NDArray[np.bool_] | None:
    """Where there is a sentinel or no finite number; None where there is neither."""
    found = _sentinels(field, numbers)
    if numbers.dtype.kind == "f":
        finite = np.isfinite(numbers)
        if not finite.all():
            return ~finite if found is None else found | ~finite
    return found


def _sentinels(field: Field, numbers: Array) -> npt.NDArray[np.bool_] | None:
    """Where one of a field's numbers for a missing value stands; None where none does."""
    found = None
    for sentinel in field.sentinels:
        if not isinstance(sentinel, str) and (here := np.asarray(numbers == sentinel)).any():
            found = here if found is None else found | here
    return found


def _converted(field: Field, form: str, numbers: Array) -> Array:
    """Source values in the field's own terms: scale x source ** power + offset, in float64 where any is declared."""
    if form not in {*field.power, *field.scale, *field.offset}:
        return numbers
    with np.errstate(divide="ignore", over="ignore"):
        raised = numbers.astype(np.float64) ** field.power.get(form, 1.0)
    return np.asarray(field.scale.get(form, 1.0) * raised + field.offset.get(form, 0.0))


def _cast(field: Field, numbers: Array) -> Array:
    """Finite numbers in the declared dtype, native byte order. Raises BrokenSource where a value does not fit it."""
    target = field.numpy_dtype
    if target.kind == "b":
        if numbers.dtype.kind == "b":
            return numbers
        fits = np.isin(numbers, (0, 1))
    elif target.kind in "iu":
        wide: npt.NDArray[Any] = numbers
        limits = np.iinfo(field.dtype)
        fits = (wide >= limits.min) & (wide <= limits.max) & (np.trunc(wide) == wide)
    else:
        return numbers.astype(target, copy=False)
    if not fits.all():
        raise BrokenSource(f"a value is not a {field.dtype}", column=field.name, value=numbers[~fits].flat[0])
    return numbers.astype(target)


def member(field: Field, form: str, values: Array) -> Array:
    """One member field in its declared dtype; a float is NaN where a sentinel stands. Masks: True = good.

    An integer mask may hold quality bits, if it is declared to be true where bad. Raises BrokenSource naming the column.
    """
    if values.dtype.kind not in "biuf":
        raise BrokenSource("not numbers", column=field.name, dtype=values.dtype, declared=field.dtype)
    if field.true_means == "bad":
        if values.dtype.kind == "f" and (np.trunc(values) != values).any():
            raise BrokenSource("a mask of fractions is none", column=field.name, hint="leave it out of the recipe's members")
        return np.asarray(values == 0)
    numbers = _converted(field, form, values)
    if form in field.log_grid:
        numbers = on_log_grid(field, numbers, *field.log_grid[form])
    if form in field.pixel_shift:
        numbers = unshifted(numbers, field.pixel_shift[form])
    missing = _sentinels(field, values)
    if missing is not None and field.numpy_dtype.kind == "f":
        numbers = np.where(missing, np.nan, numbers)
    return _cast(field, numbers)


def on_log_grid(field: Field, values: Array, start: float, step: float) -> Array:
    """Wavelengths put back on the grid 10 ** (start + step x i) from which rounding took them; padding (<= 0) stays.

    Raises BrokenSource where one is more than a quarter of a pixel off.
    """
    wavelength: npt.NDArray[Any] = values.astype(np.float64)
    data = wavelength > 0
    pixel = (np.log10(wavelength, where=data, out=np.full(wavelength.shape, start)) - start) / step
    whole = np.rint(pixel)
    far = np.abs(pixel - whole) > 0.25
    if far.any():
        raise BrokenSource("a value is not on the declared grid", column=field.name, value=wavelength[far].flat[0])
    return np.where(data, 10 ** (start + step * whole), wavelength)


def unshifted(values: Array, pixels: float) -> Array:
    """Rows (n, length) of pieces that each rise by a constant step, moved back by some pixels of their own step."""
    result = values.astype(np.float64)
    for row in result:
        steps = np.diff(row)
        typical = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
        for piece in np.split(row, np.flatnonzero((steps <= 0) | (steps > 10 * typical)) + 1):
            if len(piece) > 1:
                piece -= pixels * (piece[-1] - piece[0]) / (len(piece) - 1)
    return result


def with_companions(survey: Survey, names: Set[str]) -> set[str]:
    """Names of the members that must be read so that those named can be reconciled."""
    groups = [{field.name, field.ivar, field.mask} for field in survey.members if names & {field.ivar, field.mask}]
    return {*names, *(name for group in groups for name in group if name is not None)}


def reconcile(survey: Survey, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Make values, inverse variances and masks agree; arrays of shape (n, *field.shape) in declared dtypes.

    A value that is not finite becomes 0; there, and where its inverse variance is not finite, negative or that of a
    variance of 0, the mask is False; so it is where the inverse variance is 0, unless one mask serves several bands. Wherever a
    mask is False the inverse variance is 0.
    """
    result: dict[str, npt.NDArray[Any]] = dict(arrays)
    for field in survey.members:
        if field.name not in arrays or (field.ivar is None and field.mask is None):
            continue
        values, ivar, mask = result[field.name], result.get(field.ivar or ""), result.get(field.mask or "")
        good = np.isfinite(values)
        if not good.all():
            result[field.name] = np.where(good, values, np.zeros((), values.dtype))
        if ivar is not None:
            good &= ivar > 0 if mask is not None and mask.shape == ivar.shape else ivar >= 0
            good &= ivar < LARGEST_IVAR
        if mask is not None:
            over = tuple(range(1, 1 + good.ndim - mask.ndim))
            result[field.mask or ""] = mask = np.asarray(mask & (good.all(axis=over) if over else good))
            good &= np.expand_dims(mask, over)
        if ivar is not None and not good.all():
            result[field.ivar or ""] = np.where(good, ivar, np.zeros((), ivar.dtype))
    return result

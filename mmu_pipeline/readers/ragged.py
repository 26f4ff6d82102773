"""Arrays whose length varies: padded blocks to one array per row, band names to codes, observations in the survey's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmu_pipeline.catalog import Form, Padding, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.normalise import as_text
from mmu_pipeline.sky import Bool


def known_bands(field: Field) -> dict[str, int]:
    """Band name, also as sources spell it -> index into `field.bands`."""
    known = {name: code for code, name in enumerate(field.bands)}
    return known | {alias: known[name] for alias, name in field.band_aliases.items()}


def band_codes(field: Field, names: Sequence[str]) -> Array:
    """Index of each band name into `field.bands`. Raises BrokenSource for a band that is not declared."""
    known = known_bands(field)
    distinct, back = np.unique(np.array(names, str), return_inverse=True)
    unknown = [name for name in distinct.tolist() if name not in known]
    if unknown:
        hint = f"declare it in the survey's file; known: {', '.join(known)}"
        raise BrokenSource("unknown band", column=field.name, value=repr(unknown[0]), hint=hint)
    return np.array([known[name] for name in distinct.tolist()], field.numpy_dtype)[back]


def sorted_observations(survey: Survey, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of one object, one value per observation, in the survey's `order_by`; equal ones keep their order."""
    if not survey.order_by:
        return dict(arrays)
    order = np.lexsort([arrays[name] for name in reversed(survey.order_by)])
    return {name: values[order] for name, values in arrays.items()}


def unpadded(survey: Survey, form: Form, sources: Mapping[str, Array], blocks: Mapping[str, Array]) -> dict[str, list[Array]]:
    """Ragged members of n rows, without their padding, flattened over bands, sorted: name -> n arrays.

    `sources` are members as read, shape (n, length, ...) or (n, bands, length, ...); `blocks` the same in declared dtypes.
    The bands of a light curve stand in the source once per band, (n, bands) or comma-joined (n,), or once per observation.
    Raises BrokenSource where shapes do not agree or a band is not declared.
    """
    fields = [field for field in survey.members if field.is_ragged and field.name in sources]
    frames = frames_of(fields, sources)
    keep = {dimension: np.ones(shape, bool) for dimension, shape in frames.items()}
    if form.padding and form.padding.field in sources:
        dimension = str(survey.field(form.padding.field).shape[0])
        keep[dimension] = ~is_padding(form.padding, sources[form.padding.field], len(frames[dimension]))
    padded = []
    for field in fields:
        dimension = str(field.shape[0])
        values = _band_names(field, sources[field.name], frames[dimension]) if field.is_band_code else blocks[field.name]
        padded.append((field, values, keep[dimension]))
    rows = []
    for at in range(len(padded[0][1]) if padded else 0):
        row = {field.name: values[at][kept[at]] for field, values, kept in padded}
        row |= {field.name: band_codes(field, row[field.name].tolist()) for field in fields if field.is_band_code}
        rows.append(sorted_observations(survey, row))
    return {field.name: [row[field.name] for row in rows] for field in fields}


def is_padding(padding: Padding, values: Array, ndim: int) -> Bool:
    """Which elements, along the first `ndim` axes of the padding's field, only fill an array."""
    found = np.zeros(values.shape, bool)
    for value in padding.values:
        found |= np.asarray(values != values) if np.isnan(value) else np.asarray(values == value)
    return np.asarray(found.all(axis=tuple(range(ndim, values.ndim))))


def frames_of(fields: Sequence[Field], sources: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Dimension that varies -> shape of its padded blocks up to and with it: (n, length) or (n, bands, length).

    Raises BrokenSource where ragged `fields` of one dimension do not have the same.
    """
    frames: dict[str, tuple[int, ...]] = {}
    for field in fields:
        if field.is_band_code or not field.is_ragged:
            continue
        shape = sources[field.name].shape
        frame = shape[: len(shape) - len(field.shape) + 1]
        if len(frame) not in (2, 3) or shape[len(frame) :] != field.shape[1:]:
            raise BrokenSource("not the declared shape", column=field.name, shape=shape[1:], declared=field.shape)
        expected = frames.setdefault(str(field.shape[0]), frame)
        if frame != expected:
            raise BrokenSource("not as long as the others", column=field.name, shape=shape[1:], expected=expected[1:])
    return frames


def _band_names(field: Field, source: Array, frame: tuple[int, ...]) -> Array:
    """Band name of every element of a block of shape `frame`."""
    texts = [text.split(",") for text in as_text(source)] if source.ndim == 1 else as_text(source)
    try:
        names = np.array(texts, str).reshape(len(source), -1)
        if len(frame) == 3:
            names = np.repeat(names[:, :, np.newaxis], frame[2], axis=2) if names.size == frame[0] * frame[1] else names
        return names.reshape(frame)
    except ValueError as error:
        what = "not one band per curve or observation"
        raise BrokenSource(what, column=field.name, shape=source.shape[1:], expected=frame[1:]) from error

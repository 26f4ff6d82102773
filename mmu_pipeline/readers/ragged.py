"""Arrays whose length varies: padded blocks to one array per row, band names to codes, observations in the survey's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmu_pipeline.catalog import Form, Padding, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.normalise import member, reconcile, with_companions
from mmu_pipeline.readers.pictures import encoded
from mmu_pipeline.readers.text import as_text
from mmu_pipeline.sky import Bool, Int


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


def needed_members(survey: Survey, form: str, members: Sequence[Field]) -> list[Field]:
    """The members that are asked for, and those that it takes to mask, unpad and sort them, in declared order."""
    asked = {field.name for field in members}
    names = with_companions(survey, asked)
    if any(field.is_ragged for field in members):
        padding = survey.forms[form].padding
        names |= {*survey.order_by, *([padding.field] if padding else [])}
    return [field for field in survey.members if field.name in asked or (field.name in names and field.is_carried(form))]


def finished(survey: Survey, form: str, sources: Mapping[str, Array]) -> dict[str, list[Array]]:
    """Members of n rows as a reader finds them to members as declared: name -> n arrays.

    A source is a block of shape (n, ...), or n arrays of their own lengths (dtype object) where the field is ragged.
    Raises BrokenSource naming the column.
    """
    fields = [field for field in survey.members if field.name in sources and not field.is_encoded]
    for field in fields:
        if not field.is_ragged and sources[field.name].shape[1:] != field.shape:
            shape = sources[field.name].shape[1:]
            raise BrokenSource("not the declared shape", column=field.name, shape=shape, declared=field.shape)
    framed, lengths = dict(sources), {}
    for field in fields:
        if field.is_ragged and _is_of_arrays(sources[field.name]):
            framed[field.name], lengths[field.name] = _filled(field, sources[field.name])
    frames_of(fields, framed)
    typed = {field.name: member(field, form, framed[field.name]) for field in fields if not field.is_band_code}
    blocks = reconcile(survey, typed)
    arrays = {field.name: list(blocks[field.name]) for field in fields if not field.is_ragged}
    pictures = [field for field in survey.members if field.name in sources and field.is_encoded]
    arrays |= {field.name: encoded(field, sources[field.name].tolist()) for field in pictures}
    return arrays | unpadded(survey, survey.forms[form], framed, blocks, lengths)


def of_arrays(arrays: Sequence[Array]) -> Array:
    """Arrays of any lengths as one array of dtype object, shape (n,)."""
    result = np.empty(len(arrays), object)
    for at, array in enumerate(arrays):
        result[at] = array
    return result


def _is_of_arrays(source: Array) -> bool:
    return source.dtype == object and source.ndim == 1 and all(isinstance(value, np.ndarray) for value in source)


def _filled(field: Field, source: Array) -> tuple[Array, Int]:
    """n arrays as a block (n, longest, ...) filled up with zeros or empty text, and their lengths."""
    lengths = np.array([len(array) for array in source], np.int64)
    tails = {array.shape[1:] for array in source}
    if len(tails) > 1:
        raise BrokenSource("not the declared shape", column=field.name, shape=max(tails), declared=field.shape)
    dtype = np.result_type(*(array.dtype for array in source)) if len(source) else np.dtype("f4")
    fill = "" if dtype.kind in "OSU" else 0
    block = np.full((len(source), int(lengths.max(initial=0)), *(tails.pop() if tails else ())), fill, dtype)
    for row, array in zip(block, source, strict=True):
        row[: len(array)] = array
    return block, lengths


def unpadded(
    survey: Survey, form: Form, sources: Mapping[str, Array], blocks: Mapping[str, Array], lengths: Mapping[str, Int]
) -> dict[str, list[Array]]:
    """Ragged members of n rows, without their padding, flattened over bands, sorted: name -> n arrays.

    `sources` are members as read, shape (n, length, ...) or (n, bands, length, ...); `blocks` the same in declared dtypes.
    `lengths` of the rows of those members whose blocks were filled up here.
    The bands of a light curve stand in the source once per band, (n, bands) or comma-joined (n,), or once per observation.
    Raises BrokenSource where shapes do not agree or a band is not declared.
    """
    fields = [field for field in survey.members if field.is_ragged and field.name in sources]
    frames = frames_of(fields, sources)
    keep = {dimension: np.ones(shape, bool) for dimension, shape in frames.items()}
    long: dict[str, Int] = {}
    for name, found in lengths.items():
        dimension = str(survey.field(name).shape[0])
        if not np.array_equal(long.setdefault(dimension, found), found):
            raise BrokenSource("not as long as the others", column=name)
        keep[dimension] = np.arange(frames[dimension][-1]) < found[:, np.newaxis]
    if form.padding and form.padding.field in sources:
        dimension = str(survey.field(form.padding.field).shape[0])
        keep[dimension] = keep[dimension] & ~is_padding(form.padding, sources[form.padding.field], len(frames[dimension]))
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

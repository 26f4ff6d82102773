"""Ids of an object -> the key of its sample and its place in training order; the sample itself: arrays and scalars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from mmu_pipeline.fields import Array

KEY = re.compile(r"[A-Za-z0-9_-]+")
SLUG_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Sample:
    """What a trainer gets for one object. The order of both mappings is kept."""

    key: str
    arrays: Mapping[str, Array]
    """Member name `survey.field` -> C-contiguous little-endian array."""
    record: Mapping[str, object]
    """JSON key -> str, bool, int, float, list of these, or None where missing."""


def sample_key(ids: Sequence[str | None], occurrence: int = 0) -> str:
    """The key of a sample: a readable slug of the primary's id, then 16 hexadecimal digits of all ids.

    `ids` are the object ids of the primary and of each counterpart (None where absent); `occurrence` counts samples
    with the same ids, from 0. The digits are xxh3-64 of the JSON list [*ids, occurrence]: stable over rebuilds.
    """
    slug = re.sub(r"[^A-Za-z0-9_-]", "_", (ids[0] or "")).strip("_-")[:SLUG_LENGTH] or "object"
    return f"{slug}-{xxhash.xxh3_64_hexdigest(orjson.dumps([*ids, occurrence]))}"


def training_order(keys: Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """The place of each sample in training order, shape (n,): xxh3-64 of its key under a seed."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode(), seed) for key in keys), np.uint64)

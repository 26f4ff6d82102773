"""Positions -> train, validation or test: a property of the sky, so that no two surveys and no two versions disagree."""

from __future__ import annotations

import healpy as hp
import numpy as np
import numpy.typing as npt
import xxhash

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import Bool, Float, Int, healpix29, margin_order, pixels_at, unit_vectors

SPLITS = ("train", "validation", "test")
"""Names of the splits; a split's code is its place here."""
Codes = npt.NDArray[np.int8]

CIRCLE_POINTS = 64
CIRCLE_REACH = 1.0025
"""The points lie this much outside the guard circle: more than 1 / cos(pi / 64), so that no nearly straight edge that enters
the circle passes between two of them. Rows up to 0.25 % beyond the guard count as within it."""
CHUNK = 16_384


def split_codes(cells: Int, rule: SplitRule) -> Codes:
    """Split of coarse cells (NESTED pixels at `rule.order`), as codes into SPLITS. Shape (n,).

    A cell's place between 0 and 1 is the upper 53 bits of xxh3-64 of the text "order/pixel" under the rule's seed, as a
    fraction; train takes the first part of that interval, validation the next, test the rest.
    """
    unique, inverse = np.unique(cells, return_inverse=True)
    hashes = [xxhash.xxh3_64_intdigest(f"{rule.order}/{cell}".encode(), rule.seed) >> 11 for cell in unique.tolist()]
    bounds = [rule.train, rule.train + rule.validation]
    codes = np.searchsorted(bounds, np.array(hashes, np.float64) / 2.0**53, side="right")
    return np.asarray(codes.astype(np.int8)[inverse], np.int8)


def split_of(index: Int, rule: SplitRule) -> Codes:
    """Split of each `_healpix_29`, as codes into SPLITS. Shape (n,)."""
    return split_codes(pixels_at(index, rule.order), rule)


def check_guard(rule: SplitRule) -> None:
    """Raise BadInput if the guard is so wide that little of a coarse cell would be left."""
    if rule.guard_arcsec > 0 and margin_order(rule.guard_arcsec) < rule.order:
        raise BadInput(
            f"a guard of {rule.guard_arcsec:g} arcsec is too wide for split cells of order {rule.order}",
            key="split.guard_arcsec",
            hint=f"choose split.order {margin_order(rule.guard_arcsec)} or less",
        )


def near_other_split(ra: Float, dec: Float, rule: SplitRule) -> Bool:
    """Whether each position (degrees) lies within `rule.guard_arcsec` of sky that belongs to another split. Shape (n,).

    Raises BadInput if the guard is wider than the coarse cells allow.
    """
    check_guard(rule)
    near = np.zeros(len(ra), np.bool_)
    if rule.guard_arcsec <= 0 or not len(ra):
        return near
    order = margin_order(rule.guard_arcsec)
    pixels, inverse = np.unique(pixels_at(healpix29(ra, dec), order), return_inverse=True)
    candidates = np.flatnonzero(_touches_other(pixels, order, rule)[inverse])
    for first in range(0, len(candidates), CHUNK):
        rows = candidates[first : first + CHUNK]
        points = unit_vectors(ra[rows], dec[rows])
        cells = pixels_at(healpix29(ra[rows], dec[rows]), rule.order)
        near[rows] = _circle_leaves(points, cells, rule) | _corner_within(points, cells, rule)
    return near


def _neighbours(pixels: Int, order: int) -> Int:
    """The eight pixels around each, shape (8, n); the pixel itself where it has only seven."""
    around = np.asarray(hp.get_all_neighbours(1 << order, pixels, nest=True), np.int64)
    return np.where(around < 0, pixels, around)


def _touches_other(pixels: Int, order: int, rule: SplitRule) -> Bool:
    """Whether a neighbour of each pixel at `order`, not coarser than the rule's, has another split than the pixel."""
    shift = 2 * (order - rule.order)
    around = split_codes((_neighbours(pixels, order) >> shift).ravel(), rule).reshape(8, -1)
    return np.asarray((around != split_codes(pixels >> shift, rule)).any(axis=0))


def _circle_leaves(points: Float, cells: Int, rule: SplitRule) -> Bool:
    """Whether the guard circle around each unit vector passes through sky of another split."""
    aside = np.eye(3)[np.argmin(np.abs(points), axis=1)]
    first = np.cross(points, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(points, first)
    radius = np.radians(rule.guard_arcsec / 3600.0) * CIRCLE_REACH
    angle = np.linspace(0.0, 2.0 * np.pi, CIRCLE_POINTS, endpoint=False)[:, None, None]
    circle = np.cos(radius) * points + np.sin(radius) * (np.cos(angle) * first + np.sin(angle) * second)
    reached = np.asarray(hp.vec2pix(1 << rule.order, *np.moveaxis(circle, -1, 0), nest=True), np.int64)
    splits = split_codes(reached.ravel(), rule).reshape(reached.shape)
    return np.asarray((splits != split_codes(cells, rule)).any(axis=0))


def _corner_within(points: Float, cells: Int, rule: SplitRule) -> Bool:
    """Whether a corner of a neighbouring cell of another split lies within the guard of each unit vector."""
    unique, inverse = np.unique(cells, return_inverse=True)
    around = _neighbours(unique, rule.order)
    corners = np.asarray(hp.boundaries(1 << rule.order, around.ravel(), step=1, nest=True)).reshape(8, len(unique), 3, 4)
    other = split_codes(around.ravel(), rule).reshape(8, -1) != split_codes(unique, rule)
    chord = 2.0 * np.sin(np.radians(rule.guard_arcsec / 3600.0) / 2.0)
    distance = np.linalg.norm(corners[:, inverse] - points[None, :, :, None], axis=2)
    return np.asarray(((distance <= chord * CIRCLE_REACH) & other[:, inverse, None]).any(axis=(0, 2)))

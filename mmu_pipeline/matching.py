"""Two sets of positions to pairs: every candidate within a radius on the sphere, then the pick among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from mmu_pipeline.sky import Bool, Float, Int, arcsec, chord, unit_vectors

CHUNK = 1 << 18
"""Primary rows searched at a time: bounds the pairs held before the pick."""


@dataclass(frozen=True)
class Positions:
    """Rows of one catalog: degrees, and the rank of each row's id among all ids, which breaks ties."""

    ra: Float
    dec: Float
    id_rank: Int

    def __len__(self) -> int:
        return len(self.ra)


@dataclass(frozen=True)
class Refinement:
    """The separation of a pair where it is not that of the positions which were searched: each pair has its own epoch."""

    slack_arcsec: float
    """How much closer a pair may be than the positions that were searched."""
    chord: Callable[[Int, Int], Float]
    """(primary rows, counterpart rows) -> chord of each pair."""


@dataclass(frozen=True)
class Pairs:
    """Matches, sorted by primary row, then rank. All arrays have shape (pairs,)."""

    primary: Int
    counterpart: Int
    separation_arcsec: Float
    rank: npt.NDArray[np.int32]
    """1 for the closest candidate of its primary."""
    n_candidates: npt.NDArray[np.int32]
    """Counterparts within the radius of its primary."""


def candidates(primary: Positions, counterpart: Positions, radius_arcsec: float) -> tuple[Int, Int, Float]:
    """Every (primary row, counterpart row, chord) within the radius, borders included, in no particular order.

    Chords are straight lines between unit vectors, so small separations keep their precision (error below 1e-9 arcsec).
    """
    if not len(primary) or not len(counterpart):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    tree = cKDTree(unit_vectors(counterpart.ra, counterpart.dec), balanced_tree=False, compact_nodes=False)
    limit = float(chord(radius_arcsec))
    found = []
    for start in range(0, len(primary), CHUNK):
        part = slice(start, start + CHUNK)
        here = cKDTree(unit_vectors(primary.ra[part], primary.dec[part]), balanced_tree=False, compact_nodes=False)
        pairs = here.sparse_distance_matrix(tree, limit, output_type="ndarray")
        found.append((pairs["i"] + start, pairs["j"], pairs["v"]))
    i, j, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    return i.astype(np.int64), j.astype(np.int64), distance


def _first_of(groups: Int, order: Int) -> Bool:
    """Which elements come first in their group, when all are put in `order` (which sorts by group first)."""
    first = np.zeros(len(groups), bool)
    first[order[np.flatnonzero(np.diff(groups[order], prepend=-1))]] = True
    return first


def match(
    primary: Positions,
    counterpart: Positions,
    radius_arcsec: float,
    pick: Literal["nearest", "mutual", "all", "best"] = "nearest",
    preference: Float | None = None,
    refine: Refinement | None = None,
) -> Pairs:
    """Match two catalogs on the sphere.

    `nearest` keeps the closest counterpart of each primary; `mutual` keeps it only where that primary is also the closest
    of all given primaries to it; `all` keeps every candidate; `best` the one with the smallest `preference`, of shape
    (counterparts,), NaN last. Ties break by separation, then id. With `refine`, separations are those that it gives.
    """
    i, j, distance = candidates(primary, counterpart, radius_arcsec + (refine.slack_arcsec if refine else 0.0))
    if refine is not None:
        distance = refine.chord(i, j)
        i, j, distance = (values[distance <= chord(radius_arcsec)] for values in (i, j, distance))
    order = np.lexsort((counterpart.id_rank[j], distance, i))
    i, j, distance = i[order], j[order], distance[order]
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    counts = np.diff(starts, append=len(i))
    rank = np.arange(len(i)) - np.repeat(starts, counts)
    keep = np.ones(len(i), bool) if pick == "all" else rank == 0
    if pick == "mutual":
        keep &= _first_of(j, np.lexsort((primary.id_rank[i], distance, j)))
    if pick == "best" and preference is not None:
        keep = _first_of(i, np.lexsort((rank, preference[j], i)))
    return Pairs(
        primary=i[keep],
        counterpart=j[keep],
        separation_arcsec=arcsec(distance[keep]),
        rank=(rank[keep] + 1).astype(np.int32),
        n_candidates=np.repeat(counts, counts)[keep].astype(np.int32),
    )

"""Two sets of positions to matches: of every primary's candidates, ranked by separation, the pick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.candidates import Positions, candidates
from mmu_pipeline.sky import Float, Int, arcsec, chord


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
    But for `all`, what is held is a few arrays of the primaries' length, however many candidates there are.
    """
    parts = []
    for i, j, distance in candidates(primary, counterpart, radius_arcsec + (refine.slack_arcsec if refine else 0.0)):
        if refine is not None:
            distance = refine.chord(i, j)
            i, j, distance = (values[distance <= chord(radius_arcsec)] for values in (i, j, distance))
        parts.append(_picked(i, j, distance, counterpart.ids, pick, preference))
    pairs = _joined(parts)
    if pick == "mutual" and len(pairs.primary):
        there = np.unique(pairs.counterpart)
        back = None if refine is None else Refinement(refine.slack_arcsec, lambda j, i: refine.chord(i, there[j]))
        closest = match(counterpart.take(there), primary, radius_arcsec, "nearest", refine=back)
        answers = closest.counterpart[np.searchsorted(closest.primary, np.searchsorted(there, pairs.counterpart))]
        return _rows(pairs, np.flatnonzero(answers == pairs.primary))
    return pairs


def _picked(i: Int, j: Int, distance: Float, ids: pa.Array | pa.ChunkedArray, pick: str, preference: Float | None) -> Pairs:
    """The pick among the candidates of some primaries, those of each side by side."""
    order = _by_separation(i, j, distance, ids)
    i, j, distance = i[order], j[order], distance[order]
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    counts = np.diff(starts, append=len(i))
    chosen = np.arange(len(i)) if pick == "all" else starts
    if pick == "best" and preference is not None:
        group = np.repeat(np.arange(len(starts)), counts)
        chosen = np.lexsort((preference[j], group))[starts]
    group = np.searchsorted(starts, chosen, side="right") - 1
    return Pairs(
        primary=i[chosen],
        counterpart=j[chosen],
        separation_arcsec=arcsec(distance[chosen]),
        rank=(chosen - starts[group] + 1).astype(np.int32),
        n_candidates=counts[group].astype(np.int32),
    )


def _by_separation(i: Int, j: Int, distance: Float, ids: pa.Array | pa.ChunkedArray) -> Int:
    """The order of candidates by separation, then id, where those of one primary already stand side by side.

    Only what has rivals is sorted, and only the ids of what ties are compared.
    """
    order = np.arange(len(i))
    rivals = np.flatnonzero(_like_a_neighbour(i[1:] == i[:-1]))
    group = np.cumsum(np.diff(i[rivals], prepend=-1) != 0)
    ranked = rivals[np.lexsort((distance[rivals], group))]
    tied = np.flatnonzero(_like_a_neighbour((i[ranked][1:] == i[ranked][:-1]) & (distance[ranked][1:] == distance[ranked][:-1])))
    if len(tied):
        rows = ranked[tied]
        names = pc.rank(ids.take(pa.array(j[rows])), tiebreaker="dense").to_numpy()
        ranked[tied] = rows[np.lexsort((j[rows], names, distance[rows], group[np.searchsorted(rivals, rows)]))]
    order[rivals] = ranked
    return order


def _like_a_neighbour(same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of n elements equal one beside them, from whether each equals the one before, shape (n - 1,)."""
    return np.append(same, False) | np.append(False, same) if len(same) else np.zeros(0, bool)


def _joined(parts: list[Pairs]) -> Pairs:
    """Parts as one, in the order of the primaries."""
    kinds: dict[str, Any] = {
        "primary": np.int64, "counterpart": np.int64, "separation_arcsec": np.float64, "rank": np.int32, "n_candidates": np.int32
    }  # fmt: skip
    empty = Pairs(**{name: np.empty(0, kind) for name, kind in kinds.items()})
    pairs = Pairs(**{name: np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in kinds})
    return _rows(pairs, np.argsort(pairs.primary, kind="stable"))


def _rows(pairs: Pairs, rows: Int) -> Pairs:
    return Pairs(*(getattr(pairs, field.name)[rows] for field in fields(Pairs)))

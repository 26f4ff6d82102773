"""Candidates to the pick among them where an object may have several rows: an object is picked, and all its rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from mmu_pipeline.matching import Pairs
from mmu_pipeline.sky import Float, Int

NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32))


def pick_objects(
    i: Int,
    j: Int,
    separation_arcsec: Float,
    pick: str,
    ids: tuple[Int, Int],
    objects: tuple[Int, Int],
    preference: Float | None = None,
) -> Pairs:
    """The pick among candidates (primary row, counterpart row, separation), all those of a primary being given.

    `nearest`, `mutual`, `all` and `best` as in `matching.match`; ties break by separation, then by the rank of the ids, which
    are of shape (rows,) for either side, as are `objects`: numbers that the rows of one object share. What is picked is the
    object of the best row, and all its rows among the candidates are kept; for `mutual` the closest primary may be any row of the
    same object.
    """
    order = np.lexsort((ids[1][j], separation_arcsec, i))
    i, j, separation = i[order], j[order], separation_arcsec[order]
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    counts = np.diff(starts, append=len(i))
    group = np.repeat(np.arange(len(starts)), counts)
    keep = np.ones(len(i), bool)
    if pick != "all":
        best = starts if preference is None else np.lexsort((preference[j], group))[starts]
        picked = objects[1][j[best]]
        keep = picked[group] == objects[1][j]
        if pick == "mutual":
            back = np.lexsort((ids[0][i], separation, j))
            closest = back[np.flatnonzero(np.diff(j[back], prepend=-1))]
            answer = objects[0][i[closest]][np.searchsorted(j[closest], j[best])]
            keep &= (answer == objects[0][i[best]])[group]
    kept = np.flatnonzero(keep)
    return Pairs(
        primary=i[kept],
        counterpart=j[kept],
        separation_arcsec=separation[kept],
        rank=(kept - starts[group[kept]] + 1).astype(np.int32),
        n_candidates=counts[group[kept]].astype(np.int32),
    )


def joined_pairs(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of several parts of two catalogs, one after the other."""
    return Pairs(*(np.concatenate([getattr(part, field.name) for part in (NO_PAIRS, *parts)]) for field in fields(Pairs)))

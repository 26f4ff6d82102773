"""What the stage `keys` found to what a match unit reads of it: the rows of a survey that are not taken, and its pairs by key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.matching import Pairs
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import Cell, Int
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.keys import PAIRS_SCHEMA
from mmu_pipeline.stages.objects import find_rows
from mmu_pipeline.stages.repeats import PLACE_SCHEMA
from mmu_pipeline.stages.skies import POINTER


@dataclass(frozen=True)
class Joined:
    """What a match unit must know of one survey beyond its own part of the sky."""

    survey: str
    losers: tuple[str, ...] = ()
    """Tables of rows that are not taken, since another observation of their object is."""
    pairs: tuple[str, ...] = ()
    """Tables of pairs with the primary."""
    digests: tuple[str, ...] = ()
    """Of the rows of these tables in the unit's part of the sky."""
    unread: tuple[str, ...] = ()
    """Sources of a survey joined by key that were set aside: where a primary has no pair, its counterpart may be there."""
    failed: tuple[str, ...] = ()
    """Units of the stage that were set aside: nothing can be told without them."""


def joined(
    survey: str, receipts: Iterable[Receipt], unread: Sequence[str], near: Collection[int], own: Collection[int]
) -> Joined | None:
    """What concerns one survey and some order-4 cells: its losers `near` them and the pairs of their `own` primaries.

    `receipts` are those of the stage. None where the stage has nothing to do with the survey.
    """
    tables: dict[str, list[str]] = {"repeats": [], "pairs": []}
    digests, failed, known = [], [], False
    for receipt in receipts:
        _, owner, bucket = receipt.unit.split("/")
        if owner != survey:
            continue
        known = True
        kind = bucket.partition("-")[0]
        if receipt.status != "done":
            failed.append(receipt.unit)
            continue
        cells = receipt.facts["cells"]
        if here := [cells[str(cell)] for cell in sorted(near if kind == "repeats" else own) if str(cell) in cells]:
            tables[kind] += receipt.outputs
            digests += here
    if not known:
        return None
    return Joined(survey, tuple(tables["repeats"]), tuple(tables["pairs"]), tuple(digests), tuple(unread), tuple(failed))


def read_losers(build: Build, found: Joined, ranges: Int) -> pa.Table:
    """Rows of a survey about sorted `_healpix_29` ranges that are not taken: `_healpix_29`, `source_file`, `source_row`."""
    return _read(build, found, found.losers, int(ranges[0, 0]), int(ranges[-1, 1]), PLACE_SCHEMA)


def read_pairs(build: Build, found: Joined, start: int, stop: int) -> pa.Table:
    """Pairs of the primaries from one `_healpix_29` to before another, with columns as `keys.PAIRS_SCHEMA`."""
    return _read(build, found, found.pairs, start, stop, PAIRS_SCHEMA)


def pairs_by_key(build: Build, found: Joined, primaries: pa.Table, cell: Cell) -> tuple[pa.Table, Pairs]:
    """Rows of a survey that are joined by key to primaries of a pixel, and the pairs, as those by position are."""
    pairs = read_pairs(build, found, *cell.range)
    place = find_rows(primaries, pairs["source_file"], pairs["source_row"])
    if np.any(place < 0):
        raise BrokenArtefact("pairs by key point to primaries that the object table does not hold", survey=found.survey,
                             hint="remove the receipts of the stage `keys` and build again")  # fmt: skip
    order = np.lexsort((pairs["rank"].to_numpy(), place))
    pairs = pairs.take(pa.array(order))
    rows = pa.table({name: pairs[f"other_{name.strip('_')}"] for name in ("_healpix_29", *POINTER)})
    columns = (pairs[name].to_numpy() for name in ("separation_arcsec", "rank", "n_candidates"))
    return rows, Pairs(place[order], np.arange(len(order)), *columns)


def _read(build: Build, found: Joined, paths: Sequence[str], start: int, stop: int, schema: pa.Schema) -> pa.Table:
    if found.failed:
        raise BrokenArtefact(f"keys of {found.survey} could not be joined", units=", ".join(found.failed),
                             hint="`mmu status` says why; the next run tries again")  # fmt: skip
    within = [("_healpix_29", ">=", start), ("_healpix_29", "<", stop)]
    return pa.concat_tables([schema.empty_table(), *(build.root.read_table(path, filters=within) for path in paths)])

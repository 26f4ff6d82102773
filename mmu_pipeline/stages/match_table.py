"""Primaries and the pairs of each counterpart to rows of the match table, and what each order-4 cell holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from mmu_pipeline.astrometry import position_errors
from mmu_pipeline.catalog import Recipe, Survey, has_normalised
from mmu_pipeline.matching import Pairs
from mmu_pipeline.sky import CELL_ORDER, Int, pixels_at
from mmu_pipeline.stages.skies import POINTER

PAIR = {
    "separation_arcsec": pa.float64(),
    "rank": pa.int32(),
    "n_candidates": pa.int32(),
    "crosses_border": pa.bool_(),
    "healpix29": pa.int64(),
}
"""What a row says of a counterpart besides where it is found: null where there is none."""
NORMALISED = "normalised_separation"
"""The separation over the combined error of both positions in one coordinate: of a column where both surveys have errors."""


def match_schema(recipe: Recipe, surveys: Mapping[str, Survey]) -> pa.Schema:
    """Columns of a recipe's match table, in order."""
    pointer = {"object_id": pa.string(), "source_file": pa.string(), "source_row": pa.int64()}
    place = {"_healpix_29": pa.int64(), "ra": pa.float64(), "dec": pa.float64()}
    place |= {f"{recipe.primary.survey}_{name}": kind for name, kind in pointer.items()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in place.items()]
    for counterpart in recipe.counterparts:
        survey, kinds = counterpart.survey, dict(PAIR)
        if has_normalised(counterpart, surveys[recipe.primary.survey], surveys[survey]):
            kinds[NORMALISED] = pa.float64()
        kinds = {"object_id": pointer["object_id"], **kinds, **pointer}
        fields += [pa.field(f"{survey}_{name}", kind) for name, kind in kinds.items()]
    return pa.schema(fields)


def joined(output: Mapping[str, Int], survey: str, pairs: Pairs, how: str, n_primary: int) -> dict[str, Int]:
    """Output rows times their matches: for each row so far, one row per pair of its primary (or one absent, with `left`).

    `output` holds, for each row, the row of the primary and of the pairs of each counterpart; -1 where there is none.
    """
    counts = np.bincount(pairs.primary, minlength=n_primary)
    starts = np.cumsum(counts) - counts
    here = counts[output["primary"]]
    copies = np.maximum(here, 1) if how == "left" else here
    result = {name: np.repeat(rows, copies) for name, rows in output.items()}
    step = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    matched = np.repeat(here, copies) > 0
    result[survey] = np.where(matched, starts[result["primary"]] + step, -1)
    return result


def compose(
    recipe: Recipe,
    surveys: Mapping[str, Survey],
    primaries: pa.Table,
    found: Mapping[str, tuple[pa.Table, Pairs]],
    output: Mapping[str, Int],
) -> pa.Table:
    """The match table of some output rows, as `joined` gave them; `found` holds each counterpart's rows and pairs."""
    schema = match_schema(recipe, surveys)
    primary = primaries.take(pa.array(output["primary"]))
    columns = {name: primary[name] for name in ("_healpix_29", "ra", "dec")}
    columns |= {f"{recipe.primary.survey}_{name}": primary[name] for name in POINTER}
    own = pixels_at(primary["_healpix_29"].to_numpy(), CELL_ORDER)
    for survey, (rows, pairs) in found.items():
        pair = pa.array(output[survey], mask=output[survey] < 0)
        errors = dict.fromkeys((surveys[survey].position_error or ()) if f"{survey}_{NORMALISED}" in schema.names else ())
        taken = rows.select(["_healpix_29", *POINTER, *errors]).take(pc.take(pa.array(pairs.counterpart), pair))
        columns |= {f"{survey}_{name}": taken[name] for name in POINTER}
        columns[f"{survey}_healpix29"] = taken["_healpix_29"]
        columns |= {
            f"{survey}_{name}": pc.take(pa.array(getattr(pairs, name)), pair)
            for name in ("separation_arcsec", "rank", "n_candidates")
        }
        if errors:
            both = [position_errors(primary, surveys[recipe.primary.survey]), position_errors(taken, surveys[survey])]
            normalised = columns[f"{survey}_separation_arcsec"].to_numpy(zero_copy_only=False) / np.hypot(*both)
            columns[f"{survey}_{NORMALISED}"] = pa.array(normalised, from_pandas=True)
        cells = pixels_at(pc.fill_null(taken["_healpix_29"], -1).to_numpy(), CELL_ORDER)
        columns[f"{survey}_crosses_border"] = pa.array(cells != own, mask=cells < 0)
    return pa.table([columns[name] for name in schema.names], schema=schema)


@dataclass
class CellTally:
    """What a match unit counts of one order-4 cell, over all the strips that hold a part of it."""

    rows: int = 0
    matched: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, set[int]] = field(default_factory=dict)
    """Counterpart -> other order-4 cells that hold some of it."""
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def facts(self) -> dict[str, Any]:
        """As a receipt holds them."""
        beyond = {name: sorted(cells) for name, cells in self.beyond.items()}
        return {"rows": self.rows, "matched": self.matched, "beyond": beyond, "digest": self.digest.hexdigest()}


def tally(tallies: dict[int, CellTally], recipe: Recipe, table: pa.Table) -> None:
    """Add rows of a match table, in `_healpix_29` order, to the tallies of their cells.

    The digest of a cell is that of the pointers of its rows: which rows of the object tables stand together.
    """
    cells = pixels_at(table["_healpix_29"].to_numpy(), CELL_ORDER)
    pointers = _pointers(recipe, table)
    there = {name: pc.is_valid(table[f"{name}_object_id"]).to_numpy() for name in recipe.survey_names[1:]}
    homes = {name: pixels_at(pc.fill_null(table[f"{name}_healpix29"], 0).to_numpy(), CELL_ORDER) for name in there}
    edges = np.flatnonzero(np.diff(cells, prepend=-1, append=-1)).tolist()
    for start, stop in pairwise(edges):
        cell, part = int(cells[start]), slice(start, stop)
        counted = tallies.setdefault(cell, CellTally())
        counted.rows += stop - start
        counted.digest.update(pointers[part].data)
        for name, present in there.items():
            counted.matched[name] = counted.matched.get(name, 0) + int(np.count_nonzero(present[part]))
            away = homes[name][part][present[part] & (homes[name][part] != cell)]
            if len(away):
                counted.beyond.setdefault(name, set()).update(np.unique(away).tolist())


def _pointers(recipe: Recipe, table: pa.Table) -> Int:
    """What identifies each row of a match table, as numbers. Shape (rows, numbers), C order."""
    columns: Sequence[Any] = [table["_healpix_29"]]
    for survey in recipe.survey_names:
        files = pc.dictionary_encode(table[f"{survey}_source_file"].combine_chunks(), null_encoding="encode")
        names = [xxhash.xxh3_64_intdigest(str(name).encode()) for name in files.dictionary.to_pylist()] or [0]
        columns = [*columns, np.array(names, np.uint64).view(np.int64)[files.indices.to_numpy()]]
        columns = [*columns, pc.fill_null(table[f"{survey}_source_row"], -1)]
    for survey in recipe.survey_names[1:]:
        columns = [*columns, *(pc.fill_null(table[f"{survey}_{name}"], -1) for name in ("rank", "n_candidates"))]
        columns = [*columns, pc.fill_null(table[f"{survey}_separation_arcsec"], -1.0).to_numpy().view(np.int64)]
    return np.ascontiguousarray(np.stack([np.asarray(column, np.int64) for column in columns], axis=1))

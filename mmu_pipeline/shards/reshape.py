"""Rows of an index and a rule -> the rows that stay, their split and order, and the bytes that each is copied from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ByteSize, ConfigDict
from pydantic import Field as Key

from mmu_pipeline.catalog import ShardRule, SplitRule
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.expressions import select
from mmu_pipeline.shards.regions import Region
from mmu_pipeline.shards.samples import training_order
from mmu_pipeline.shards.splits import SPLITS, near_other_split, split_of
from mmu_pipeline.shards.ustar import BLOCK
from mmu_pipeline.sky import Int, in_ranges

Order = np.ndarray[Any, np.dtype[np.uint64]]


class ReshardRule(BaseModel):
    """What of some sets goes into a new one, and how it is dealt out. What is not said stays as it is in the first set."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str | None = Key(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Of the new set."""
    where: str | None = None
    """An expression over columns of the index: only samples that it is true of."""
    cone: tuple[float, float, float] | None = None
    """Only samples within (ra, dec, radius), in degrees."""
    moc: str | None = None
    """Only samples in a multi-order coverage map: a file, FITS or JSON."""
    split: SplitRule | None = None
    """Split anew."""
    members: tuple[str, ...] | None = None
    """Arrays to keep, by name (`survey.field`) or by survey; the JSON always stays."""
    target_bytes: ByteSize | None = None
    """Size of a shard: 512MiB."""
    samples_per_shard: int | None = Key(default=None, ge=1)
    """Most samples of a shard."""
    seed: int | None = Key(default=None, ge=0)
    """Of the order of the samples."""
    multiple_of: int | None = Key(default=None, ge=1)
    """Every shard is filled to a multiple of so many samples, with flagged repeats."""
    world_size: int | None = Key(default=None, ge=1)
    """The number of shards of a split is a multiple of this: ranks x workers."""
    sha256: bool | None = None
    """Whether SHA256SUMS is written."""
    count_in_name: bool | None = None
    """Whether names of shards end in their number of samples, as zoobot wants it."""
    balance: str | None = None
    """Column of the index of whose values every shard gets its share."""
    limit_per_class: tuple[str, int] | None = None
    """Column, and the most samples of each of its values: the first in training order, over all splits together."""

    def shards(self, before: Mapping[str, Any]) -> ShardRule:
        """How samples are dealt out, given how they were."""
        said = self.model_dump(include=set(ShardRule.model_fields), exclude_none=True)
        kept = {key: value for key, value in before.items() if key != "samples_per_shard" or "target_bytes" not in said}
        return ShardRule.model_validate(kept | said)


@dataclass(frozen=True)
class Copies:
    """Where the bytes of some samples lie. A sample is its runs, one after the other."""

    source: Int
    """The shard of each sample, shape (n,)."""
    offset: Int
    """Start of each run, shape (n, runs)."""
    nbytes: Int
    """Length of each run, shape (n, runs)."""


def kept_members(names: Sequence[str] | None, members: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the members to keep among those of a manifest. Raises BadInput for a name that none has."""
    if names is None:
        return list(range(len(members)))
    known = {value for member in members for value in (member["name"], member["survey"])}
    if unknown := [name for name in names if name not in known]:
        raise BadInput(
            f"the samples have no member {', '.join(unknown)}", hint=f"members: {', '.join(member['name'] for member in members)}"
        )
    return [place for place, member in enumerate(members) if member["name"] in names or member["survey"] in names]


def chosen(
    table: pa.Table, rule: ReshardRule, regions: Mapping[str, Region], columns: Sequence[str]
) -> tuple[pa.Table, Counter[str]]:
    """The rows of an index that a rule takes, and how many it leaves, by reason. `columns` may stand in its `where`."""
    left: Counter[str] = Counter()
    if rule.where is not None:
        passing = select(table.select(columns).append_column("row", pa.array(np.arange(len(table)))), rule.where)["row"]
        left["not where"] += len(table) - len(passing)
        table = table.take(passing)
    for reason, region in regions.items():
        pixels, ra, dec = (table[name].to_numpy() for name in ("_healpix_29", "ra", "dec"))
        inside = in_ranges(pixels, region.ranges) & region.holds(pixels, ra, dec)
        left[reason] += int((~inside).sum())
        table = table.filter(pa.array(inside))
    if rule.split is not None and rule.split.guard_arcsec > 0:
        near = near_other_split(table["ra"].to_numpy(), table["dec"].to_numpy(), rule.split)
        left["within guard_arcsec of another split"] += int(near.sum())
        table = table.filter(pa.array(~near))
    return table, left


def as_piece(
    table: pa.Table, split: SplitRule | None, seed: int, kept: Sequence[int], members: int, classes: Sequence[str]
) -> tuple[pa.Table, Copies]:
    """Rows of an index as planning wants those of a piece, with the columns `classes`; and what each sample is copied from.

    `kept` are the places of the members that stay, of `members`. The digests are those of the samples before.
    """
    split_codes = (
        pc.index_in(table["split"], value_set=pa.array(SPLITS)).to_numpy().astype(np.int8)
        if split is None
        else split_of(table["_healpix_29"].to_numpy(), split)
    )
    found = _copies(table, kept, members)
    values = {
        "key": table["key"],
        "split": split_codes,
        "training_order": training_order(table["key"].to_pylist(), seed),
        "nbytes": found.nbytes.sum(axis=1),
        "digest": table["digest"],
    }
    return pa.table(values | {f"class_{name}": table[name] for name in classes}), found


def _copies(table: pa.Table, kept: Sequence[int], members: int) -> Copies:
    """The runs of neighbouring members that stay, JSON included."""
    start, size = (_matrix(table[name], members + 1) for name in ("member_offset", "member_nbytes"))
    stay = [*kept, members]
    firsts = [place for place in stay if place == 0 or place - 1 not in stay]
    lasts = [place for place in stay if place + 1 not in stay]
    begin = start[:, firsts] - BLOCK
    nbytes = start[:, lasts] + size[:, lasts] + -size[:, lasts] % BLOCK - begin
    return Copies(table["source"].to_numpy().astype(np.int64), table["offset"].to_numpy()[:, None] + begin, nbytes)


def _matrix(column: pa.ChunkedArray, width: int) -> Int:
    values = column.combine_chunks().flatten().to_numpy()
    if len(values) != len(column) * width:
        raise BrokenArtefact(
            "the index does not have as many members as the manifest", members=width, hint="mmu verify tells more"
        )
    return np.asarray(values.reshape(-1, width), np.int64)


def ranks(column: pa.ChunkedArray) -> Int:
    """A number for each value that grows with it, equal for equal values, nulls last. Shape (n,)."""
    return np.asarray(pc.rank(column, sort_keys="ascending", tiebreaker="dense").to_numpy(), np.int64)


def beyond(limit: int, classes: Int, order: Order) -> Int:
    """Samples that are not among the first `limit` of their class, in training order."""
    rows = np.lexsort((order, classes))
    ordered = classes[rows]
    place = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return np.asarray(rows[place >= limit], np.int64)

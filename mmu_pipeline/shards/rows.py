"""The index of a set -> the rows of each shard, shard after shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.storage import Root

ROW_COLUMNS = ("key", "offset", "nbytes", "digest", "member_offset", "member_nbytes")
ROWS_HELD = 2_000_000
"""Rows that are held at a time: the index is read once for so many samples."""


def rows_of_shard(root: Root, name: str) -> pa.Table:
    """The rows of one shard, in sky order: for work that is dealt out shard by shard."""
    return root.read_table(INDEX_PATH, columns=list(ROW_COLUMNS), filters=pc.field("shard") == name)


def rows_by_shard(
    root: Root, manifest: Mapping[str, Any], columns: tuple[str, ...] = ROW_COLUMNS
) -> Iterator[tuple[str, pa.Table]]:
    """Name of each shard of the set at `root`, and its rows of the index, in sky order."""
    shards = [shard for part in manifest["splits"].values() for shard in part["shards"]]
    group = np.cumsum([shard["samples"] for shard in shards]) // ROWS_HELD
    for _, part in groupby(zip(group, shards, strict=True), key=lambda pair: pair[0]):
        names = [shard["name"] for _, shard in part]
        rows = root.read_table(INDEX_PATH, columns=["shard", *columns], filters=pc.field("shard").isin(names))
        for name in names:
            yield name, rows.filter(pc.equal(rows["shard"], name))

"""Rows of the index against the JSON of their samples -> columns that say something else than the sample itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.storage import Root

GROUPS = 8
"""Row groups of the index that are read for a sample of its rows."""
AT_ONCE = 1000
"""Samples whose JSON is held at a time."""


def value_problems(root: Root, manifest: Mapping[str, Any], most: int | None) -> Iterator[str]:
    """What is wrong with the scalars of an index that is whole: of about `most` samples spread over the sky, or of all (None)."""
    columns = ("key", "offset", "member_offset", "member_nbytes", *(scalar["name"] for scalar in manifest["scalars"]))
    with root.fs.open(root.path(INDEX_PATH), "rb") as file:
        index = pq.ParquetFile(file)
        looked_at = index.num_row_groups if most is None else min(GROUPS, index.num_row_groups)
        for group in np.unique(np.linspace(0, index.num_row_groups - 1, looked_at, dtype=np.int64)).tolist():
            rows = index.read_row_group(group, columns=["shard", *columns])
            if most is not None:
                rows = rows.take(np.unique(np.linspace(0, len(rows) - 1, max(1, most // looked_at), dtype=np.int64)))
            rows = rows.sort_by("shard")
            names = rows["shard"].to_pylist()
            for name, group_rows in groupby(range(len(names)), key=names.__getitem__):
                here = list(group_rows)
                for start in range(here[0], here[-1] + 1, AT_ONCE):
                    yield from _problems(root, name, rows.slice(start, min(AT_ONCE, here[-1] + 1 - start)), manifest)


def _problems(root: Root, name: str, rows: pa.Table, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Of some rows of one shard; none where the shard itself is not as it should be, which its own check tells."""
    size = root.size(name)
    starts = [
        start + places[-1] for start, places in zip(rows["offset"].to_pylist(), rows["member_offset"].to_pylist(), strict=True)
    ]
    ends = [start + sizes[-1] for start, sizes in zip(starts, rows["member_nbytes"].to_pylist(), strict=True)]
    if size is None or any(end > size for end in ends):
        return
    contents = root.fs.cat_ranges([root.path(name)] * len(rows), starts, ends)
    for content, row in zip(contents, rows.to_pylist(), strict=True):
        try:
            record = orjson.loads(content)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(record, dict):
            continue
        for scalar in manifest["scalars"]:
            ours, theirs = _plain(row[scalar["name"]]), record.get(scalar["name"])
            if ours != theirs:
                yield f"{INDEX_PATH}: {row['key']}: {scalar['name']} is {ours!r}, in its JSON {theirs!r}"


def _plain(value: Any) -> Any:
    """A value of the index as JSON writes it: what is not finite is null there."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

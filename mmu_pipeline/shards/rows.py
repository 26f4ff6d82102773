"""A shard of a set -> its rows of the index, from the file beside it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.shards.index import shard_index_path
from mmu_pipeline.storage import Root

MEMBER_COLUMNS = ("member_offset", "member_nbytes")
"""Lists of one number a member."""
PLACE_COLUMNS = ("offset", "nbytes", "digest", *MEMBER_COLUMNS)
ROW_COLUMNS = ("key", *PLACE_COLUMNS)
_ODD = np.uint64(0x9E3779B97F4A7C15)


def shard_rows(root: Root, name: str, members: int, digest: str = "") -> tuple[pa.Table | None, list[str]]:
    """The rows of one shard, ROW_COLUMNS, in sky order, None if they cannot be read; and what is wrong with their file.

    `members` is the number of files of a sample, its JSON included; `digest` that of the file, if it is known.
    """
    path = shard_index_path(name)
    try:
        wrong = [f"{path}: its digest is not that of the manifest"] if digest and root.digest_of(path) != digest else []
        rows = root.read_table(path, columns=list(ROW_COLUMNS))
        if any(pc.any(pc.not_equal(pc.list_value_length(rows[column]), members)).as_py() for column in MEMBER_COLUMNS):
            return None, [*wrong, f"{path}: does not list {members} members of every sample"]
        return rows, wrong
    except FileNotFoundError:
        return None, [f"{path}: is missing"]
    except (OSError, pa.ArrowException) as error:
        return None, [f"{path}: cannot be read: {str(error).splitlines()[0]}"]


def place_sum(rows: pa.Table | pa.RecordBatch) -> int:
    """A sum over rows that does not depend on their order: of the digest of each, mixed with where its members lie."""
    mixed = np.zeros(len(rows), np.uint64)
    for name in PLACE_COLUMNS:
        column = rows[name]
        values = (pc.list_flatten(column) if pa.types.is_list(column.type) else column).to_numpy().astype(np.uint64)
        width = len(values) // max(len(rows), 1)
        for part in values[: width * len(rows)].reshape(len(rows), width).T:
            mixed = (mixed ^ part) * _ODD
    return int(np.sum(mixed, dtype=np.uint64))

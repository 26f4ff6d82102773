"""Ids to the rows of a FITS table that hold them; the table is looked through once for all files that share it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits

from mmu_pipeline.fields import Array
from mmu_pipeline.readers.text import as_text
from mmu_pipeline.sky import Int

BLOCK = 1 << 18
"""Rows that are looked at together."""


class Absent(LookupError):
    """The file has no such extension, column or key: an alternative may."""


@dataclass(frozen=True)
class _Table:
    """A table in a file; the same one under another link to the file."""

    path: str = field(compare=False)
    device: int
    inode: int
    changed: int
    hdu: str
    key: str
    only: tuple[tuple[str, str], ...]


def hdu_of(hdus: Any, name: str) -> Any:
    """An extension by name or number. Raises Absent."""
    try:
        return hdus[int(name) if name.isdigit() else name]
    except (KeyError, IndexError) as error:
        raise Absent from error


def rows_of(path: str, hdu: str, key: str, ids: Array, only: Mapping[str, str]) -> Int:
    """The first row that has each of some ids (n,) in a column, among rows with given texts in others; -1 where there is none.

    Returns int64 of shape (n,). For each row with those texts 16 bytes and more stay in memory. Raises Absent.
    """
    status = os.stat(path)
    table = _Table(path, status.st_dev, status.st_ino, status.st_mtime_ns, hdu, key, tuple(sorted(only.items())))
    known, rows = _sorted_keys(table)
    if not len(known):
        return np.full(len(ids), -1, np.int64)
    wanted = _comparable(ids, known)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, rows[place], -1)


def _comparable(ids: Array, known: Array) -> Array:
    if known.dtype.kind == "U" or ids.dtype.kind in "iu":
        return ids if ids.dtype.kind == known.dtype.kind else np.array(as_text(ids))
    whole = [int(text) if text.removeprefix("-").isdigit() else -1 for text in as_text(ids)]
    return np.array(whole, known.dtype)


@lru_cache(maxsize=4)
def _sorted_keys(table: _Table) -> tuple[Array, Int]:
    """Keys of a table in ascending order, whole numbers or text, and their rows. Raises Absent."""
    keys: list[Array] = []
    rows: list[Int] = []
    with fits.open(table.path, memmap=True) as hdus:
        data = hdu_of(hdus, table.hdu).data
        names = {name.upper() for name in data.columns.names}
        if not {table.key.upper(), *(column.upper() for column, _ in table.only)} <= names:
            raise Absent
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            chosen = np.ones(len(block), bool)
            for column, text in table.only:
                chosen &= np.strings.strip(np.asarray(block[column])) == text
            here = np.asarray(block[table.key])[chosen]
            keys.append(here.astype(np.int64) if here.dtype.kind in "iu" else np.array(as_text(here), np.str_))
            rows.append(start + np.flatnonzero(chosen))
    if not keys:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    together, places = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(together, kind="stable")
    return together[order], places[order]

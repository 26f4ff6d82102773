"""The index of a set and a part of the sky -> the samples whose primary lies there."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.regions import Box, Cone, Region, read_moc
from mmu_pipeline.sky import Int, in_ranges
from mmu_pipeline.storage import Root

PLACE_COLUMNS = ["_healpix_29", "ra", "dec"]
REPEATED = ["shard", "split"]
"""Columns of few values: read as numbers of them, text is made of the rows that are found."""


def search(root: Root, folder: str, region: Region, columns: list[str] | None = None) -> pa.Table:
    """The rows of a set's index that lie in a region, in sky order, with the columns asked for or all.

    Of the file only the row groups are read whose pixels may belong to it: their positions first, the rest of those that hold a
    row. Its footer is kept for the next search.
    """
    path = root.path(f"{folder}/{INDEX_PATH}" if folder else INDEX_PATH)
    metadata, schema, least, greatest, rows = _groups(root, path, str(root.fs.ukey(path)))
    ranges, wanted = region.ranges, schema.names if columns is None else columns
    bounds = np.array(ranges, np.int64).reshape(-1, 2)
    groups = np.flatnonzero(np.searchsorted(bounds[:, 1], least, "right") < np.searchsorted(bounds[:, 0], greatest, "right"))
    with root.fs.open(path, "rb") as file:
        index = pq.ParquetFile(file, metadata=metadata, read_dictionary=REPEATED)
        places = index.read_row_groups(groups.tolist(), columns=PLACE_COLUMNS)
        pixels, ra, dec = (places[name].to_numpy() for name in PLACE_COLUMNS)
        inside = np.flatnonzero(in_ranges(pixels, ranges))
        inside = inside[region.holds(pixels[inside], ra[inside], dec[inside])]
        owner = np.repeat(groups, rows[groups])
        holding = np.unique(owner[inside])
        found = index.read_row_groups(holding.tolist(), columns=list(wanted))
    read = np.flatnonzero(np.isin(owner, holding))
    return found.select(wanted).take(np.searchsorted(read, inside)).cast(pa.schema([schema.field(name) for name in wanted]))


def cone(root: Root, folder: str, ra: float, dec: float, radius_deg: float, columns: list[str] | None = None) -> pa.Table:
    """The rows of a set's index within a cone (degrees), in sky order."""
    return search(root, folder, Cone(ra, dec, radius_deg), columns)


def box(root: Root, folder: str, ra: tuple[float, float], dec: tuple[float, float], columns: list[str] | None = None) -> pa.Table:
    """The rows between two right ascensions (over 0 where the first is larger) and two declinations, in degrees."""
    return search(root, folder, Box(*ra, *dec), columns)


def moc(root: Root, folder: str, url: str, columns: list[str] | None = None) -> pa.Table:
    """The rows in a multi-order coverage map, a FITS or JSON file."""
    return search(root, folder, read_moc(url), columns)


@lru_cache(maxsize=8)
def _groups(root: Root, path: str, version: str) -> tuple[pq.FileMetaData, pa.Schema, Int, Int, Int]:
    """The footer of an index and its schema; of each row group its least and greatest pixel, and its rows. `version` tells files
    apart."""
    with root.fs.open(path, "rb") as file:
        index = pq.ParquetFile(file)
    metadata, schema = index.metadata, index.schema_arrow
    column = schema.get_field_index("_healpix_29")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    found = [group.column(column).statistics for group in groups]
    least, greatest, rows = [one.min for one in found], [one.max for one in found], [group.num_rows for group in groups]
    return metadata, schema, np.array(least, np.int64), np.array(greatest, np.int64), np.array(rows, np.int64)

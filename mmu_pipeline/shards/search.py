"""The index of a set and a part of the sky -> the samples whose primary lies there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.regions import Box, Cone, Region, read_moc
from mmu_pipeline.sky import Bool, in_ranges
from mmu_pipeline.storage import Root

PLACE_COLUMNS = ["_healpix_29", "ra", "dec"]


def search(root: Root, folder: str, region: Region, columns: list[str] | None = None) -> pa.Table:
    """The rows of a set's index that lie in a region, in sky order, with the columns asked for or all.

    Of the file only the row groups are read whose pixels may belong to it.
    """
    path = f"{folder}/{INDEX_PATH}" if folder else INDEX_PATH
    with root.fs.open(root.path(path), "rb") as file:
        index = pq.ParquetFile(file)
        wanted = None if columns is None else list(dict.fromkeys([*columns, *PLACE_COLUMNS]))
        groups = np.flatnonzero(_may_hold(index, region)).tolist()
        table = index.read_row_groups(groups, columns=wanted) if groups else index.schema_arrow.empty_table()
    near = table.filter(pa.array(in_ranges(table["_healpix_29"].to_numpy(), region.ranges)))
    found = near.filter(pa.array(region.holds(*(near[name].to_numpy() for name in PLACE_COLUMNS))))
    return found if columns is None else found.select(columns)


def cone(root: Root, folder: str, ra: float, dec: float, radius_deg: float, columns: list[str] | None = None) -> pa.Table:
    """The rows of a set's index within a cone (degrees), in sky order."""
    return search(root, folder, Cone(ra, dec, radius_deg), columns)


def box(root: Root, folder: str, ra: tuple[float, float], dec: tuple[float, float], columns: list[str] | None = None) -> pa.Table:
    """The rows between two right ascensions (over 0 where the first is larger) and two declinations, in degrees."""
    return search(root, folder, Box(*ra, *dec), columns)


def moc(root: Root, folder: str, url: str, columns: list[str] | None = None) -> pa.Table:
    """The rows in a multi-order coverage map, a FITS or JSON file."""
    return search(root, folder, read_moc(url), columns)


def _may_hold(index: pq.ParquetFile, region: Region) -> Bool:
    """Whether each row group may have rows in a region, by the least and greatest pixel in it."""
    column = index.schema_arrow.get_field_index("_healpix_29")
    groups = [index.metadata.row_group(number).column(column).statistics for number in range(index.metadata.num_row_groups)]
    bounds = np.array(region.ranges, np.int64).reshape(-1, 2)
    least, greatest = (np.array([getattr(group, name) for group in groups], np.int64) for name in ("min", "max"))
    return np.asarray(np.searchsorted(bounds[:, 1], least, "right") < np.searchsorted(bounds[:, 0], greatest, "right"))

"""Partitions on disk to a HATS catalog: the properties and metadata files that LSDB reads first."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.parquet as pq

from mmu_pipeline import __version__
from mmu_pipeline.sky import Cell
from mmu_pipeline.storage import Root

READ_THREADS = 16


@dataclass(frozen=True)
class Partition:
    """One file of a catalog."""

    cell: Cell
    path: str
    """Under the root."""
    rows: int
    digest: str
    """What changes with its rows."""


def write_metadata(
    root: Root, folder: str, name: str, partitions: list[Partition], properties: Mapping[str, str] | None = None
) -> None:
    """Write `hats.properties`, `partition_info.csv`, `_metadata` and `_common_metadata` of a catalog.

    Layout of the HATS note (IVOA, 2025). `properties` are those of a catalog that is not one of objects. An empty catalog has
    no metadata.
    """
    partitions = sorted((partition for partition in partitions if partition.rows), key=lambda item: item.cell)
    if not partitions:
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        footers = list(pool.map(lambda partition: _footer(root, folder, partition), partitions))
    schema = footers[0].schema.to_arrow_schema()
    merged = footers[0]
    for footer in footers[1:]:
        merged.append_row_groups(footer)
    with root.writing(f"{folder}/dataset/_metadata") as file:
        merged.write_metadata_file(file)
    with root.writing(f"{folder}/dataset/_common_metadata") as file:
        pq.write_metadata(schema, file)
    lines = ["Norder,Npix", *(f"{partition.cell.order},{partition.cell.pixel}" for partition in partitions)]
    root.write_bytes(f"{folder}/partition_info.csv", ("\n".join(lines) + "\n").encode())
    own = {
        "obs_collection": name,
        "dataproduct_type": "object",
        "hats_nrows": str(sum(partition.rows for partition in partitions)),
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": "_healpix_29",
        "hats_col_healpix_order": "29",
        "hats_npix_suffix": ".parquet",
        "hats_order": str(max(partition.cell.order for partition in partitions)),
        "hats_version": "v1.0",
        "hats_builder": f"mmu_pipeline v{__version__}",
        **(properties or {}),
    }
    text = "".join(f"{key}={value}\n" for key, value in own.items() if value).encode()
    root.write_bytes(f"{folder}/properties", text)
    root.write_bytes(f"{folder}/hats.properties", text)


def _footer(root: Root, folder: str, partition: Partition) -> pq.FileMetaData:
    footer = root.read_footer(partition.path)
    footer.set_file_path(partition.path.removeprefix(f"{folder}/dataset/"))
    return footer

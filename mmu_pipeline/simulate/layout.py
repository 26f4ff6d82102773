"""Columns to HDF5 files as the MMU's scripts write them: one dataset per column, compressed, in the byte order of the origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from mmu_pipeline.readers.ragged import of_arrays
from mmu_pipeline.simulate.sky import Columns


def files_of_cells(rows: pa.Table) -> list[str]:
    """The file of each of some detections, where each order-4 cell has one."""
    return [f"healpix={cell}/001-of-001.hdf5" for cell in rows["cell"].to_pylist()]


def write_columns(path: Path, columns: Columns, big_endian: bool = False) -> None:
    """Write one table of n rows; arrays of several dimensions are chunked by row and compressed.

    `big_endian`: as tables that passed through FITS arrive in the published files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            stored = values.astype(values.dtype.newbyteorder(">")) if big_endian and values.dtype.kind in "iuf" else values
            if stored.ndim > 1:
                chunks = (1, *stored.shape[1:])
                file.create_dataset(
                    name,
                    data=stored,
                    chunks=chunks,
                    maxshape=(None, *chunks[1:]),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                )
            else:
                file.create_dataset(name, data=stored)


def truncate(path: Path, keep: float = 0.6) -> None:
    """Cut a file short, as an interrupted copy leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def text(values: list[str], width: int) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    """Text as fixed-width bytes, padded on the left with blanks as FITS tables of SDSS are."""
    return np.array([value.rjust(width).encode() for value in values], f"S{width}")


def table_of(rows: list[dict[str, Any]]) -> Columns:
    """Rows as columns: arrays of one length stacked, other values as they are (None among numbers gives dtype object)."""
    columns: Columns = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        same = isinstance(values[0], np.ndarray) and len({value.shape for value in values}) == 1
        columns[name] = np.stack(values) if same else of_arrays(values) if isinstance(values[0], np.ndarray) else np.array(values)
    return columns

"""What a source file says, or shows while it is read, that it unpacks to -> BrokenSource before it fills memory or disk."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.settings import LEAST_ARRAY_BYTES, settings

FIRST_LINE = 1024**2
"""No line of a header is longer."""
WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}
"""Bytes of a Parquet value in memory, by physical type; 8 or more for the others."""


def check_held(nbytes: int, what: str, **where: Any) -> None:
    """Raise BrokenSource if something of a file that is held in memory as a whole is larger than the settings allow."""
    if nbytes > LEAST_ARRAY_BYTES and nbytes > (most := settings().most_array_bytes):
        raise BrokenSource(f"{what} is larger than allowed", bytes=nbytes, most=int(most), **where,
                           hint="if the file is to be trusted, set MMU_MOST_ARRAY_BYTES higher")  # fmt: skip


def check_parts(shape: tuple[int, ...], chunks: tuple[int, ...] | None, itemsize: int, **where: Any) -> None:
    """Raise BrokenSource if one row or one chunk of a dataset, whatever its compression, is larger than allowed."""
    for part in (shape[1:], chunks or ()):
        check_held(math.prod(part) * itemsize, "a row or chunk", **where)


def check_images(hdus: Sequence[Any]) -> None:
    """Raise BrokenSource if an extension of a FITS file, its tiles unpacked, is larger than allowed: headers alone are read."""
    for hdu in hdus:
        compressed = isinstance(hdu, fits.CompImageHDU)
        nbytes = math.prod(hdu.shape) * abs(int(hdu.header["BITPIX"])) // 8 if compressed else hdu.size
        check_held(nbytes, "an extension", extension=hdu.name or "primary")


def check_columns(metadata: pq.FileMetaData, columns: Collection[str]) -> None:
    """Raise BrokenSource if some columns of a Parquet file, as they are held in memory, are larger than allowed."""
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    chosen = [number for number, leaf in enumerate(leaves) if leaf in columns or leaf.split(".")[0] in columns]
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        check_held(sum(_unpacked_bytes(group.column(number)) for number in chosen), "a row group")
    check_held(metadata.num_rows * 8 * len(chosen), "a table", rows=metadata.num_rows)


def _unpacked_bytes(column: Any) -> int:
    """At least what a column of a row group is in memory: of values that repeat, its encodings say but one."""
    return int(max(column.total_uncompressed_size, column.num_values * WIDTH.get(column.physical_type, 8)))


class _Counted(io.RawIOBase):
    """A stream that ends with an error once more came out of it than the settings allow."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.left = stream, int(settings().most_unpacked_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise BrokenSource("the file unpacks to more than allowed", most=int(settings().most_unpacked_bytes),
                               hint="if the file is to be trusted, set MMU_MOST_UNPACKED_BYTES higher")  # fmt: skip
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """The content of a file, unpacked on the way if its name says that it is compressed, as a stream for Arrow."""
    with pa.input_stream(str(path), compression="detect") as stream:
        yield pa.PythonFile(_Counted(stream), "r") if isinstance(stream, pa.CompressedInputStream) else stream

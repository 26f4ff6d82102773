"""Samples -> a piece (a tar, and where each lies in it); byte ranges of pieces -> a shard; a tar -> samples."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, BinaryIO

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import xxhash
from fsspec.implementations.local import LocalFileSystem

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.samples import KEY, Sample
from mmu_pipeline.shards.ustar import BLOCK, END_OF_ARCHIVE, Member, array_stencil, read_header, read_npy, stencil
from mmu_pipeline.sky import Int

WRITTEN = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("nbytes", pa.int64(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("member_offset", pa.list_(pa.int64()), nullable=False),
        pa.field("member_nbytes", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Where a sample lies in its tar. `digest` is xxh3-128 (big-endian) of its `nbytes` bytes from `offset`, headers and
padding included: they hold no position, so a sample keeps its digest in whichever tar it lies. `member_offset` is the
start of each member's content relative to `offset`; members stand in declared order, the JSON last."""

Bytes = Any
"""Whatever has the buffer protocol and is contiguous: bytes, an array."""

IOV_MAX = 1024
BATCH_BUFFERS = 1000
BATCH_BYTES = 1024**2
"""Handed to the kernel at a time: measured on ext4, 4 MiB at a time took up to three times the CPU of 1 MiB."""
READ_BYTES = 64 * 1024**2


def write_samples(file: BinaryIO, samples: Iterable[Sample]) -> pa.Table:
    """Write a whole tar of samples, its end included; the table says where each lies, as WRITTEN.

    The arrays' own memory is handed to the kernel in batches, so it must not change while this runs.
    Raises BadInput for a key or name that readers would not understand, or an array that cannot be written as it is.
    """
    keys: list[str] = []
    nbytes: list[int] = []
    digests: list[bytes] = []
    member_offset: list[int] = []
    member_nbytes: list[int] = []
    members: list[int] = [0]
    write = _writer(file)
    batch: list[Bytes] = []
    pending = 0
    for sample in samples:
        buffers, size = _encode(sample, member_offset, member_nbytes)
        digest = xxhash.xxh3_128()
        for buffer in buffers:
            digest.update(buffer)
        keys.append(sample.key)
        nbytes.append(size)
        digests.append(digest.digest())
        members.append(len(member_offset))
        batch += buffers
        pending += size
        if pending >= BATCH_BYTES or len(batch) >= BATCH_BUFFERS:
            write(batch)
            batch, pending = [], 0
    write([*batch, END_OF_ARCHIVE])
    offset = np.cumsum([0, *nbytes], dtype=np.int64)[:-1]
    lists = [_lists(members, values) for values in (member_offset, member_nbytes)]
    return pa.table([keys, offset, nbytes, pa.array(digests, pa.binary(16)), *lists], schema=WRITTEN)


def _lists(bounds: list[int], values: list[int]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(values, pa.int64()))


def _encode(sample: Sample, member_offset: list[int], member_nbytes: list[int]) -> tuple[list[Bytes], int]:
    """The bytes of a sample in its tar, as buffers, and their number. Appends where its members lie in them."""
    if not KEY.fullmatch(sample.key):
        raise BadInput("the key of a sample may hold letters, digits, _ and - only", key=sample.key)
    key = sample.key.encode()
    length, total = len(key), sum(key)
    buffers: list[Bytes] = []
    tail, position = b"", BLOCK
    for name, array in sample.arrays.items():
        form = array_stencil(name, length, array.dtype, array.shape)
        if not array.flags.c_contiguous:
            raise BadInput("an array is not contiguous in C order", key=sample.key, member=name)
        buffers += b"".join((tail, key, form.before, b"%06o\0 " % (form.total + total), form.after)), array
        member_offset.append(position)
        member_nbytes.append(form.nbytes)
        tail = form.tail
        position += form.nbytes + len(tail) + BLOCK
    record = orjson.dumps(sample.record)
    form = stencil("json", length, len(record))
    buffers.append(b"".join((tail, key, form.before, b"%06o\0 " % (form.total + total), form.after, record, form.tail)))
    member_offset.append(position)
    member_nbytes.append(form.nbytes)
    return buffers, position + form.nbytes + len(form.tail)


def _writer(file: BinaryIO) -> Callable[[Sequence[Bytes]], None]:
    """A function that appends buffers to a file: straight to the kernel where it is a file of the operating system."""
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return file.writelines
    file.flush()

    def write(buffers: Sequence[Bytes]) -> None:
        for first in range(0, len(buffers), IOV_MAX):
            left = list(buffers[first : first + IOV_MAX])
            while left:
                done = os.writev(descriptor, left)
                while left and done >= memoryview(left[0]).nbytes:
                    done -= memoryview(left.pop(0)).nbytes
                if left:
                    left[0] = memoryview(left[0]).cast("B")[done:]

    return write


@dataclass(frozen=True)
class Ranges:
    """Byte ranges of pieces, in the order in which they make a shard. Three int64 arrays of shape (n,)."""

    piece: Int
    """Which piece, as a place in a list of paths."""
    offset: Int
    nbytes: Int


def copy_ranges(file: BinaryIO, fs: fsspec.AbstractFileSystem, paths: Sequence[str], ranges: Ranges) -> str:
    """Write a whole shard from ranges of the pieces at `paths`, its end included. Returns its xxh3-128 in hexadecimal.

    On one local filesystem the kernel's page cache is the only buffer: each piece is mapped once and its ranges put where
    they belong. Elsewhere they are fetched in batches. Raises BrokenArtefact if a piece is shorter than a range says.
    """
    return copy_samples(file, fs, paths, ranges, np.zeros(1, np.int64))[0]


def copy_samples(
    file: BinaryIO, fs: fsspec.AbstractFileSystem, paths: Sequence[str], ranges: Ranges, bounds: Int
) -> tuple[str, list[bytes]]:
    """As copy_ranges, with the digest of each sample: sample k is the ranges `bounds[k]:bounds[k + 1]`. `bounds` ends with the
    number of ranges, or is one 0: then no sample is looked at."""
    if isinstance(fs, LocalFileSystem) and isinstance(getattr(file, "raw", file), io.FileIO):
        _put_ranges(file, paths, ranges)
        ends = np.cumsum(np.append(0, ranges.nbytes))[bounds]
        with (
            open(file.name, "rb") as written,
            mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            digests = [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(ends.tolist())]
            return xxhash.xxh3_128_hexdigest(view), digests
    whole, sample, digests = xxhash.xxh3_128(), xxhash.xxh3_128(), list[bytes]()
    last_of_sample = np.isin(np.arange(len(ranges.nbytes)), bounds[1:] - 1)
    for row, content in enumerate(_fetched(fs, paths, ranges)):
        whole.update(content)
        file.write(content)
        if len(bounds) > 1:
            sample.update(content)
            if last_of_sample[row]:
                digests.append(sample.digest())
                sample.reset()
    whole.update(END_OF_ARCHIVE)
    file.write(END_OF_ARCHIVE)
    return whole.hexdigest(), digests


def _fetched(fs: fsspec.AbstractFileSystem, paths: Sequence[str], ranges: Ranges) -> Iterator[bytes]:
    """The content of each range, in order, a batch at a time."""
    batches = np.cumsum(ranges.nbytes) // READ_BYTES
    for batch in np.unique(batches):
        chosen = np.flatnonzero(batches == batch)
        starts, stops = ranges.offset[chosen], ranges.offset[chosen] + ranges.nbytes[chosen]
        contents = fs.cat_ranges([paths[piece] for piece in ranges.piece[chosen]], starts.tolist(), stops.tolist())
        for row, content in zip(chosen, contents, strict=True):
            _check_length(len(content), ranges, int(row), paths)
            yield content


def _put_ranges(file: BinaryIO, paths: Sequence[str], ranges: Ranges) -> None:
    target = np.cumsum(ranges.nbytes) - ranges.nbytes
    by_piece = np.lexsort((ranges.offset, ranges.piece))
    for piece, rows in groupby(by_piece.tolist(), key=lambda row: int(ranges.piece[row])):
        with open(paths[piece], "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for row in rows:
                start, size = int(ranges.offset[row]), int(ranges.nbytes[row])
                _check_length(len(content) - start, ranges, row, paths)
                with memoryview(content) as view:
                    _put(file.fileno(), view[start : start + size], int(target[row]))
    file.seek(int(ranges.nbytes.sum()))
    file.write(END_OF_ARCHIVE)
    file.flush()


def _put(descriptor: int, content: memoryview, offset: int) -> None:
    with content:
        done = 0
        while done < len(content):
            done += os.pwrite(descriptor, content[done:], offset + done)


def _check_length(found: int, ranges: Ranges, row: int, paths: Sequence[str]) -> None:
    if found < ranges.nbytes[row]:
        raise BrokenArtefact(
            "a piece is shorter than its index says",
            file=paths[ranges.piece[row]],
            offset=int(ranges.offset[row]),
            wanted=int(ranges.nbytes[row]),
            found=found,
            hint="delete it and build again",
        )


def iterate(tar: memoryview, file: str = "") -> Iterator[list[Member]]:
    """The members of each sample of a tar, in order. `file` is for messages.

    Raises BrokenArtefact where the tar is anything but samples as this module writes them.
    """
    offset, members = 0, list[Member]()
    while (member := read_header(tar, offset, file)) is not None:
        if members and member.key != members[0].key:
            yield members
            members = []
        members.append(member)
        offset = member.end
    if members:
        yield members


def read_sample(tar: memoryview, members: Sequence[Member]) -> Sample:
    """A sample from its members in a tar; its arrays share the tar's memory. Raises BrokenArtefact if one is not as written."""
    arrays = {member.field.removesuffix(".npy"): read_npy(tar[member.data], member.name) for member in members[:-1]}
    last = members[-1]
    if last.field != "json":
        raise BrokenArtefact("a sample does not end with its JSON", name=last.name)
    try:
        record = orjson.loads(tar[last.data])
    except orjson.JSONDecodeError as error:
        raise BrokenArtefact("not valid JSON", name=last.name, reason=str(error)) from error
    return Sample(last.key, arrays, record)

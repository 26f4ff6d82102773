"""Samples -> a piece (a tar, and where each lies in it); byte ranges of pieces -> a shard; a tar -> samples."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import xxhash
from fsspec.implementations.local import LocalFileSystem

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.samples import KEY, Sample
from mmu_pipeline.shards.ustar import BLOCK, END_OF_ARCHIVE, Member, array_stencil, member_of, read_array, read_header, stencil
from mmu_pipeline.sky import Int

WRITTEN = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("nbytes", pa.int64(), nullable=False),
        pa.field("digest", pa.uint64(), nullable=False),
        pa.field("member_offset", pa.list_(pa.int64()), nullable=False),
        pa.field("member_nbytes", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Where a sample lies in its tar. `digest` is xxh3-64 of its `nbytes` bytes from `offset`, headers and
padding included: they hold no position, so a sample keeps its digest in whichever tar it lies. `member_offset` is the
start of each member's content relative to `offset`; members stand in declared order, the JSON last."""

Bytes = Any
"""Whatever has the buffer protocol and is contiguous: bytes, an array."""
Digest = Any
"""What is fed by `update`: of hashlib or xxhash."""

IOV_MAX = 1024
BATCH_BUFFERS = 1000
BATCH_BYTES = 256 * 1024
"""Handed to the kernel at a time: what was read for its digest is then still in the processor's cache when it is copied."""
READ_BYTES = 64 * 1024**2
OPEN_FILES = 256


def write_samples(file: BinaryIO, samples: Iterable[Sample]) -> pa.Table:
    """Write a whole tar of samples, its end included; the table says where each lies, as WRITTEN.

    The arrays' own memory is handed to the kernel in batches, so it must not change while this runs.
    Raises BadInput for a key or name that readers would not understand, or an array that cannot be written as it is.
    """
    keys: list[str] = []
    nbytes: list[int] = []
    digests: list[int] = []
    member_offset: list[int] = []
    member_nbytes: list[int] = []
    members: list[int] = [0]
    write = _writer(file)
    batch: list[Bytes] = []
    pending = 0
    for sample in samples:
        buffers, size = _encode(sample, member_offset, member_nbytes)
        digest = xxhash.xxh3_64()
        for buffer in buffers:
            digest.update(buffer)
        keys.append(sample.key)
        nbytes.append(size)
        digests.append(digest.intdigest())
        members.append(len(member_offset))
        batch += buffers
        pending += size
        if pending >= BATCH_BYTES or len(batch) >= BATCH_BUFFERS:
            write(batch, pending)
            batch, pending = [], 0
    write([*batch, END_OF_ARCHIVE], pending + len(END_OF_ARCHIVE))
    offset = np.cumsum([0, *nbytes], dtype=np.int64)[:-1]
    lists = [_lists(members, values) for values in (member_offset, member_nbytes)]
    return pa.table([keys, offset, nbytes, pa.array(digests, pa.uint64()), *lists], schema=WRITTEN)


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
        content = array.view(np.uint8) if array.dtype.kind == "V" else array
        buffers += b"".join((tail, key, form.before, b"%06o\0 " % (form.total + total), form.after)), content
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


def _writer(file: BinaryIO) -> Callable[[Sequence[Bytes], int], None]:
    """A function that appends buffers, of so many bytes together, to a file: straight to the kernel where it is one of the
    operating system."""
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return lambda buffers, nbytes: file.writelines(buffers)
    file.flush()

    def write(buffers: Sequence[Bytes], nbytes: int) -> None:
        done = os.writev(descriptor, buffers[:IOV_MAX])
        if done < nbytes:
            rest(buffers, done)

    def rest(buffers: Sequence[Bytes], done: int) -> None:
        """What a call did not take: the kernel may stop anywhere."""
        left = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
        while left:
            while left and done >= left[0].nbytes:
                done -= left.pop(0).nbytes
            if left:
                left[0] = left[0][done:]
                done = os.writev(descriptor, left[:IOV_MAX])

    return write


@dataclass(frozen=True)
class Ranges:
    """Byte ranges of tars, in the order in which they make a shard. Three int64 arrays of shape (n,)."""

    piece: Int
    """Which tar, as a place in a list of paths."""
    offset: Int
    nbytes: Int


def copied(
    file: BinaryIO, fs: fsspec.AbstractFileSystem, paths: Sequence[str], ranges: Ranges, runs: int, sums: Sequence[Digest]
) -> Iterator[Bytes]:
    """Write a whole shard from ranges of the tars at `paths`, its end included, and give each sample's bytes as it goes.

    Every `runs` ranges are a sample; its bytes are overwritten by the next. `sums` are fed with all that is written. Ranges on
    a local filesystem are read into one buffer; elsewhere they are fetched in batches. A sample is given before it is written:
    who takes a digest of it finds it in the processor's cache. Raises BrokenArtefact if a tar is shorter than a range says.
    """
    contents = _read(paths, ranges) if isinstance(fs, LocalFileSystem) else _fetched(fs, paths, ranges)
    held: list[bytes] = []
    for number, content in enumerate(contents, 1):
        sample = content
        if runs > 1:
            held.append(bytes(content))
            if number % runs:
                continue
            sample, held = b"".join(held), []
        yield sample
        for total in sums:
            total.update(sample)
        file.write(sample)
    for total in sums:
        total.update(END_OF_ARCHIVE)
    file.write(END_OF_ARCHIVE)


def _fetched(fs: fsspec.AbstractFileSystem, paths: Sequence[str], ranges: Ranges) -> Iterator[Bytes]:
    """The content of each range, in order, a batch at a time."""
    batches = np.cumsum(ranges.nbytes) // READ_BYTES
    for batch in np.unique(batches):
        chosen = np.flatnonzero(batches == batch)
        starts, stops = ranges.offset[chosen], ranges.offset[chosen] + ranges.nbytes[chosen]
        contents = fs.cat_ranges([paths[piece] for piece in ranges.piece[chosen]], starts.tolist(), stops.tolist())
        for row, content in zip(chosen, contents, strict=True):
            _check_length(len(content), ranges, int(row), paths)
            yield content


def _read(paths: Sequence[str], ranges: Ranges) -> Iterator[Bytes]:
    """The content of each range of local files, in order. What is given is overwritten by the next."""
    buffer = memoryview(bytearray(int(ranges.nbytes.max(initial=0))))
    opened: dict[int, int] = {}
    try:
        for row, (piece, offset, size) in enumerate(
            zip(ranges.piece.tolist(), ranges.offset.tolist(), ranges.nbytes.tolist(), strict=True)
        ):
            if piece not in opened:
                if len(opened) == OPEN_FILES:
                    os.close(opened.pop(next(iter(opened))))
                opened[piece] = os.open(paths[piece], os.O_RDONLY)
            done = 0
            while done < size and (count := os.preadv(opened[piece], [buffer[done:size]], offset + done)):
                done += count
            _check_length(done, ranges, row, paths)
            yield buffer[:size]
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


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
    arrays = {member_of(member.field): read_array(tar[member.data], member.name) for member in members[:-1]}
    last = members[-1]
    if last.field != "json":
        raise BrokenArtefact("a sample does not end with its JSON", name=last.name)
    try:
        record = orjson.loads(tar[last.data])
    except orjson.JSONDecodeError as error:
        raise BrokenArtefact("not valid JSON", name=last.name, reason=str(error)) from error
    return Sample(last.key, arrays, record)

"""The manifest of a set -> what each of its samples holds, and where: member after member in the bytes of a sample."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.fields import Array
from mmu_pipeline.jpeg import pixels_of
from mmu_pipeline.shards.narrow import widened
from mmu_pipeline.shards.ustar import BLOCK, NAME_BYTES, SIZE, padding

Bytes = npt.NDArray[np.uint8]
"""The bytes of a sample in its tar: shape (nbytes,)."""
NPY_LEAD = 10
"""Bytes of a npy file before its header: magic, version, and the header's length in the last two."""


@dataclass(frozen=True)
class Member:
    """An array of every sample."""

    name: str
    """`survey.field`."""
    dtype: np.dtype[np.generic]
    """Of the numbers in the shards."""
    shape: tuple[int | str, ...]
    """A name stands for a first dimension that varies by sample."""
    is_encoded: bool = False
    """Whether it lies there as a JPEG; dtype and shape are those of its pixels."""
    is_narrowed: bool = False
    """Whether its values are float32, rounded to the narrower dtype."""
    scale: str | None = None
    """The scalar by which the numbers are multiplied then."""

    @property
    def gives(self) -> np.dtype[np.generic]:
        """Dtype of the values."""
        return np.dtype("<f4") if self.is_narrowed else self.dtype

    def values(self, numbers: Bytes, record: Mapping[str, Any]) -> Array:
        """The values of a sample from its numbers and scalars: a view of them, or float32 made from a narrower type."""
        array = numbers.view(self.dtype).reshape(-1, *self.row_shape) if self.is_ragged else numbers.view(self.dtype)
        if not self.is_ragged:
            array = array.reshape(self.row_shape)
        return widened(array, scale_of(self, record)) if self.is_narrowed else array

    @cached_property
    def is_ragged(self) -> bool:
        return any(isinstance(size, str) for size in self.shape)

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Its shape, without the dimension that varies."""
        return tuple(int(size) for size in (self.shape[1:] if self.is_ragged else self.shape))

    @cached_property
    def header(self) -> bytes:
        """How the npy file of a fixed shape begins."""
        header = io.BytesIO()
        form = {"descr": self.dtype.str, "fortran_order": False, "shape": self.row_shape}
        np.lib.format.write_array_header_1_0(header, form)
        return header.getvalue()

    @cached_property
    def data_nbytes(self) -> int:
        """Bytes of its numbers, or of one row of them if it is ragged."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    @cached_property
    def value_nbytes(self) -> int:
        """Bytes of its values, where the shape is fixed."""
        return self.data_nbytes // self.dtype.itemsize * self.gives.itemsize

    @cached_property
    def nbytes(self) -> int | None:
        """Size of its file, None where it varies."""
        return None if self.is_ragged or self.is_encoded else len(self.header) + self.data_nbytes


@dataclass(frozen=True)
class Column:
    """A scalar of every sample."""

    name: str
    dtype: str
    """`string`, or the name of a NumPy dtype."""
    length: int | None = None
    """Of a short list of numbers, None for a single one."""


@dataclass(frozen=True)
class Layout:
    """What a sample holds, in order; its JSON comes last."""

    members: tuple[Member, ...]
    columns: tuple[Column, ...]

    @cached_property
    def _fixed(self) -> tuple[Sequence[tuple[int, int]], int] | None:
        """Start and stop of every npy file, and the JSON's header, where they are the same in all samples."""
        found, position = [], 0
        for member in self.members:
            if member.nbytes is None:
                return None
            found.append((position + BLOCK, position + BLOCK + member.nbytes))
            position = found[-1][1] + padding(member.nbytes)
        return tuple(found), position

    def spans(self, sample: Bytes) -> tuple[Sequence[tuple[int, int]], tuple[int, int]]:
        """Start and stop of every npy file in a sample, and of its JSON. Raises BrokenArtefact if they do not fill it."""
        found, position = self._fixed or self._walked(sample)
        start = position + BLOCK
        stop = start + _size(sample, position)
        if stop + padding(stop) != len(sample):
            raise BrokenArtefact("a sample is not as long as its members", nbytes=len(sample), members_end=stop)
        return found, (start, stop)

    def _walked(self, sample: Bytes) -> tuple[Sequence[tuple[int, int]], int]:
        found, position = [], 0
        for member in self.members:
            start = position + BLOCK
            stop = start + (_size(sample, position) if member.nbytes is None else member.nbytes)
            found.append((start, stop))
            position = stop + padding(stop)
        return found, position


def _size(sample: Bytes, position: int) -> int:
    """Size of the member whose header is at a position."""
    try:
        return int(sample[position + SIZE.start : position + SIZE.stop].tobytes(), 8)
    except ValueError as error:
        raise BrokenArtefact("no header of a member where one should be", position=position) from error


def fixed_numbers(sample: Bytes, member: Member, start: int, stop: int) -> Bytes:
    """The bytes of an array of a fixed shape. Raises BrokenArtefact if its npy header is not that of dtype and shape."""
    if member.is_encoded:
        return decoded(sample[start:stop], member)
    header = member.header
    begin = start + len(header)
    if sample[start:begin].tobytes() != header:
        raise BrokenArtefact("an array is not of the declared dtype and shape", member=member.name)
    return sample[begin:stop]


def decoded(content: Bytes, member: Member) -> Bytes:
    """The pixels of a JPEG, row by row. Raises BrokenArtefact if it is not one of the declared size."""
    try:
        pixels = pixels_of(content.tobytes())
    except ValueError as error:
        raise BrokenArtefact("a picture cannot be decoded", member=member.name, reason=str(error)) from error
    if pixels.shape != member.row_shape:
        raise BrokenArtefact("a picture is not of the declared size", member=member.name, shape=pixels.shape)
    return pixels.reshape(-1)


def ragged_numbers(sample: Bytes, member: Member, start: int, stop: int) -> Bytes:
    """The bytes of an array of varying length. Raises BrokenArtefact if its npy header is not that of dtype and rows."""
    lead = sample[start : start + NPY_LEAD].tobytes()
    begin = start + NPY_LEAD + int.from_bytes(lead[-2:], "little")
    rows, rest = divmod(stop - begin, member.data_nbytes)
    shape = str((rows, *member.row_shape)).encode()
    header = sample[start:begin].tobytes()
    if rest or rows < 0 or shape not in header or repr(member.dtype.str).encode() not in header:
        raise BrokenArtefact("an array is not of the declared dtype and shape", member=member.name)
    return sample[begin:stop]


def record(sample: Bytes, start: int, stop: int) -> Mapping[str, Any]:
    """The scalars of a sample. Raises BrokenArtefact if they are not JSON."""
    try:
        return orjson.loads(sample[start:stop].tobytes())  # type: ignore[no-any-return]
    except orjson.JSONDecodeError as error:
        raise BrokenArtefact("not valid JSON", reason=str(error)) from error


def key(sample: Bytes) -> str:
    """The key of a sample, from its first header. Raises BrokenArtefact if there is none."""
    name, dot, _ = sample[:NAME_BYTES].tobytes().partition(b".")
    if not dot:
        raise BrokenArtefact("a sample does not begin with a name")
    return name.decode("ascii", "replace")


def scale_of(member: Member, record: Mapping[str, Any]) -> float:
    """What the numbers of a narrowed member are multiplied by. Raises BrokenArtefact if the record does not say."""
    if member.scale is None:
        return 1.0
    scale = record.get(member.scale)
    if not isinstance(scale, float | int):
        raise BrokenArtefact("a record lacks the scale of an array", scalar=member.scale)
    return float(scale)


def layout_of(manifest: Mapping[str, Any]) -> Layout:
    """What the samples of a set hold."""
    members = (_member(member) for member in manifest["members"])
    columns = (Column(scalar["name"], scalar["dtype"], scalar.get("length")) for scalar in manifest["scalars"])
    return Layout(tuple(members), tuple(columns))


def _member(said: Mapping[str, Any]) -> Member:
    name, dtype, shape = said["name"], said["dtype"], tuple(said["shape"])
    if dtype == "jpeg":
        return Member(name, np.dtype(np.uint8), shape, is_encoded=True)
    stored = np.dtype(dtype).newbyteorder("<")
    return Member(name, stored, shape, is_narrowed="narrowed_from" in said, scale=said.get("scale"))


def chosen(layout: Layout, members: Sequence[str] | None, columns: Sequence[str] | None) -> Layout:
    """The part of a layout that is asked for, in that order; None for all. Which surveys have an object is always in it.

    A survey's name stands for all its members. Raises BadInput for a name that the set does not have.
    """
    by_name = {member.name: [member] for member in layout.members}
    for member in layout.members:
        by_name.setdefault(member.name.partition(".")[0], []).append(member)
    scalars = {column.name: column for column in layout.columns}
    _check(members or (), by_name, "member")
    _check(columns or (), scalars, "column")
    kept = layout.members if members is None else dict.fromkeys(member for name in members for member in by_name[name])
    if columns is None:
        return Layout(tuple(kept), layout.columns)
    presence = (column for column in layout.columns if is_presence(column))
    return Layout(tuple(kept), tuple(dict.fromkeys([*(scalars[name] for name in columns), *presence])))


def is_presence(column: Column) -> bool:
    """Whether a column says that a survey has the object."""
    return column.dtype == "bool" and column.name.startswith("has_")


def _check(names: Sequence[str], known: Collection[str], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise BadInput(f"the set has no {what} {unknown[0]!r}", hint=f"it has: {', '.join(sorted(known))}")


@dataclass(frozen=True)
class Choice:
    """What is taken of each sample of a set."""

    layout: Layout
    """What a sample holds."""
    wanted: Layout

    @cached_property
    def fixed(self) -> tuple[tuple[int, Member], ...]:
        """Members of a fixed shape that are wanted, with their place in a sample."""
        return tuple((self.layout.members.index(member), member) for member in self.wanted.members if not member.is_ragged)

    @cached_property
    def ragged(self) -> tuple[tuple[int, Member], ...]:
        """Ragged members that are wanted, with their place in a sample."""
        return tuple((self.layout.members.index(member), member) for member in self.wanted.members if member.is_ragged)

    def read(self, sample: Bytes) -> tuple[str, list[Bytes], list[Bytes], Mapping[str, Any]]:
        """Key, numbers of the fixed and of the ragged members, scalars. Raises BrokenArtefact if not as declared."""
        spans, span = self.layout.spans(sample)
        fixed = [fixed_numbers(sample, member, *spans[number]) for number, member in self.fixed]
        ragged = [ragged_numbers(sample, member, *spans[number]) for number, member in self.ragged]
        return key(sample), fixed, ragged, record(sample, *span)

    def sample(self, content: Bytes) -> dict[str, Any]:
        """A sample as a dict of its own arrays. Raises BrokenArtefact if it is not as declared."""
        name, fixed, ragged, scalars = self.read(content)
        found: dict[str, Any] = {"key": name, **dict.fromkeys(member.name for member in self.wanted.members)}
        for (_, member), numbers in zip((*self.fixed, *self.ragged), (*fixed, *ragged), strict=True):
            found[member.name] = member.values(numbers.copy(), scalars)
        return found | {column.name: scalars[column.name] for column in self.wanted.columns}

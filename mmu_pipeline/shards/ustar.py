"""The tar format of shards: member name and size -> a 512-byte ustar header and back. No clock, user, host, link or extension."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.fields import ENCODED, PICTURE, Array

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
NAME_BYTES = 100
SIZE = slice(124, 135)
"""Where a header has the size of its member, in octal."""
MEMBER_NAME = re.compile(rb"[A-Za-z0-9_-]+(\.[a-z][a-z0-9_]*){0,2}\.(npy|json|jpg)")
LARGEST_MEMBER = 8**11 - 1

_OWNER = b"0000444\x00" + 2 * b"0000000\x00"
_NEVER = b"00000000000\x00"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + 2 * b"0000000\x00" + bytes(167)
_NO_CHECKSUM = b" " * 8
_FIXED = sum(_OWNER) + sum(_NEVER) + sum(_NO_CHECKSUM) + sum(_AFTER_CHECKSUM)
"""What all but name and size add to the checksum of a header of ours."""
_OCTAL = re.compile(rb"[0-7]+")


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a tar."""

    name: str
    offset: int
    """Where its header starts."""
    nbytes: int

    @property
    def key(self) -> str:
        """Key of its sample."""
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """What it is in its sample: `survey.field.npy`, `survey.jpg` or `json`."""
        return self.name.partition(".")[2]

    @property
    def data(self) -> slice:
        """Where its content lies in the tar."""
        return slice(self.offset + BLOCK, self.offset + BLOCK + self.nbytes)

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.offset + BLOCK + self.nbytes + padding(self.nbytes)


@dataclass(frozen=True, slots=True)
class Stencil:
    """A member's header with the key left out, for all keys of one length: what varies is added by `lead`."""

    before: bytes
    """What follows the key, up to the checksum."""
    after: bytes
    """What follows the checksum, and the first bytes of the content where they are the same for all (a npy header)."""
    total: int
    """Sum of all bytes of the header except the key's."""
    nbytes: int
    """Size of the member."""
    tail: bytes
    """Zeros that fill its last block."""


def file_of(member: str) -> str:
    """The file of an array in a sample, its key left out: `survey.field.npy`, or `survey.jpg` as it is."""
    return member if member.endswith(f".{PICTURE}") else f"{member}.npy"


def member_of(file: str) -> str:
    """The array that a file of a sample holds: `survey.field`, or `survey.jpg`."""
    return file.removesuffix(".npy")


def padding(nbytes: int) -> int:
    """Bytes of zeros that fill the last block of a member."""
    return -nbytes % BLOCK


@lru_cache(maxsize=65_536)
def stencil(suffix: str, key_length: int, nbytes: int, first: bytes = b"") -> Stencil:
    """The stencil of the member `<key>.<suffix>` with `nbytes` of content, of which `first` is known.

    Raises BadInput if the name is too long for readers of plain ustar, or the content for its size field.
    """
    length = key_length + 1 + len(suffix)
    if length > NAME_BYTES:
        raise BadInput(
            f"a member name of {length} bytes is longer than the {NAME_BYTES} that every tar reader understands",
            member=f"<key of {key_length}>.{suffix}",
            hint="give the survey or the field a shorter name",
        )
    if not MEMBER_NAME.fullmatch(f"k.{suffix}".encode()):
        raise BadInput("not a member name", member=suffix, hint="survey.field.npy or survey.jpg in lower case, or json")
    if nbytes > LARGEST_MEMBER:
        raise BadInput(f"a member of {nbytes} bytes is larger than ustar allows", member=suffix, hint="split the field")
    name = f".{suffix}".encode().ljust(NAME_BYTES - key_length, b"\0")
    before = name + _OWNER + b"%011o\0" % nbytes + _NEVER
    total = sum(before) + sum(_NO_CHECKSUM) + sum(_AFTER_CHECKSUM)
    return Stencil(before, _AFTER_CHECKSUM + first, total, nbytes, bytes(padding(nbytes)))


@lru_cache(maxsize=65_536)
def array_stencil(member: str, key_length: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Stencil:
    """The stencil of a member for arrays of one dtype and shape, npy header included; that of a file for its bytes.

    That header is a multiple of 64 bytes, so the numbers start 64-byte aligned in the tar.
    """
    if dtype == ENCODED and file_of(member) == member:
        return stencil(member, key_length, shape[0])
    if dtype.kind not in "biuf" or dtype.str.startswith(">"):
        raise BadInput(f"arrays of dtype {dtype} cannot be written", member=member, hint="little-endian bool, int, uint or float")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    first = header.getvalue()
    return stencil(file_of(member), key_length, len(first) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, first)


def read_header(tar: memoryview, offset: int, file: str) -> Member | None:
    """The member whose header is at `offset`, None where the archive ends.

    Raises BrokenArtefact for anything but a plain file with a name of ours: other kinds of entries, names with a path,
    a wrong checksum, or content that the tar does not hold in full.
    """
    block = bytes(tar[offset : offset + BLOCK])
    if len(block) < BLOCK:
        raise BrokenArtefact("the tar ends within a header", file=file, offset=offset)
    if not any(block):
        if bytes(tar[offset:]) != END_OF_ARCHIVE:
            raise BrokenArtefact("the tar does not end with two blocks of zeros", file=file, offset=offset)
        return None
    name, size, checksum = block[:NAME_BYTES].rstrip(b"\0"), block[SIZE], block[148:154]
    plain = block[100:124] == _OWNER and block[136:148] == _NEVER and block[156:] == _AFTER_CHECKSUM
    total = _FIXED + sum(name) + sum(block[124:136]) if plain else sum(block) - sum(block[148:156]) + sum(_NO_CHECKSUM)
    if not (_OCTAL.fullmatch(size) and _OCTAL.fullmatch(checksum)) or int(checksum, 8) != total:
        raise BrokenArtefact("the checksum of a tar header does not fit", file=file, offset=offset)
    if not MEMBER_NAME.fullmatch(name):
        raise BrokenArtefact("not the name of a sample's member", file=file, offset=offset, name=name.decode(errors="replace"))
    if not plain:
        raise BrokenArtefact("not a plain ustar header without clock and owner", file=file, offset=offset, name=name.decode())
    member = Member(name.decode(), offset, int(size, 8))
    if member.end > len(tar):
        raise BrokenArtefact("the tar ends within a member", file=file, offset=offset, name=member.name)
    return member


def read_array(content: memoryview, name: str) -> Array:
    """The array of a member that shares its memory; of a JPEG its bytes, dtype ENCODED. Raises BrokenArtefact as read_npy."""
    return np.frombuffer(content, ENCODED) if name.endswith(f".{PICTURE}") else read_npy(content, name)


def read_npy(content: memoryview, name: str) -> Array:
    """A npy file as an array that shares its memory. Raises BrokenArtefact if it is not a plain npy of version 1."""
    length = 10 + int.from_bytes(content[8:10], "little")
    try:
        dtype, shape = _read_npy_header(bytes(content[:length]))
        return np.frombuffer(content[length:], dtype).reshape(shape)
    except ValueError as error:
        raise BrokenArtefact("not a npy array as this pipeline writes it", name=name, reason=str(error)) from error


@lru_cache(maxsize=4096)
def _read_npy_header(header: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """dtype and shape; kept, since the arrays of one member differ in nothing else. Raises ValueError."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the npy format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject:
        raise ValueError("not in C order, or holds Python objects")
    return dtype, shape

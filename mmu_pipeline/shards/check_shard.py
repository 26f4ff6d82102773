"""One shard against the manifest and its rows of the index -> problems: size, digest, tar format, and every sample in it."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.fields import Array
from mmu_pipeline.jpeg import size_of
from mmu_pipeline.shards.manifest import shards_in
from mmu_pipeline.shards.rows import ROW_COLUMNS
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.side_files import dali_index, dali_index_path, tar_index, tar_index_path
from mmu_pipeline.shards.tar import iterate, read_sample
from mmu_pipeline.shards.ustar import BLOCK, Member, file_of
from mmu_pipeline.storage import Root

NULL = type(None)
JSON_TYPES: Mapping[str, frozenset[type]] = {
    "s": frozenset({str, NULL}), "b": frozenset({bool, NULL}), "i": frozenset({int, NULL}), "u": frozenset({int, NULL}),
    "f": frozenset({float, int, NULL}),
}  # fmt: skip
"""First letter of a scalar's type -> what JSON may give for it."""


def shard_problems(root: Root, said: Mapping[str, Any], manifest: Mapping[str, Any], rows: pa.Table | None) -> Iterator[str]:
    """What is wrong with the shard of the set at `root` of which the manifest says `said`.

    `rows` are its rows of the index, in any order, with ROW_COLUMNS; None if the index cannot be read. A remote shard is
    fetched to a temporary file first.
    """
    name = said["name"]
    size = root.size(name)
    if size is None:
        yield f"{name}: is missing"
        return
    if size != said["nbytes"]:
        yield f"{name}: has {size} bytes, the manifest says {said['nbytes']}"
    if size == 0:
        return
    with _mapped(root, name) as tar:
        digest = xxhash.xxh3_128_hexdigest(tar)
        if digest != said["digest"]:
            owner = next((shard["name"] for shard in shards_in(manifest) if shard["digest"] == digest), None)
            yield f"{name}: holds the content of {owner}" if owner else f"{name}: its digest is not that of the manifest"
        if "sha256" in said and hashlib.sha256(tar).hexdigest() != said["sha256"]:
            yield f"{name}: its SHA-256 is not that of the manifest"
        yield from _sample_problems(tar, name, manifest, said["samples"], rows)


@contextmanager
def _mapped(root: Root, name: str) -> Iterator[memoryview]:
    """The bytes of a file, without holding them in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(root.path(name))
        if not root.is_local:
            path = Path(folder, name)
            root.fs.get_file(root.path(name), str(path))
        with path.open("rb") as file:  # the mapping ends with its last view, which may outlive the block for a moment
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _sample_problems(tar: memoryview, name: str, manifest: Mapping[str, Any], count: int, rows: pa.Table | None) -> Iterator[str]:
    listed = rows.sort_by("offset").select(list(ROW_COLUMNS)).to_pylist() if rows is not None else None
    members = [*(file_of(member["name"]) for member in manifest["members"]), "json"]
    found = 0
    try:
        for found, sample in enumerate(iterate(tar, name), 1):
            key = sample[0].key
            if [member.field for member in sample] != members:
                yield f"{name}: {key}: does not have the members that the manifest lists"
            elif listed is None or found > len(listed):
                yield from (f"{name}: {key}: {problem}" for problem in _content_problems(tar, sample, manifest))
            else:
                problem = _place_problem(tar, sample, listed[found - 1])
                problems = [problem] if problem else _content_problems(tar, sample, manifest)
                yield from (f"{name}: {key}: {problem}" for problem in problems)
    except BrokenArtefact as error:
        place = f" at byte {error.where['offset']}" if "offset" in error.where else ""
        after = f", after {found} samples" if found else ""
        yield f"{name}: {error.what}{place}{after}"
    if found != count:
        yield f"{name}: has {found} samples, the manifest says {count}"


def _place_problem(tar: memoryview, sample: Sequence[Member], row: Mapping[str, Any]) -> str:
    """The first way in which a sample is not what its row of the index says, or nothing."""
    start, end = sample[0].offset, sample[-1].end
    if sample[0].key != row["key"]:
        return f"stands where the index has {row['key']}"
    if (start, end - start) != (row["offset"], row["nbytes"]):
        return f"lies at {start} with {end - start} bytes, the index says {row['offset']} with {row['nbytes']}"
    if [(m.offset + BLOCK - start, m.nbytes) for m in sample] != list(
        zip(row["member_offset"], row["member_nbytes"], strict=True)
    ):
        return "its members do not lie where the index says"
    if xxhash.xxh3_64_intdigest(tar[start:end]) != row["digest"]:
        return "its bytes have changed: their digest is not that of the index"
    return ""


def _content_problems(tar: memoryview, members: Sequence[Member], manifest: Mapping[str, Any]) -> list[str]:
    """Arrays and scalars of a sample that are not of the declared name, type or shape."""
    try:
        sample = read_sample(tar, members)
    except BrokenArtefact as error:
        return [f"{error.where.get('name', '')}: {error.what}"]
    return [*_array_problems(sample, manifest["members"]), *_record_problems(sample, manifest["scalars"])]


def _array_problems(sample: Sample, declared: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lengths: dict[tuple[str, str], int] = {}
    for member in declared:
        array, shape = sample.arrays[member["name"]], member["shape"]
        if member["dtype"] == "jpeg":
            yield from _picture_problems(array, member)
            continue
        if array.dtype != np.dtype(member["dtype"]).newbyteorder("<"):
            yield f"{member['name']}: is {array.dtype.name}, declared {member['dtype']}"
        fixed = [size if isinstance(size, int) else length for size, length in zip(shape, array.shape, strict=False)]
        if array.ndim != len(shape) or list(array.shape) != fixed:
            yield f"{member['name']}: has the shape {array.shape}, declared {tuple(shape)}"
            continue
        for size, length in zip(shape, array.shape, strict=True):
            if isinstance(size, str) and lengths.setdefault((member["survey"], size), length) != length:
                yield f"{member['name']}: {size} is {length}, in another array {lengths[member['survey'], size]}"


def _picture_problems(content: Array, member: Mapping[str, Any]) -> Iterator[str]:
    try:
        size = size_of(content.tobytes())
    except ValueError as error:
        yield f"{member['name']}: {error}"
        return
    if size != tuple(member["shape"]):
        yield f"{member['name']}: has the size {size}, declared {tuple(member['shape'])}"


def _record_problems(sample: Sample, declared: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if list(sample.record) != [scalar["name"] for scalar in declared]:
        yield "its JSON does not have the keys that the manifest lists"
        return
    for scalar in declared:
        value, kinds = sample.record[scalar["name"]], JSON_TYPES[scalar["dtype"][0]]
        if "length" not in scalar:
            if type(value) not in kinds:
                yield f"{scalar['name']}: {value!r} is not {scalar['dtype']}"
        elif value is not None:
            if not isinstance(value, list) or len(value) != scalar["length"]:
                yield f"{scalar['name']}: is not a list of the declared length"
            elif not kinds.issuperset(map(type, value)):
                yield f"{scalar['name']}: {value!r} is not {scalar['dtype']}"


def tar_index_problems(root: Root, name: str, manifest: Mapping[str, Any], rows: pa.Table) -> Iterator[str]:
    """What is wrong with the indexes of a shard for energon and DALI, given the shard's rows of the set's index."""
    ordered = rows.sort_by("offset")
    ends = [ordered["offset"][-1].as_py() + ordered["nbytes"][-1].as_py()] if len(ordered) else [0]
    starts = pa.chunked_array([*ordered["offset"].chunks, pa.array(ends)]).to_numpy()
    members = [member["name"] for member in manifest["members"]]
    for path, content in (
        (tar_index_path(name), tar_index(starts)),
        (dali_index_path(name), dali_index(ordered, members)),
    ):
        if root.size(path) is None:
            yield f"{path}: is missing"
        elif root.read_bytes(path) != content:
            yield f"{path}: does not say where the samples of {name} lie"

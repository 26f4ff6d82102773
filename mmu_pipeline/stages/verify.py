"""A published set -> what is wrong with it: every byte, offset, digest, name, type and split against its own manifest and index."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.manifest import FORMAT_VERSION, MANIFEST_PATH
from mmu_pipeline.shards.splits import SPLITS, near_other_split, split_of
from mmu_pipeline.sky import healpix29, pixels_at
from mmu_pipeline.storage import Root

LATEST = "LATEST"
SHARD_COLUMNS = ["key", "shard", "offset", "nbytes", "digest", "member_offset", "member_nbytes"]
SAMPLES_AT_A_TIME = 2_000_000
"""Rows of the index held at a time; shards are checked in groups of so many samples."""
SHOWN = 5
"""Problems of one kind of thing that are spelled out; the others are counted."""
JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "float": (int, float),
    "int": (int,),
    "uint": (int,),
}


@dataclass(frozen=True)
class Verification:
    """What a check found."""

    url: str
    version: str
    shards: int
    samples: int
    nbytes: int
    problems: tuple[str, ...]
    """Each names a file, and a key where one sample is meant. None: all is as the manifest says."""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(url: str, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Check a set of shards from the outside. `url` is the folder of a version, or of a recipe: then its LATEST is checked.

    `progress` is called with the shards done and the number of all. One shard and two million rows of the index are held at
    a time. Raises BadInput if there is no set.
    """
    root = _open_set(url)
    manifest = root.read_json(MANIFEST_PATH)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BadInput("the set has another format version", file=root.path(MANIFEST_PATH), found=manifest.get("format_version"),
                       hint="check it with the release that made it")  # fmt: skip
    shards = [shard | {"split": split} for split, part in manifest["splits"].items() for shard in part["shards"]]
    problems = [*_check_folder(root, manifest, shards), *_shown(_check_index(root, manifest, shards))]
    done = 0
    for group in _groups(shards):
        rows = _rows_of(root, [shard["name"] for shard in group])
        for shard in group:
            here = rows.filter(pc.equal(rows["shard"], shard["name"])).sort_by("offset") if rows is not None else None
            problems += _shown(_check_shard(root, shard, here, manifest, shards))
            done += 1
            if progress is not None:
                progress(done, len(shards))
    problems += _check_side_files(root, manifest)
    totals = (sum(shard[what] for shard in shards) for what in ("samples", "nbytes"))
    return Verification(root.url, manifest["version"], len(shards), *totals, tuple(problems))


def _open_set(url: str) -> Root:
    folder = Root(url.rstrip("/"))
    if folder.exists(LATEST):
        folder = Root(f"{folder.url}/{folder.read_bytes(LATEST).decode().strip()}")
    if not folder.exists(MANIFEST_PATH):
        raise BadInput("there is no set of shards here", folder=folder.url, hint=f"name a folder that holds {MANIFEST_PATH}")
    return folder


def _shown(problems: Iterable[str]) -> list[str]:
    """The first few problems, and how many more there are."""
    found = list(problems)
    more = [f"{found[0].split(':')[0]}: and {len(found) - SHOWN} more problems"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def _check_folder(root: Root, manifest: Mapping[str, Any], shards: list[dict[str, Any]]) -> Iterator[str]:
    parent, _, name = root.url.rpartition("/")
    if re.fullmatch(r"[0-9a-f]{12}", name) and name != manifest["version"]:
        yield f"{MANIFEST_PATH}: is of version {manifest['version']}, but lies in the folder of {name}"
    recipe = Root(parent)
    if recipe.exists(LATEST) and not recipe.exists(f"{(latest := recipe.read_bytes(LATEST).decode().strip())}/{MANIFEST_PATH}"):
        yield f"../{LATEST}: names the version {latest!r}, which is not there"
    for split, part in manifest["splits"].items():
        counts = [shard["samples"] for shard in part["shards"]]
        if sum(counts) != part["samples"] or (counts and max(counts) - min(counts) > 1):
            yield f"{MANIFEST_PATH}: the shards of {split} are not of equal size, or do not add up to {part['samples']} samples"
    known = {shard["name"] for shard in shards}
    for path in sorted(root.fs.glob(root.path("*.tar"))):
        if (tar := path.rsplit("/", 1)[-1]) not in known:
            yield f"{tar}: is not a shard of this version"


def _check_index(root: Root, manifest: Mapping[str, Any], shards: list[dict[str, Any]]) -> Iterator[str]:
    """The index as a whole: its bytes, order, positions, splits and guard, counts, digests, keys."""
    try:
        with root.fs.open(root.path(INDEX_PATH), "rb") as file:
            digest = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        if digest != manifest["index"]["digest"]:
            yield f"{INDEX_PATH}: is not the index of version {manifest['version']}: its digest differs"
        index = pq.ParquetFile(root.path(INDEX_PATH), filesystem=root.fs)
    except (OSError, pa.ArrowInvalid) as error:
        yield f"{INDEX_PATH}: cannot be read: {str(error).splitlines()[0]}"
        return
    wanted = {"_healpix_29", "ra", "dec", "split", *SHARD_COLUMNS, *(scalar["name"] for scalar in manifest["scalars"])}
    if missing := sorted(wanted - set(index.schema_arrow.names)):
        yield f"{INDEX_PATH}: lacks the columns {', '.join(missing)}"
        return
    rule = SplitRule.model_validate(manifest["recipe"]["split"])
    split_of_shard = {shard["name"]: shard["split"] for shard in shards}
    per_shard: Counter[str] = Counter()
    splits_of_cell: dict[int, str] = {}
    hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
    total, last = 0, -1
    for batch in index.iter_batches(columns=["key", "_healpix_29", "ra", "dec", "split", "shard", "digest"]):
        keys, splits = batch["key"].to_pylist(), batch["split"].to_pylist()
        pixel, ra, dec = (batch[name].to_numpy() for name in ("_healpix_29", "ra", "dec"))
        if np.any(np.diff(pixel, prepend=last) < 0):
            yield f"{INDEX_PATH}: rows are not in sky order"
        last = int(pixel[-1])
        names = np.array(SPLITS)[split_of(pixel, rule)]
        yield from (f"{INDEX_PATH}: {keys[row]}: is in {splits[row]}, its sky belongs to {names[row]}" for row in np.flatnonzero(names != np.array(splits)))  # fmt: skip
        yield from (f"{INDEX_PATH}: {keys[row]}: _healpix_29 is not that of its position" for row in np.flatnonzero(healpix29(ra, dec) != pixel))  # fmt: skip
        yield from (f"{INDEX_PATH}: {keys[row]}: lies within {rule.guard_arcsec:g} arcsec of another split" for row in np.flatnonzero(near_other_split(ra, dec, rule)))  # fmt: skip
        for cell, split in sorted(set(zip(pixels_at(pixel, rule.order).tolist(), splits, strict=True))):
            if splits_of_cell.setdefault(cell, split) != split:
                yield f"{INDEX_PATH}: cell {cell} of order {rule.order} is in both {splits_of_cell[cell]} and {split}"
        for (shard, split), count in Counter(zip(batch["shard"].to_pylist(), splits, strict=True)).items():
            per_shard[shard] += count
            if split_of_shard.get(shard, split) != split:
                yield f"{INDEX_PATH}: {count} samples of {split} are in {shard}"
        total += sum(int.from_bytes(digest, "big") for digest in batch["digest"].to_pylist())
        hashes.append(np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64))
    for shard in sorted(per_shard.keys() | split_of_shard.keys()):
        counted = {entry["name"]: entry["samples"] for entry in shards}.get(shard, 0)
        if per_shard[shard] != counted:
            yield f"{INDEX_PATH}: has {per_shard[shard]} samples of {shard}, the manifest {counted}"
    if f"{total % 2**128:032x}" != manifest["set_digest"]:
        yield f"{INDEX_PATH}: the digests of the samples do not add up to the set's"
    yield from _check_keys(index, np.concatenate(hashes) if hashes else np.zeros(0, np.uint64))

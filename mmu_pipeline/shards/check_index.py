"""The index of a set against its manifest -> problems: its bytes, order, positions, splits and guard, counts, digests, keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.shards.index import DIGESTS, INDEX_PATH, PLACE, POSITION, digest_sum
from mmu_pipeline.shards.rows import PLACE_COLUMNS, place_sum
from mmu_pipeline.shards.sky_catalog import CATALOG
from mmu_pipeline.shards.splits import SPLITS, near_other_split, split_of
from mmu_pipeline.shards.tar import WRITTEN
from mmu_pipeline.sky import healpix29, is_position, pixels_at
from mmu_pipeline.storage import Root

CHECKED = ["key", "_healpix_29", "ra", "dec", "split", "shard", "repeat", *PLACE_COLUMNS]


def index_problems(root: Root, manifest: Mapping[str, Any], places: dict[str, int]) -> Iterator[str]:
    """What is wrong with the index of the set at `root`. Streams over it; holds 8 bytes a sample, to find repeated keys.

    Adds to `places` the `place_sum` of the rows of each shard.
    """
    try:
        if root.digest_of(INDEX_PATH) != manifest["index"]["digest"]:
            yield f"{INDEX_PATH}: is not the index that belongs to version {manifest['version']}: its digest differs"
        with root.fs.open(root.path(INDEX_PATH), "rb") as file:
            index = pq.ParquetFile(file)
            wanted = [field.name for field in (*WRITTEN, *POSITION, *PLACE)] + [scalar["name"] for scalar in manifest["scalars"]]
            if missing := sorted(set(wanted) - set(index.schema_arrow.names)):
                yield f"{INDEX_PATH}: lacks the columns {', '.join(missing)}"
                return
            yield from _content_problems(index, manifest, places)
    except (OSError, pa.ArrowException) as error:
        yield f"{INDEX_PATH}: cannot be read: {str(error).splitlines()[0]}"


def _content_problems(index: pq.ParquetFile, manifest: Mapping[str, Any], places: dict[str, int]) -> Iterator[str]:
    rule = SplitRule.model_validate(manifest["recipe"]["split"])
    counts: Counter[tuple[str, str]] = Counter()
    splits_of_cell: dict[int, set[str]] = {}
    hashes = [np.zeros(0, np.uint64)]
    total, last, repeats = 0, 0, 0
    for batch in index.iter_batches(columns=CHECKED):
        pixels, splits = batch["_healpix_29"].to_numpy(), batch["split"].to_pylist()
        if np.any(np.diff(pixels, prepend=last) < 0):
            yield f"{INDEX_PATH}: the rows are not in sky order"
        last = int(pixels[-1]) if len(pixels) else last
        yield from _row_problems(batch, rule)
        for cell, split in set(zip(pixels_at(pixels, rule.order).tolist(), splits, strict=True)):
            splits_of_cell.setdefault(cell, set()).add(split)
        counts.update(zip(batch["shard"].to_pylist(), splits, strict=True))
        once = batch.filter(pc.invert(batch["repeat"]))
        repeats += len(batch) - len(once)
        total += digest_sum(once["digest"])
        _add_places(batch, places)
        hashes.append(_hashes(once["key"]))
    for cell, found in sorted(splits_of_cell.items()):
        if len(found) > 1:
            yield f"{INDEX_PATH}: the cell {cell} of order {rule.order} is in {' and '.join(sorted(found))}"
    yield from _count_problems(counts, manifest)
    if f"{total % DIGESTS:016x}" != manifest["set_digest"]:
        yield f"{INDEX_PATH}: the digests of the samples do not add up to that of the set"
    if repeats != manifest["repeats"]:
        yield f"{INDEX_PATH}: flags {repeats} samples as repeats, the manifest says {manifest['repeats']}"
    yield from _repeated_keys(index, np.concatenate(hashes))


def _add_places(batch: pa.RecordBatch, places: dict[str, int]) -> None:
    order = np.argsort(pc.rank(batch["shard"], tiebreaker="dense").to_numpy(), kind="stable")
    ordered = batch.take(pa.array(order))
    names = ordered["shard"].to_pylist()
    starts = [row for row, name in enumerate(names) if row == 0 or name != names[row - 1]]
    for start, stop in zip(starts, [*starts[1:], len(names)], strict=True):
        places[names[start]] = (places.get(names[start], 0) + place_sum(ordered.slice(start, stop - start))) % DIGESTS


def catalog_problems(root: Root, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Files of the catalog of the index that are missing or not those of this version."""
    said = manifest["index"]["catalog"]
    digests = {path: facts["digest"] for path, facts in said.items()} | manifest["index"].get("metadata", {})
    for path, digest in digests.items():
        try:
            if root.digest_of(path) != digest:
                yield f"{path}: its digest is not that of the manifest"
        except FileNotFoundError:
            yield f"{path}: is missing"
    if sum(facts["samples"] for facts in said.values()) != manifest["samples"]:
        yield f"{CATALOG}: its partitions do not hold as many rows as the set has samples"


def _row_problems(batch: pa.RecordBatch, rule: SplitRule) -> Iterator[str]:
    """What is wrong with single rows: a position that is none or not that of its pixel, a split that is not that of its sky."""
    keys, splits = batch["key"].to_pylist(), batch["split"].to_pylist()
    pixels, ra, dec = (batch[name].to_numpy() for name in ("_healpix_29", "ra", "dec"))
    placed = is_position(ra, dec)
    yield from (f"{INDEX_PATH}: {keys[row]}: its position is not on the sky" for row in np.flatnonzero(~placed))
    ra, dec = np.where(placed, ra, 0.0), np.where(placed, dec, 0.0)
    moved = placed & (healpix29(ra, dec) != pixels)
    yield from (f"{INDEX_PATH}: {keys[row]}: its position is not in its pixel" for row in np.flatnonzero(moved))
    owners = np.array(SPLITS)[split_of(pixels, rule)]
    for row in np.flatnonzero(owners != np.array(splits)):
        yield f"{INDEX_PATH}: {keys[row]}: is in {splits[row]}, but its sky belongs to {owners[row]}"
    for row in np.flatnonzero(near_other_split(ra, dec, rule) & placed):
        yield f"{INDEX_PATH}: {keys[row]}: lies within {rule.guard_arcsec:g} arcsec of another split"


def _count_problems(counts: Counter[tuple[str, str]], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Samples per shard and split, as the index has them and as the manifest says."""
    said = {(shard["name"], split): shard["samples"] for split, part in manifest["splits"].items() for shard in part["shards"]}
    for shard, split in sorted(said.keys() | counts.keys()):
        if counts[shard, split] != said.get((shard, split), 0):
            wanted = said.get((shard, split), 0)
            yield f"{INDEX_PATH}: has {counts[shard, split]} samples of {split} in {shard}, the manifest {wanted}"


def _hashes(keys: pa.Array) -> npt.NDArray[np.uint64]:
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys.to_pylist()), np.uint64, len(keys))


def _repeated_keys(index: pq.ParquetFile, hashes: npt.NDArray[np.uint64]) -> Iterator[str]:
    hashes.sort()
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(suspects):
        return
    batches = (batch.filter(pc.invert(batch["repeat"]))["key"] for batch in index.iter_batches(columns=["key", "repeat"]))
    among = (keys.filter(pa.array(np.isin(_hashes(keys), suspects))).to_pylist() for keys in batches)
    for key, times in Counter(chain.from_iterable(among)).items():
        if times > 1:
            yield f"{INDEX_PATH}: {key}: the key stands {times} times"

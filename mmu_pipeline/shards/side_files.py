"""The manifest of a set and the plan of its shards -> the small files that other readers want beside the tars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from mmu_pipeline.shards.splits import SPLITS
from mmu_pipeline.shards.ustar import file_of
from mmu_pipeline.sky import Int

CHECKSUMS = "SHA256SUMS"
ENERGON_SPLITS = {"train": "train", "validation": "val", "test": "test"}
"""Our splits -> energon's names of them."""


def side_files(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Path in the set's folder -> content, for the set as a whole."""
    splits = {name: manifest["splits"][name]["shards"] for name in SPLITS if manifest["splits"][name]["shards"]}
    every = [shard for shards in splits.values() for shard in shards]
    return (
        _energon(splits)
        | {f"{name}.wids.json": _wids(manifest, name, shards) for name, shards in splits.items()}
        | {"sizes.json": _json({shard["name"]: shard["samples"] for shard in every})}
        | _checksums(every)
    )


def tar_index_path(shard: str) -> str:
    """Where energon looks for the index of a shard."""
    return f"{shard}.idx"


def tar_index(sample_offsets: Int) -> bytes:
    """energon's index of a tar: where each sample starts and where the last one ends, as little-endian uint64."""
    return np.ascontiguousarray(sample_offsets, "<u8").tobytes()


def dali_index_path(shard: str) -> str:
    """Where DALI's `wds2idx` puts the index of a shard."""
    return f"{shard.removesuffix('.tar')}.idx"


def dali_index(rows: pa.Table, members: Sequence[str]) -> bytes:
    """DALI's index of a tar, version 1.2: for each sample the extension, place, size and name of every member.

    `rows` are the shard's rows of the set's index, `members` the names of the arrays.
    """
    fields = [*map(file_of, members), "json"]
    ordered = rows.sort_by("offset")
    keys, offset = ordered["key"].to_pylist(), ordered["offset"].to_numpy()
    relative, sizes = (
        pc.list_flatten(ordered[name]).to_numpy().reshape(-1, len(fields)) for name in ("member_offset", "member_nbytes")
    )
    starts = relative + offset[:, None]
    columns = [(starts[:, place].tolist(), sizes[:, place].tolist(), keys) for place in range(len(fields))]
    line = " ".join(f"{field} %d %d %s.{field}" for field in fields)
    lines = map(line.__mod__, zip(*chain.from_iterable(columns), strict=True))
    return ("\n".join([f"v1.2 {len(ordered)}", *lines]) + "\n").encode()


def _checksums(shards: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """SHA256SUMS as `sha256sum --check` reads it, if sums were asked for."""
    lines = [f"{shard['sha256']}  {shard['name']}\n" for shard in shards if "sha256" in shard]
    return {CHECKSUMS: "".join(lines).encode()} if lines else {}


def _energon(splits: Mapping[str, list[dict[str, Any]]]) -> dict[str, bytes]:
    """What `energon prepare` would write, but for its SQLite index, which only random access needs."""
    counts = {shard["name"]: shard["samples"] for shards in splits.values() for shard in shards}
    parts = {other: [shard["name"] for shard in splits.get(ours, [])] for ours, other in ENERGON_SPLITS.items()}
    dataset = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    return {
        ".nv-meta/.info.json": _json({"shard_counts": counts}),
        ".nv-meta/split.yaml": yaml.safe_dump({"split_parts": parts, "exclude": []}, sort_keys=False).encode(),
        ".nv-meta/dataset.yaml": yaml.safe_dump(dataset, sort_keys=False).encode(),
    }


def _wids(manifest: Mapping[str, Any], split: str, shards: list[dict[str, Any]]) -> bytes:
    listed = [{"url": shard["name"], "nsamples": shard["samples"], "filesize": shard["nbytes"]} for shard in shards]
    return _json({"wids_version": 1, "name": f"{manifest['name']}-{manifest['version']}-{split}", "shardlist": listed})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()

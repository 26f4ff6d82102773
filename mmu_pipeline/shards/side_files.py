"""The manifest of a set and the plan of its shards -> the small files that energon and wids want beside the tars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from mmu_pipeline.shards.splits import SPLITS
from mmu_pipeline.sky import Int

ENERGON_SPLITS = {"train": "train", "validation": "val", "test": "test"}
"""Our splits -> energon's names of them."""


def side_files(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Path in the set's folder -> content, for the set as a whole."""
    splits = {name: manifest["splits"][name]["shards"] for name in SPLITS if manifest["splits"][name]["shards"]}
    return _energon(splits) | {f"{name}.wids.json": _wids(manifest, name, shards) for name, shards in splits.items()}


def tar_index_path(shard: str) -> str:
    """Where energon looks for the index of a shard."""
    return f"{shard}.idx"


def tar_index(sample_offsets: Int) -> bytes:
    """energon's index of a tar: where each sample starts and where the last one ends, as little-endian uint64."""
    return np.ascontiguousarray(sample_offsets, "<u8").tobytes()


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

"""Shards and index of a version, written aside -> a set that readers can open: checked from the outside, then in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.shards.card import CARD_PATH, card_of
from mmu_pipeline.shards.manifest import MANIFEST_PATH, ShardFile
from mmu_pipeline.shards.plan import ShardPlan
from mmu_pipeline.shards.rows import rows_by_shard
from mmu_pipeline.shards.side_files import dali_index, dali_index_path, side_files, tar_index, tar_index_path
from mmu_pipeline.stages.verify import verify
from mmu_pipeline.storage import Root


def shard_files(root: Root, aside: str, plan: ShardPlan, digests: Sequence[str], sha256: bool) -> list[ShardFile]:
    """The shards of a plan as they lie in the folder `aside`, with the digests that their writers gave, and SHA-256 if asked."""
    return [
        ShardFile(name, plan.splits[number], len(plan.samples(number)), root.size(f"{aside}/{name}") or 0, digests[number],
                  _sha256(root, f"{aside}/{name}") if sha256 else "")
        for number, name in enumerate(plan.names)
    ]  # fmt: skip


def _sha256(root: Root, path: str) -> str:
    with root.fs.open(root.path(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(root: Root, aside: str, target: str, plan: ShardPlan, manifest: dict[str, Any]) -> None:
    """Write what is missing beside the shards and index in `aside`, check the whole and move it to `target` in one step.

    Raises BrokenArtefact if the check finds a problem: then nothing is published.
    """
    for number, name in enumerate(plan.names):
        root.write_bytes(f"{aside}/{tar_index_path(name)}", tar_index(plan.sample_offsets(number)))
    members = [member["name"] for member in manifest["members"]]
    for name, rows in rows_by_shard(root.at(aside), manifest):
        root.write_bytes(f"{aside}/{dali_index_path(name)}", dali_index(rows, members))
    for path, content in side_files(manifest).items():
        root.write_bytes(f"{aside}/{path}", content)
    root.write_bytes(f"{aside}/{CARD_PATH}", card_of(manifest).encode())
    root.write_json(f"{aside}/{MANIFEST_PATH}", manifest)
    found = verify(root.at(aside).url)
    if found.problems:
        raise BrokenArtefact("the new version does not pass its check, and is not published", folder=root.at(aside).url,
                             problems="; ".join(found.problems[:5]), hint="remove that folder and run again")  # fmt: skip
    root.move(aside, target, last=MANIFEST_PATH)


def point_to(root: Root, latest: str, version: str) -> None:
    """Let the file `latest` name the version that readers should take."""
    if not root.exists(latest) or root.read_bytes(latest).decode().strip() != version:
        root.write_bytes(latest, f"{version}\n".encode())

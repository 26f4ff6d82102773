"""Shards of a version, written aside -> a set that readers can open: index, card and side files, checked, then in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.shards.card import CARD_PATH, card_of
from mmu_pipeline.shards.manifest import MANIFEST_PATH, ShardFile, facts_of_set
from mmu_pipeline.shards.merge import write_index
from mmu_pipeline.shards.side_files import side_files
from mmu_pipeline.shards.sky_catalog import METADATA, write_catalog
from mmu_pipeline.stages.build import Deal, in_turn
from mmu_pipeline.stages.verify import verify
from mmu_pipeline.storage import Root


def set_facts(root: Root, aside: str, name: str, version: str, shards: Sequence[ShardFile]) -> dict[str, Any]:
    """Write the index of the shards in `aside`, and its catalog; the part of the manifest that tells of files."""
    index = write_index(root, aside, [shard.name for shard in shards])
    catalog = write_catalog(root, aside, name)
    files = {part.path.removeprefix(f"{aside}/"): {"samples": part.rows, "digest": part.digest} for part in catalog}
    metadata = {path: root.digest_of(f"{aside}/{path}") for path in METADATA}
    return facts_of_set(version, shards, index, files, metadata)


def seal(root: Root, aside: str, target: str, manifest: dict[str, Any], deal: Deal = in_turn) -> None:
    """Write what is missing beside the shards and index in `aside`, check the whole and move it to `target` in one step.

    `deal` runs the checks of single shards. Raises BrokenArtefact if one finds a problem: then nothing is published.
    """
    for path, content in side_files(manifest).items():
        root.write_bytes(f"{aside}/{path}", content)
    root.write_bytes(f"{aside}/{CARD_PATH}", card_of(manifest).encode())
    root.write_json(f"{aside}/{MANIFEST_PATH}", manifest)
    found = verify(root.at(aside).url, deal=deal, receipts=root)
    if found.problems:
        raise BrokenArtefact("the new version does not pass its check, and is not published", folder=root.at(aside).url,
                             problems="; ".join(found.problems[:5]), hint="remove that folder and run again")  # fmt: skip
    root.remove(target, recursive=True)  # what a removal left that was broken off: the manifest goes first
    root.move(aside, target, last=MANIFEST_PATH)


def point_to(root: Root, latest: str, version: str) -> None:
    """Let the file `latest` name the version that readers should take."""
    if not root.exists(latest) or root.read_bytes(latest).decode().strip() != version:
        root.write_bytes(latest, f"{version}\n".encode())

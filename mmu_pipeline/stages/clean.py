"""A folder of versions and a policy -> what is old enough to go, what stays and why; and its removal.

Of published versions the newest stay, and each younger than some days. Whatever the policy, the version that LATEST names stays,
one that is being read, and everything while a run writes there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Key

from mmu_pipeline.errors import BadInput
from mmu_pipeline.leases import readers, store_clock, writer, writing_alone
from mmu_pipeline.shards.manifest import MANIFEST_PATH
from mmu_pipeline.shards.opened import LATEST
from mmu_pipeline.stages.cache import copies, remove_unused
from mmu_pipeline.storage import READERS, WRITERS, Root, writers_folder

DAY_S = 86_400.0
UNFINISHED = re.compile(r"\.[0-9a-f]{12}\.(partial|work)")
Kind = Literal["version", "unfinished", "samples", "source file"]


class CleanPolicy(BaseModel):
    """What may go: what is both beyond the newest versions and old."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    keep_versions: int = Key(default=3, ge=1)
    """Newest published versions of each set that stay, the latest one among them."""
    older_than_days: float = Key(default=14.0, ge=0)
    """What is younger stays: give readers that nobody knows of the time to end."""


@dataclass(frozen=True)
class Found:
    """Something that takes room, and what becomes of it."""

    kind: Kind
    path: str
    age_days: float
    nbytes: int
    kept: str = ""
    """Why it stays; empty: it goes, or went."""


def clean_root(root: Root, policy: CleanPolicy, recipes: Sequence[str] | None = None, dry_run: bool = False) -> list[Found]:
    """Clean the versions and kept samples of some recipes of a root, None: of all. Raises BadInput for one that is not there."""
    there = [name for name in _names(root, "shards") if not name.startswith(".")]
    if unknown := sorted(set(recipes or ()) - set(there)):
        raise BadInput(f"the root holds no recipe {', '.join(unknown)}", root=root.url, hint=f"it holds: {', '.join(there)}")
    found: list[Found] = []
    for recipe in recipes or there:
        found += clean_sets(root.at(f"shards/{recipe}"), policy, dry_run)
        found += clean_samples(root, recipe, policy, dry_run)
    return found


def clean_sets(folder: Root, policy: CleanPolicy, dry_run: bool = False) -> list[Found]:
    """Remove old versions, and what broken-off runs left, from the folder that holds the versions of a set. Newest first.

    `dry_run` says what would go and removes nothing. Where a run writes, everything stays.
    """
    busy = writer(folder, WRITERS) is not None
    if dry_run or busy:
        return [replace(item, kept=item.kept or "a run writes here" * busy) for item in _judged(folder, policy)]
    with writing_alone(folder, WRITERS, "versions of this set") as still_ours:
        found = _judged(folder, policy)
        for item in found:
            if not item.kept:
                still_ours()
                name = item.path.rsplit("/", 1)[-1]
                folder.remove(f"{name}/{MANIFEST_PATH}")  # first: nobody opens half a version
                folder.remove(name, recursive=True)
    return found


def clean_samples(root: Root, recipe: str, policy: CleanPolicy, dry_run: bool = False) -> list[Found]:
    """Remove the encoded samples of a recipe that were kept for its next build, once none was made for long."""
    samples, writers = f"pieces/samples/{recipe}", writers_folder(recipe)
    if not root.exists(samples):
        return []
    busy = writer(root, writers) is not None
    age, nbytes = _age_and_size(root, samples, store_clock(root, writers))
    kept = _too_young(age, policy) or "a run writes here" * busy
    if not kept and not dry_run:
        with writing_alone(root, writers, f"the recipe {recipe!r}"):
            root.remove(samples, recursive=True)
            root.remove(f"pieces/plan/{recipe}", recursive=True)
    return [Found("samples", root.path(samples), age, nbytes, kept)]


def clean_cache(folder: Path, policy: CleanPolicy, dry_run: bool = False) -> list[Found]:
    """Remove copies of source files that nobody has read for long from the cache of this machine, oldest first."""
    found = []
    for last_ns, nbytes, copy in copies(folder):
        age = (time.time() - last_ns / 1e9) / DAY_S
        kept = _too_young(age, policy)
        if not kept and not dry_run and not remove_unused(copy):
            kept = "in use"
        found.append(Found("source file", str(copy), age, nbytes, kept))
    return found


def _judged(folder: Root, policy: CleanPolicy) -> list[Found]:
    latest = folder.read_bytes(LATEST).decode().strip() if folder.exists(LATEST) else ""
    now, names = store_clock(folder, WRITERS), _names(folder, "")
    published = [name for name in names if folder.exists(f"{name}/{MANIFEST_PATH}") and not name.startswith(".")]
    versions = sorted((*_age_and_size(folder, name, now), name) for name in published)
    found = []
    for place, (age, nbytes, name) in enumerate(versions):
        if name == latest:
            kept = "LATEST names it"
        elif reading := readers(folder, f"{READERS}/{name}"):
            kept = f"being read by {reading[0].get('who', 'someone')}"
        elif place < policy.keep_versions:
            kept = f"one of the newest {policy.keep_versions}"
        else:
            kept = _too_young(age, policy)
        found.append(Found("version", folder.path(name), age, nbytes, kept))
    for name in filter(UNFINISHED.fullmatch, names):
        age, nbytes = _age_and_size(folder, name, now)
        found.append(Found("unfinished", folder.path(name), age, nbytes, _too_young(age, policy)))
    return found


def _age_and_size(root: Root, folder: str, now: datetime) -> tuple[float, int]:
    """Days since the newest file below a folder was written, and bytes of all of them."""
    files = root.fs.find(root.path(folder), detail=True)
    newest = max((root.fs.modified(path) for path in files), default=now)
    return (now - newest).total_seconds() / DAY_S, sum(int(info["size"]) for info in files.values())


def _too_young(age_days: float, policy: CleanPolicy) -> str:
    return f"not {policy.older_than_days:g} days old" if age_days < policy.older_than_days else ""


def _names(root: Root, folder: str) -> list[str]:
    """Folders in a folder."""
    root.fs.invalidate_cache()
    try:
        entries = root.fs.ls(root.path(folder).rstrip("/"), detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")

"""A set of shards, seen from the outside -> what is wrong with it: every byte, offset, digest, name, type and split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from mmu_pipeline.receipt import Receipt
from mmu_pipeline.shards.card import CARD_PATH, front_matter
from mmu_pipeline.shards.check_index import catalog_problems, index_problems
from mmu_pipeline.shards.check_shard import shard_problems, tar_index_problems
from mmu_pipeline.shards.check_values import value_problems
from mmu_pipeline.shards.index import DIGESTS, INDEX_PATH
from mmu_pipeline.shards.manifest import MANIFEST_PATH, shards_in
from mmu_pipeline.shards.opened import LATEST, locate, read_manifest
from mmu_pipeline.shards.rows import place_sum, shard_rows
from mmu_pipeline.shards.side_files import side_files
from mmu_pipeline.stages.build import Deal, Outcome, Unit, clocked, in_turn
from mmu_pipeline.storage import Root

VALUES_COMPARED = 200
"""Samples whose JSON is compared with the index, unless all are asked for."""
SHOWN = 5
"""Problems of one file that are spelled out; the rest is counted."""


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


@dataclass(frozen=True)
class Check:
    """A set whose shards are to be checked one by one. Small and picklable."""

    root: Root
    """Where the receipt of a check goes whose worker died."""
    folder: Root


def verify(url: str, values: int | None = VALUES_COMPARED, deal: Deal = in_turn, receipts: Root | None = None) -> Verification:
    """Check the set in a folder: of one version, or of a recipe, where LATEST says which.

    The scalars of the index are compared with the JSON of about `values` samples, None: of all. `deal` runs the checks of single
    shards, of which one at a time is mapped by each worker; `receipts` is the root for its records, which never lie beside the
    set. Raises BadInput if there is no set, or one of another format.
    """
    root = locate(url)
    manifest = read_manifest(root)
    shards = shards_in(manifest)
    places: dict[str, int] = {}
    of_index = _shown(index_problems(root, manifest, places))
    problems = [*_folder_problems(root, manifest, [shard["name"] for shard in shards]), *_parent_problems(manifest), *of_index]
    problems += catalog_problems(root, manifest)
    units = [Unit("check", shard["name"], None, shard["nbytes"], (shard,), manifest["version"]) for shard in shards]
    found: dict[str, list[str]] = {}
    for outcome in deal(check_unit, Check(receipts or Root("memory://checks"), root), units):
        name, facts = outcome.unit.name, outcome.receipt.facts
        found[name] = list(facts["problems"]) if facts else [f"{name}: could not be checked: {outcome.receipt.reason}"]
        if places and facts and facts["places"] not in (None, places.get(name, 0)):
            found[name].append(f"{INDEX_PATH}: its rows of {name} are not those beside that shard")
    problems += [problem for unit in units for problem in found[unit.name]]
    if not of_index:
        problems += _shown(value_problems(root, manifest, values))
    problems += _side_problems(root, manifest)
    samples, nbytes = (sum(shard[what] for shard in shards) for what in ("samples", "nbytes"))
    return Verification(root.url, manifest["version"], len(shards), samples, nbytes, tuple(problems))


def check_unit(unit: Unit, job: Check) -> Outcome:
    """What is wrong with one shard and what lies beside it, so that shards can be checked in many places at a time.

    The input of the unit is what the manifest says of the shard. The facts of the outcome are `problems`, and `places`: a sum
    over its rows that those of the set's index must give too.
    """
    manifest = _manifest(job.folder, unit.fingerprint, str(job.folder.fs.ukey(job.folder.path(MANIFEST_PATH))))
    return Outcome(unit, "done", clocked(lambda: _checked(unit, job, manifest)))


def _checked(unit: Unit, job: Check, manifest: Mapping[str, Any]) -> Receipt:
    said: Any = unit.inputs[0]
    problems, places = verify_shard(job.folder, said, manifest)
    facts = {"problems": problems, "places": places}
    outputs, samples = {unit.name: unit.weight}, said["samples"]
    return Receipt(unit.stage, unit.name, unit.fingerprint, rows_in=samples, rows_out=samples, outputs=outputs, facts=facts)


@lru_cache(maxsize=2)
def _manifest(folder: Root, version: str, state: str) -> dict[str, Any]:
    """The manifest of a version, read once by each worker. `state` changes with the file."""
    return read_manifest(folder)


def verify_shard(root: Root, said: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[list[str], int | None]:
    """What is wrong with one shard, of which the manifest says `said`, with its rows and its indexes.

    And the sum of its rows, None if they cannot be read.
    """
    name = said["name"]
    rows, wrong = shard_rows(root, name, len(manifest["members"]) + 1, said.get("rows_digest", ""))
    problems = [*wrong, *_shown(shard_problems(root, said, manifest, rows))]
    if rows is None:
        return problems, None
    return [*problems, *tar_index_problems(root, name, manifest, rows)], place_sum(rows)


def _shown(problems: Iterable[str]) -> list[str]:
    found = list(problems)
    more = len(found) - SHOWN
    return [*found[:SHOWN], f"{found[0].split(':')[0]}: and {more} more problems"] if more > 0 else found


def _parent_problems(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Whether a set made from others holds all that was not left out of them, by count and by digest."""
    if "parents" not in manifest:
        return
    parents, left_out = manifest["parents"], sum(manifest["left_out"].values())
    there, expected = manifest["samples"] - manifest["repeats"], sum(parent["samples"] for parent in parents) - left_out
    if there != expected:
        yield f"{MANIFEST_PATH}: holds {there} samples, its parents without what was left out {expected}"
    total = sum(int(parent["set_digest"], 16) for parent in parents) % DIGESTS
    if not left_out and "members" not in manifest["rule"] and f"{total:016x}" != manifest["set_digest"]:
        yield f"{MANIFEST_PATH}: the digest of the set is not that of its parents, though nothing was left out"


def _folder_problems(root: Root, manifest: Mapping[str, Any], shards: Sequence[str]) -> Iterator[str]:
    parent, _, folder = root.url.rpartition("/")
    if re.fullmatch(r"[0-9a-f]{12}", folder) and folder != manifest["version"]:
        yield f"{MANIFEST_PATH}: is that of version {manifest['version']}, in the folder of {folder}"
    recipe = Root(parent)
    latest = recipe.read_bytes(LATEST).decode().strip() if recipe.exists(LATEST) else folder
    is_aside = folder.startswith(".")  # not a version yet: it will be named by LATEST itself
    if latest != folder and not is_aside and not recipe.exists(f"{latest}/{MANIFEST_PATH}"):
        yield f"{LATEST}: names the version {latest}, which is not there"
    for split, part in manifest["splits"].items():
        counts = [shard["samples"] for shard in part["shards"]]
        if sum(counts) != part["samples"]:
            yield f"{MANIFEST_PATH}: the shards of {split} do not add up to {part['samples']} samples"
        unit = manifest["recipe"]["shards"]["multiple_of"] if part["samples"] > 1 else 1
        if counts and max(counts) - min(counts) > unit:
            yield f"{MANIFEST_PATH}: the shards of {split} differ by more than {'one sample' if unit == 1 else f'{unit} samples'}"
        if any(count % unit for count in counts):
            yield f"{MANIFEST_PATH}: not every shard of {split} holds a multiple of {unit} samples"
    if manifest["samples"] != sum(part["samples"] for part in manifest["splits"].values()):
        yield f"{MANIFEST_PATH}: the splits do not add up to {manifest['samples']} samples"
    tars = {path.rsplit("/", 1)[-1] for path in root.fs.ls(root.path(""), detail=False) if path.endswith(".tar")}
    yield from (f"{tar}: is not a shard of this version" for tar in sorted(tars - set(shards)))


def _side_problems(root: Root, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Files for other readers that are missing or say something else than the manifest."""
    for path, content in side_files(manifest).items():
        if not root.exists(path):
            yield f"{path}: is missing"
        elif root.read_bytes(path) != content:
            yield f"{path}: does not say what the manifest says"
    if not root.exists(CARD_PATH):
        yield f"{CARD_PATH}: is missing"
        return
    parts = root.read_bytes(CARD_PATH).decode().split("---\n", 2)
    try:
        head = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except yaml.YAMLError:
        head = None
    wanted = front_matter(manifest)
    if not isinstance(head, dict) or any(head.get(key) != wanted[key] for key in ("configs", "dataset_info")):
        yield f"{CARD_PATH}: its front matter does not describe this set"

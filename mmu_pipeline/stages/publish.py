"""The shards of a version to a published set: index, manifest, card and side files, checked, then visible in one step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.shards.manifest import MANIFEST_PATH, Account, Provenance, ShardFile, manifest_of
from mmu_pipeline.shards.narrow import add_losses
from mmu_pipeline.stages.build import STAGES, Build, Deal, in_turn
from mmu_pipeline.stages.quality import quality_path
from mmu_pipeline.stages.receipts import by_survey, set_aside_of, stage_receipts
from mmu_pipeline.stages.seal import point_to, seal, set_facts
from mmu_pipeline.stages.shards import aside_folder, plan_path
from mmu_pipeline.storage import digest, latest_path, shard_folder


@dataclass(frozen=True)
class Published:
    """A version that readers can open."""

    version: str
    url: str
    samples: int
    reused: bool
    """Whether it was there already, from the same inputs."""
    set_aside: tuple[dict[str, str], ...]
    """stage, unit and reason of whatever is not whole in this build."""


def publish(build: Build, keep_samples: bool = False, deal: Deal = in_turn) -> Published:
    """Seal, check and publish the shards of a build whose stages are all finished.

    `keep_samples` leaves the encoded samples of its cells where they are, for the next build of this recipe. `deal` runs the
    checks of single shards.

    Raises BrokenArtefact if nothing came out of the build, a shard is missing, or the check finds a problem: then readers still
    see the version before.
    """
    plan = build.root.read_json(plan_path(build))
    version = plan["version"]
    folder = shard_folder(build.recipe.name, version)
    receipts = {stage: stage_receipts(build, stage) for stage in STAGES}
    set_aside = set_aside_of(receipt for found in receipts.values() for receipt in found)
    reused = build.root.exists(f"{folder}/{MANIFEST_PATH}")
    if not reused:
        _seal(build, plan, receipts, set_aside, deal)
    point_to(build.root, latest_path(build.recipe.name), version)
    if not set_aside and not keep_samples:
        build.root.remove(f"pieces/samples/{build.recipe.name}", recursive=True)
        build.root.remove(f"pieces/plan/{build.recipe.name}", recursive=True)
    samples = build.root.read_json(f"{folder}/{MANIFEST_PATH}")["samples"]
    return Published(version, build.root.at(folder).url, samples, reused, tuple(set_aside))


def _seal(
    build: Build, plan: dict[str, Any], receipts: dict[str, list[Receipt]], set_aside: list[dict[str, str]], deal: Deal
) -> None:
    """Write all but the shards into the version's folder aside, check the whole from the outside, move it to its place."""
    aside = aside_folder(build, plan["version"])
    build.root.sweep()
    if not plan["shards"]:
        raise BrokenArtefact("no sample came out of this build", recipe=build.recipe.name,
                             hint="`mmu status` says what was set aside or left out, and why")  # fmt: skip
    made = {r.unit.split("/")[-1]: ShardFile(**r.facts) for r in receipts["shards"] if r.status == "done"}
    if missing := [shard["name"] for shard in plan["shards"] if shard["name"] not in made]:
        raise BrokenArtefact(
            "shards could not be written", shards=", ".join(missing), hint="run again: it goes on where it stopped"
        )
    shards = [made[shard["name"]] for shard in plan["shards"]]
    files = set_facts(build.root, aside, build.recipe.name, plan["version"], shards)
    account = replace(_account(receipts, plan["skipped"], set_aside), matches=build.root.read_json(quality_path(build.recipe)))
    manifest = manifest_of(build.recipe, files, _provenance(build, receipts), account)
    seal(build.root, aside, shard_folder(build.recipe.name, plan["version"]), manifest, deal)


def _provenance(build: Build, receipts: dict[str, list[Receipt]]) -> list[Provenance]:
    scanned = by_survey(receipts["scan"])
    return [
        Provenance(
            build.surveys[name], source.form, source.url,
            sum(receipt.facts.get("files", 0) for receipt in scanned.get(name, ())),
            _checksum(scanned.get(name, ())),
        )
        for name, source in build.sources.items()
    ]  # fmt: skip


def _checksum(scanned: Sequence[Receipt]) -> str:
    """A digest of all objects that were read of a survey, wherever its files lie."""
    lines = sorted(f"{receipt.unit} {receipt.facts['digest']}" for receipt in scanned if "digest" in receipt.facts)
    return digest("\n".join(lines).encode())


def _account(receipts: dict[str, list[Receipt]], not_dealt: dict[str, int], set_aside: list[dict[str, str]]) -> Account:
    counts: dict[str, int] = defaultdict(int)
    skipped: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for stage in ("scan", "objects", "keys", "match", "samples"):
        for receipt in receipts[stage]:
            owner = receipt.unit.split("/")[0] if stage in ("scan", "objects") else stage
            owner = receipt.unit.split("/")[1] if stage == "keys" else owner
            if stage == "objects":
                counts[f"{owner} objects"] += receipt.rows_out
            for name, matched in receipt.facts.get("matched", {}).items():
                counts[f"{name} matches"] += matched
            for reason, count in receipt.skipped.items():
                skipped[owner][reason] += count
    if not_dealt:
        skipped["shards"] = defaultdict(int, not_dealt)
    narrowed = add_losses(receipt.facts.get("narrowed", {}) for receipt in receipts["samples"])
    counts["samples"] = sum(receipt.rows_out for receipt in receipts["samples"]) - sum(not_dealt.values())
    return Account(counts, skipped, set_aside, narrowed)

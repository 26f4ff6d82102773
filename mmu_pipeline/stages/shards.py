"""Encoded samples of all cells to the shards of a version, in training order; then its index, and its publication."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mmu_pipeline.shards.index import piece_sizes, repeated_keys
from mmu_pipeline.shards.manifest import MANIFEST_PATH
from mmu_pipeline.shards.plan import ShardPlan, plan_shards, without
from mmu_pipeline.shards.tar import Ranges, copy_ranges
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.storage import Receipt, fingerprint, shard_folder

SAME_KEY = "same key as a sample of another cell"


def version_of(build: Build, pieces: Sequence[tuple[str, str]]) -> str:
    """Name of the version that some pieces (unit name, fingerprint) give: the same inputs give the same name."""
    return fingerprint("version", build.recipe, sorted(pieces))[:12]


def is_published(build: Build, units: Sequence[Unit]) -> bool:
    """Whether the version that would come of these sample units is already there."""
    version = version_of(build, [(unit.name, unit.fingerprint) for unit in units])
    return bool(units) and build.root.exists(f"{shard_folder(build.recipe.name, version)}/{MANIFEST_PATH}")


def aside_folder(build: Build, version: str) -> str:
    """Where a version is written before it is published: a hidden folder beside its place."""
    return shard_folder(build.recipe.name, f".{version}.partial")


def plan_path(build: Build) -> str:
    return f"receipts/stages/{build.recipe.name}/plan.json"


def write_plan(build: Build, receipts: Sequence[Receipt], planned: Sequence[Unit]) -> None:
    """Plan the shards of all pieces that are there, and write what each shard is copied from.

    `planned` are all sample units of the build; when their version is already published there is nothing to plan.
    """
    if is_published(build, planned):
        version = version_of(build, [(unit.name, unit.fingerprint) for unit in planned])
        build.root.write_json(plan_path(build), {"version": version, "pieces": [], "shards": []})
        return
    pieces = [receipt for receipt in receipts if receipt.status == "done" and receipt.rows_out]
    pieces.sort(key=lambda receipt: int(receipt.unit.split("/")[1]))
    plan, left_out = _plan(build, [receipt.unit for receipt in pieces])
    version = version_of(build, [(receipt.unit, receipt.fingerprint) for receipt in pieces])
    for number, name in enumerate(plan.names):
        ranges = plan.ranges(number)
        columns = {"piece": ranges.piece, "offset": ranges.offset, "nbytes": ranges.nbytes}
        build.root.write_table(f"pieces/plan/{build.recipe.name}/{version}/{name}.parquet", pa.table(columns))
    shards = [
        {"name": name, "samples": len(plan.samples(number)), "nbytes": int(plan.sample_offsets(number)[-1])}
        for number, name in enumerate(plan.names)
    ]
    skipped = {SAME_KEY: left_out} if left_out else {}
    build.root.write_json(
        plan_path(build),
        {"version": version, "pieces": [receipt.unit for receipt in pieces], "shards": shards, "skipped": skipped},
    )


def plan_of(build: Build, pieces: Sequence[str]) -> ShardPlan:
    """The plan of some pieces, by unit name in sky order. Of samples with the same key only the first is dealt out."""
    return _plan(build, pieces)[0]


def _plan(build: Build, pieces: Sequence[str]) -> tuple[ShardPlan, int]:
    """The plan, and how many samples it leaves out."""
    paths = [f"pieces/samples/{name}.parquet" for name in pieces]
    sizes = [piece_sizes(build.root, path) for path in paths]
    later = [number for number, _, _ in repeated_keys(build.root, paths, sizes)]
    return plan_shards(without(sizes, later), build.recipe.shards), len(later)


def units(build: Build) -> list[Unit]:
    """One unit per shard that is planned and not yet published."""
    plan = build.root.read_json(plan_path(build))
    if build.root.exists(f"{shard_folder(build.recipe.name, plan['version'])}/{MANIFEST_PATH}"):
        return []
    return [
        Unit("shards", f"{build.recipe.name}/{plan['version']}/{shard['name']}", None, shard["nbytes"], tuple(plan["pieces"]),
             fingerprint("shard", plan["version"], shard))
        for shard in plan["shards"]
    ]  # fmt: skip


def run(unit: Unit, build: Build) -> Receipt:
    """Copy the byte ranges of one shard from the pieces into the version's folder."""
    _, version, name = unit.name.split("/")
    ranges = build.root.read_table(f"pieces/plan/{unit.name}.parquet")
    paths = [build.root.path(f"pieces/samples/{piece}.tar") for piece in unit.inputs]
    target = f"{aside_folder(build, version)}/{name}"
    with build.root.writing(target) as file:
        columns = (ranges[column].to_numpy().astype(np.int64) for column in ("piece", "offset", "nbytes"))
        digest = copy_ranges(file, build.root.fs, paths, Ranges(*columns))
    return Receipt(
        stage="shards", unit=unit.name, fingerprint=unit.fingerprint, rows_in=len(ranges), rows_out=len(ranges),
        outputs={target: build.root.size(target) or 0}, facts={"digest": digest},
    )  # fmt: skip

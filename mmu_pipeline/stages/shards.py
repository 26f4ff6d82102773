"""Encoded samples of all cells to the shards of a version, in training order, each with its rows of the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.shards.copy import Rows, copies, make_shard
from mmu_pipeline.shards.index import piece_sizes, repeated_keys, shard_index_path
from mmu_pipeline.shards.manifest import MANIFEST_PATH
from mmu_pipeline.shards.plan import plan_shards, without
from mmu_pipeline.shards.schema import sample_members, sample_scalars
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.storage import shard_folder

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
    done = [receipt for receipt in receipts if receipt.status == "done"]
    version = version_of(build, [(receipt.unit, receipt.fingerprint) for receipt in done])
    pieces = sorted((receipt for receipt in done if receipt.rows_out), key=lambda receipt: int(receipt.unit.split("/")[1]))
    paths = [f"pieces/samples/{receipt.unit}.parquet" for receipt in pieces]
    sizes = [piece_sizes(build.root, path) for path in paths]
    later = [number for number, _, _ in repeated_keys(build.root, paths, sizes)]
    plan, left_out = plan_shards(without(sizes, later), build.recipe.shards), len(later)
    digests = np.concatenate([np.zeros(0, np.uint64), *(piece.digest for piece in sizes if piece.digest is not None)])
    shards = []
    for number, name in enumerate(plan.names):
        rows, ranges = plan.samples(number), plan.ranges(number)
        table = copies(ranges.piece, ranges.offset[:, None], ranges.nbytes[:, None], plan.is_repeat(number), digests[rows])
        build.root.write_table(f"pieces/plan/{build.recipe.name}/{version}/{name}.parquet", table)
        shards.append({"name": name, "samples": len(rows), "nbytes": int(ranges.nbytes.sum())})
    skipped = {SAME_KEY: left_out} if left_out else {}
    build.root.write_json(
        plan_path(build),
        {"version": version, "pieces": [receipt.unit for receipt in pieces], "shards": shards, "skipped": skipped},
    )


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
    """Copy the byte ranges of one shard from the pieces into the version's folder, with its rows of the index beside it."""
    _, version, name = unit.name.split("/")
    wanted = build.root.read_table(f"pieces/plan/{unit.name}.parquet")
    paths = [build.root.path(f"pieces/samples/{piece}.tar") for piece in unit.inputs]
    folder = aside_folder(build, version)
    made = make_shard(build.root, folder, name, build.root.fs, paths, wanted, rows_of(build), build.recipe.shards.sha256)
    outputs = [f"{folder}/{path}" for path in (name, shard_index_path(name))]
    return Receipt(
        stage="shards", unit=unit.name, fingerprint=unit.fingerprint, rows_in=len(wanted), rows_out=len(wanted),
        outputs={path: build.root.size(path) or 0 for path in outputs}, facts=asdict(made),
    )  # fmt: skip


def rows_of(build: Build) -> Rows:
    """What the index says of the samples of a build."""
    recipe = build.recipe
    members = tuple(member.name for member in sample_members(recipe, build.surveys))
    scalars = pa.schema([(scalar.name, scalar.type) for scalar in sample_scalars(recipe, build.surveys)])
    return Rows(members, scalars, recipe.primary.survey, recipe.split)

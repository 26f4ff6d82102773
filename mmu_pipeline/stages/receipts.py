"""The receipts of a stage: those of this build's units, read together, and those that earlier builds left under the same root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmu_pipeline.stages.build import Build
from mmu_pipeline.storage import Receipt, each, read_receipt


def stage_list(build: Build, stage: str) -> str:
    """Where the names of a stage's units are kept once it is finished."""
    return f"receipts/stages/{build.recipe.name}/{stage}.json"


def read_receipts(build: Build, stage: str, names: Iterable[str]) -> list[Receipt]:
    """Receipts of units that have one, in the order of their names."""
    found = each(build.root, lambda name: read_receipt(build.root, stage, name), names)
    return [receipt for receipt in found if receipt is not None]


def stage_receipts(build: Build, stage: str) -> list[Receipt]:
    """Receipts of all units of a stage, as it was last finished; none if it never was."""
    try:
        names = build.root.read_json(stage_list(build, stage))
    except FileNotFoundError:
        return []
    return read_receipts(build, stage, names)


def other_receipts(build: Build, stage: str, owner: str, own: Sequence[Receipt]) -> list[Receipt]:
    """Receipts of a survey's or recipe's units that are not among this build's: earlier builds left them."""
    known = {receipt.unit for receipt in own}
    listed = (f"{owner}/{name.removesuffix('.json')}" for name in build.root.names(f"receipts/{stage}/{owner}"))
    return read_receipts(build, stage, (name for name in listed if name not in known))


def set_aside_of(receipts: Iterable[Receipt]) -> list[dict[str, str]]:
    """stage, unit and reason of each unit that is not whole."""
    return [{"stage": r.stage, "unit": r.unit, "reason": r.reason} for r in receipts if r.status != "done"]

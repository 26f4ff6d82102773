"""The manifests of some sets, and what is new of one made from them -> its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmu_pipeline.catalog import ShardRule, SplitRule
from mmu_pipeline.shards.licences import licence_conflict


def inherited(
    parents: Sequence[Mapping[str, Any]], new: Mapping[str, Any], members: Sequence[int], split: SplitRule, shards: ShardRule
) -> dict[str, Any]:
    """The manifest of a set made from others.

    `new` holds `facts_of_set`, the name, the rule and what it left out; `members` are the places of those that stay. Counts and
    gaps of all parents are added up; what a sample is and where it comes from is told by the first.
    """
    first = parents[0]
    counts: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    files: Counter[str] = Counter()
    checksums: dict[str, list[str]] = {survey["name"]: [] for survey in first["surveys"]}
    for parent in parents:
        counts.update({what: count for what, count in parent["counts"].items() if what != "samples"})
        files.update({survey["name"]: survey["files"] for survey in parent["surveys"]})
        for survey in parent["surveys"]:
            known = checksums[survey["name"]]
            known += [one for one in survey.get("checksums", []) if one not in known]
        for where, reasons in parent["skipped"].items():
            skipped.setdefault(where, Counter()).update(reasons)
    skipped.setdefault("reshard", Counter()).update(new["left_out"])
    rules = {"split": split.model_dump(mode="json"), "shards": shards.model_dump(mode="json", exclude_none=True)}
    return dict(new) | {
        "title": first["title"],
        "members": [first["members"][place] for place in members],
        "scalars": first["scalars"],
        "surveys": [s | {"files": files[s["name"]], "checksums": checksums[s["name"]]} for s in first["surveys"]],
        "licence_conflict": licence_conflict(first["surveys"]),
        "recipe": first["recipe"] | rules,
        "counts": counts | {"samples": new["samples"] - new["repeats"]},
        "skipped": {where: dict(reasons) for where, reasons in skipped.items() if reasons},
        "matches": first.get("matches", {}),
        "set_aside": [unit for parent in parents for unit in parent["set_aside"]],
        "parents": [
            {what: parent[what] for what in ("name", "version", "set_digest")}
            | {"samples": parent["samples"] - parent["repeats"]}
            for parent in parents
        ],
    }

"""A shard set built from the simulated sky, and the truth about that sky, to a comparison line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.report.page import Checked
from mmu_pipeline.report.shard_set import ShardSet
from mmu_pipeline.simulate.sky import Values
from mmu_pipeline.simulate.write import Truth
from mmu_pipeline.sky import arcsec, is_position, unit_vectors

READABLE = ("", "coincident")
"""Faults of rows that can be matched."""
PLACES = {
    "border": "objects on a cell border, the surveys' positions on either side",
    "corner": "objects on the corner of four cells",
    "pole": "objects around the north pole",
    "meridian": "objects at right ascension 0, one survey at 359.9999, another at 0.0001",
    "coincident": "objects with two SDSS spectra at one position",
}


def expected_pairs(truth: Truth, primary: str, rule: Mapping[str, Any]) -> dict[str, str]:
    """What matching by brute force over the whole sky gives: id in the primary -> id in the counterpart.

    `rule` is a counterpart of a recipe: survey, radius_arcsec, pick (nearest or mutual). Ties break by id.
    """
    near, far = _readable(truth, primary), _readable(truth, rule["survey"]).sort_by("object_id")
    points = [unit_vectors(rows["ra"].to_numpy(), rows["dec"].to_numpy()) for rows in (near, far)]
    distance = arcsec(np.linalg.norm(points[0][:, None] - points[1][None], axis=2))
    nearest = distance.argmin(axis=1)
    within = distance[np.arange(len(nearest)), nearest] <= rule["radius_arcsec"]
    if rule["pick"] == "mutual":
        within &= distance.argmin(axis=0)[nearest] == np.arange(len(nearest))
    ids, others = near["object_id"].to_pylist(), far["object_id"].to_pylist()
    return {ids[row]: others[nearest[row]] for row in np.flatnonzero(within)}


def compare(truth: Truth, shard_set: ShardSet) -> list[Checked]:
    """The set's pairs and rows beside those that a perfect build would give. The split's guard and what was set aside are
    taken as the set says: pairs are compared for the samples that are in it."""
    index, primary = shard_set.index, shard_set.survey_names[0]
    lines, right = [], {}
    for rule in shard_set.manifest["recipe"].get("counterparts", []):
        name, expected = rule["survey"], expected_pairs(truth, primary, rule)
        pairs = zip(index[f"{primary}_object_id"].to_pylist(), index[f"{name}_object_id"].to_pylist(), strict=True)
        outcome = [(expected.get(ours), theirs) for ours, theirs in pairs]
        right[name] = np.array([wanted is not None and wanted == theirs for wanted, theirs in outcome])
        wrong = sum(theirs is not None and theirs != wanted for wanted, theirs in outcome)
        wanted = sum(pair[0] is not None for pair in outcome)
        lines.append(Checked(f"pairs with {name}", wanted, int(right[name].sum()), f"{wrong} wrong" if wrong else "none wrong"))
    return lines + _planted(truth, shard_set, right) + [_accounted(truth, shard_set)]


def _readable(truth: Truth, survey: str) -> pa.Table:
    """Rows of a survey that a reader can give: repeated, broken and misplaced ones left out."""
    rows = truth.survey(survey)
    placed = is_position(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    return rows.filter(pc.and_(pc.is_in(rows["fault"], pa.array(READABLE)), pa.array(placed)))


def _planted(truth: Truth, shard_set: ShardSet, right: Mapping[str, Values]) -> list[Checked]:
    """One line per kind of planted object that the set holds."""
    primary = shard_set.survey_names[0]
    rows = truth.survey(primary).filter(pc.equal(truth.survey(primary)["fault"], ""))
    kind = dict(zip(rows["object_id"].to_pylist(), rows["planted"].to_pylist(), strict=True))
    planted = np.array([kind[object_id] for object_id in shard_set.index[f"{primary}_object_id"].to_pylist()])
    lines = []
    for name, what in PLACES.items():
        here = planted == name
        if here.any() and "sdss" in right:
            lines.append(Checked(what, int(here.sum()), int(right["sdss"][here].sum()), "with their SDSS spectrum"))
    unseen = _without(shard_set, planted, "fast", "sdss")
    lines.append(Checked("stars that moved 3.7″ between SDSS and HSC", 0, unseen, "pairs within 1″ without proper motions"))
    twice = int((planted == "duplicate").sum())
    lines.append(Checked("objects listed twice in one file", _count(truth, "duplicate", primary), twice, "samples"))
    unmatched = truth.detections.filter(pc.equal(truth.detections["planted"], "unmatched"))["object_id"].to_pylist()
    used = set(shard_set.index["sdss_object_id"].to_pylist()) & set(unmatched)
    return [*lines, Checked("SDSS objects that HSC does not list", 0, len(used), "used in a sample")]


def _without(shard_set: ShardSet, planted: Values, kind: str, survey: str) -> int:
    return int(shard_set.index[f"has_{survey}"].to_numpy(zero_copy_only=False)[planted == kind].sum())


def _count(truth: Truth, planted: str, survey: str) -> int:
    """Objects of a kind that a survey lists, each once."""
    rows = truth.survey(survey)
    return len(set(rows.filter(pc.equal(rows["planted"], planted))["true_id"].to_pylist()))


def _accounted(truth: Truth, shard_set: ShardSet) -> Checked:
    """Every row of the primary is a sample or counted with a reason."""
    primary = shard_set.survey_names[0]
    stages: Sequence[str] = (primary, "match", "samples")
    skipped = sum(sum(shard_set.manifest["skipped"].get(stage, {}).values()) for stage in stages)
    note = f"{shard_set.index.num_rows} samples and {skipped} left out with a reason"
    return Checked(f"rows of {primary} accounted for", truth.survey(primary).num_rows, shard_set.index.num_rows + skipped, note)

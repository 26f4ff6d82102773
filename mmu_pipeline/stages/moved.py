"""Receipts -> what reading a survey's remote files moved over the network, beside what the files hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mmu_pipeline.receipt import Receipt


@dataclass(frozen=True)
class Moved:
    """How the remote files of one survey were read when the results were made that are there now."""

    survey: str
    files: int
    file_bytes: int
    """What these files hold."""
    bytes: int
    """What of it was moved; more than `file_bytes` where a file was fetched again."""
    requests: int
    readings: dict[str, int]
    """Times that a unit read a file, by way: `ranges`, `whole`, or `cache` for a copy that was here already."""


def moved_by_survey(receipts: Iterable[Receipt]) -> tuple[Moved, ...]:
    """Sums over the receipts of scan and samples, survey by survey; none for one whose files are local."""
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    ways: dict[str, Counter[str]] = defaultdict(Counter)
    for receipt in receipts:
        for key, fact in receipt.facts.get("moved", {}).items():
            survey, _, relative = key.partition("/")
            sizes[survey][relative] = fact["of"]
            sums[survey].update(bytes=fact["bytes"], requests=fact["requests"])
            ways[survey][fact["read"]] += 1
    return tuple(
        Moved(survey, len(files), sum(files.values()), sums[survey]["bytes"], sums[survey]["requests"], dict(ways[survey]))
        for survey, files in sorted(sizes.items())
    )

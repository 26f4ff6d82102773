"""The receipts of a stage: those of this build's units, kept together, and those that earlier builds left under the same root."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import pyarrow as pa

from mmu_pipeline.receipt import Receipt, read_receipt, receipt_text
from mmu_pipeline.stages.build import Build
from mmu_pipeline.storage import each

SCHEMA = pa.schema([("unit", pa.string()), ("receipt", pa.string())])
AT_ONCE = 1000
"""Receipts that are turned from or into text at a time."""


def stage_path(build: Build, stage: str) -> str:
    """Where the receipts of a stage's units are kept together once it is finished."""
    return f"receipts/stages/{build.recipe.name}/{stage}.parquet"


def write_stage(build: Build, stage: str, receipts: Iterable[Receipt]) -> None:
    """Keep the receipts of a finished stage in one file: what comes after would read as many files as there are units."""
    ordered = iter(receipts)
    with build.root.writing_rows(stage_path(build, stage), SCHEMA) as file:
        while part := list(islice(ordered, AT_ONCE)):
            file.write(pa.table([[receipt.unit for receipt in part], list(map(receipt_text, part))], schema=SCHEMA))


def receipts_of(build: Build, stage: str) -> Iterator[Receipt]:
    """Receipts of all units of a stage, as it was last finished, a thousand at a time; none if it never was."""
    path = stage_path(build, stage)
    try:
        footer = build.root.read_footer(path)
    except FileNotFoundError:
        return
    for group in range(footer.num_row_groups):
        rows = build.root.read_row_group(path, footer, group, ["receipt"])
        for batch in rows.to_batches(max_chunksize=AT_ONCE):
            yield from (Receipt(**json.loads(text)) for text in batch["receipt"].to_pylist())


def stage_receipts(build: Build, stage: str) -> list[Receipt]:
    """The same as a list."""
    return list(receipts_of(build, stage))


def read_receipts(build: Build, stage: str, names: Iterable[str]) -> list[Receipt]:
    """Receipts of single units that have one, in the order of their names."""
    found = each(build.root, lambda name: read_receipt(build.root, stage, name), names)
    return [receipt for receipt in found if receipt is not None]


def by_survey(receipts: Iterable[Receipt]) -> Mapping[str, Sequence[Receipt]]:
    """Receipts of the stages scan and objects by the survey that each is of; none for any other survey."""
    found: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        found[receipt.unit.split("/")[0]].append(receipt)
    return found


def other_receipts(build: Build, stage: str, owner: str, own: Sequence[Receipt]) -> list[Receipt]:
    """Receipts of a survey's or recipe's units that are not among this build's: earlier builds left them."""
    known = {receipt.unit for receipt in own}
    listed = (f"{owner}/{name.removesuffix('.json')}" for name in build.root.names(f"receipts/{stage}/{owner}"))
    return read_receipts(build, stage, (name for name in listed if name not in known))


def set_aside_of(receipts: Iterable[Receipt]) -> list[dict[str, str]]:
    """stage, unit and reason of each unit that is not whole."""
    return [{"stage": r.stage, "unit": r.unit, "reason": r.reason} for r in receipts if r.status != "done"]

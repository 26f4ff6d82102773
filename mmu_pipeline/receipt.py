"""What vouches for the outputs of a unit: written last, read before anything is done again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.redaction import without_secrets
from mmu_pipeline.storage import Root


@dataclass(frozen=True)
class Receipt:
    """What says that a unit's stage is done, or why it was set aside."""

    stage: str
    unit: str
    fingerprint: str
    """Of everything that the result depends on: inputs, recipe or survey, code version."""
    status: str = "done"
    """done; partial, where a broken input was left out (redone next time); or set_aside."""
    rows_in: int = 0
    rows_out: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Source rows that are not in the output, counted by reason. The rows themselves are in `skipped_rows`."""
    skipped_rows: str | None = None
    """Parquet table of every skipped row: source_file, source_row, object_id, reason."""
    outputs: dict[str, int] = field(default_factory=dict)
    """Path under the root -> bytes."""
    reason: str = ""
    """Why the unit was set aside."""
    started: float = 0.0
    """When it began, Unix seconds by the clock of its worker."""
    seconds: float = 0.0
    worker: str = ""
    """Where it ran: host/process/thread."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What later stages plan with: counts per cell, digests, bytes moved."""

    @property
    def path(self) -> str:
        return receipt_path(self.stage, self.unit)


def receipt_path(stage: str, unit: str) -> str:
    return f"receipts/{stage}/{unit}.json"


def receipt_text(receipt: Receipt) -> str:
    """A receipt as JSON in one line: with an indent, writing it would take five times as long."""
    return json.dumps(vars(receipt), sort_keys=True)


def read_receipt(root: Root, stage: str, unit: str) -> Receipt | None:
    """The receipt of a unit, None where there is none or it cannot be read."""
    try:
        return Receipt(**root.read_json(receipt_path(stage, unit)))
    except (FileNotFoundError, BrokenArtefact, TypeError):
        return None


def valid_receipt(root: Root, stage: str, unit: str, wanted: str) -> Receipt | None:
    """The receipt of a unit if it says done, for these very inputs, and its outputs are there in full; else None."""
    receipt = read_receipt(root, stage, unit)
    if receipt is None or receipt.status != "done" or receipt.fingerprint != wanted:
        return None
    whole = all(root.size(path) == size for path, size in receipt.outputs.items())
    return receipt if whole else None


def write_receipt(root: Root, receipt: Receipt) -> Receipt:
    """Write a receipt, its reason without secrets. Gives it as written."""
    clean = replace(receipt, reason=without_secrets(receipt.reason))
    root.write_bytes(clean.path, f"{receipt_text(clean)}\n".encode())
    return clean

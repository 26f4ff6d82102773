"""Outcomes of a run, as they come -> a table of its units: where each ran, when, for how long, what it read and wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from mmu_pipeline.stages.build import Outcome

SCHEMA = pa.schema(
    [
        pa.field("stage", pa.dictionary(pa.int8(), pa.string())),
        pa.field("unit", pa.string()),
        pa.field("cell", pa.int32()),
        pa.field("cells", pa.int32()),
        pa.field("status", pa.dictionary(pa.int8(), pa.string())),
        pa.field("started", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("worker", pa.dictionary(pa.int32(), pa.string())),
        pa.field("attempts", pa.int16()),
        pa.field("weight", pa.int64()),
        pa.field("rows_in", pa.int64()),
        pa.field("rows_out", pa.int64()),
        pa.field("nbytes", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)
"""`cells` order-4 cells from `cell` on; `started` in Unix seconds by the worker's clock, 0 where it is not known; `weight` is
the bytes that it was expected to read, `nbytes` those of its outputs."""
ROWS_OF_A_BATCH = 8192


@dataclass
class Journal:
    """The units of one run, kept in Arrow batches: about a hundred bytes a unit."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    open_rows: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Note one unit."""
        unit, receipt = outcome.unit, outcome.receipt
        self.open_rows.append(
            (
                unit.stage,
                unit.name,
                unit.cell,
                unit.cells,
                outcome.status,
                receipt.started,
                receipt.seconds,
                receipt.worker,
                outcome.attempts,
                unit.weight,
                receipt.rows_in,
                receipt.rows_out,
                sum(receipt.outputs.values()),
                receipt.reason or None,
            )
        )
        if len(self.open_rows) == ROWS_OF_A_BATCH:
            self._close_batch()

    def table(self) -> pa.Table:
        """All units so far, in the order in which they came. Columns as in SCHEMA."""
        self._close_batch()
        return pa.Table.from_batches(self.batches, SCHEMA).unify_dictionaries()

    def _close_batch(self) -> None:
        if self.open_rows:
            columns = [
                pa.array(values, kind.type) for values, kind in zip(zip(*self.open_rows, strict=True), SCHEMA, strict=True)
            ]
            self.batches.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
            self.open_rows = []

"""The Multimodal Universe as a whole -> the table of docs/sizing.md: `python -m mmu_pipeline.report.sizing_table`."""

from __future__ import annotations

from collections.abc import Sequence

from mmu_pipeline.catalog import ShardRule
from mmu_pipeline.stages.sizing import BYTES_OF_A_ROW, Load, Nodes, estimate
from mmu_pipeline.tables import duration, size

FILES, ROWS, PRIMARIES, ARRAYS, CELLS = 92_000, 1_600_000_000, 150_000_000, 60 * 1000**4, 3072
"""Files of cells of all 30 surveys, rows in them, primaries that get a sample, bytes of their arrays, order-4 cells."""
TABLES = ROWS * BYTES_OF_A_ROW
SHARDS = -(-ARRAYS // int(ShardRule().target_bytes))
UNIVERSE = (
    Load("scan", FILES, ROWS, TABLES, TABLES, TABLES),
    Load("objects", FILES, ROWS, TABLES, TABLES),
    Load("match", CELLS, PRIMARIES, TABLES, PRIMARIES * BYTES_OF_A_ROW),
    Load("samples", CELLS, PRIMARIES, ARRAYS, ARRAYS, ARRAYS),
    Load("shards", SHARDS, PRIMARIES, ARRAYS, ARRAYS),
    Load("check", SHARDS, PRIMARIES, ARRAYS, 0),
)
"""Files are read by ranges: the scan fetches columns, the samples fetch arrays."""
SOURCE_RATE = 5e9
BATCH_BYTES = 64 * 1024**2


def markdown(counts: Sequence[int] = (1, 10, 100)) -> str:
    """A column per number of nodes: how long each stage takes and what bounds it, the whole, and memory."""
    found = [estimate(UNIVERSE, Nodes(count, source=SOURCE_RATE), {}, BATCH_BYTES, ()) for count in counts]
    rows = [
        ["", *(f"{count} node{'s' if count > 1 else ''}" for count in counts)],
        ["---"] * (len(counts) + 1),
        *(
            [stages[0].load.stage, *(f"{duration(stage.seconds)}, {stage.bound}" for stage in stages)]
            for stages in zip(*(sized.stages for sized in found), strict=True)
        ),
        ["in all", *(f"**{duration(sized.seconds)}**" for sized in found)],
        ["workers' memory, a node", *(size(sized.worker_memory) for sized in found)],
        ["memory of the flow", *(size(sized.driver_memory) for sized in found)],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(markdown())

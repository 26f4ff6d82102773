"""How large is the index of a set, and how fast does it find a part of the sky?

    python -m bench.index [--rows 20000000] [--folder DIR]

An index without scalars, of objects all over the sky with keys and digests as real ones have them, written as a build writes
it. Goals: under 40 bytes a row; a cone of 1 degree in under 10 ms (median of random places, file in the page cache). DuckDB
answers the same question from the same file for comparison.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import duckdb
import healpy as hp
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from mmu_pipeline.catalog import ShardRule
from mmu_pipeline.shards.index import INDEX_PATH, piece_schema, piece_sizes, write_index
from mmu_pipeline.shards.plan import plan_shards
from mmu_pipeline.shards.regions import Cone
from mmu_pipeline.shards.search import search
from mmu_pipeline.sky import healpix29
from mmu_pipeline.storage import Root

PIECE = 1_000_000
MOST_BYTES, MOST_MS = 40.0, 10.0
RADII = (0.1, 1.0, 5.0)


def write_pieces(root: Root, rows: int) -> list[str]:
    """Indexes of pieces along the sky, as the samples stage leaves them."""
    rng, paths = np.random.default_rng(0), []
    schema = piece_schema(pa.schema([]))
    parts = -(-rows // PIECE)
    for number in range(parts):
        count = rows // parts
        low, high = (12 * 4**14 * place // parts for place in (number, number + 1))
        pixels = np.sort(rng.integers(low, high, count))
        ra, dec = hp.pix2ang(1 << 14, pixels, nest=True, lonlat=True)
        ra, dec = ra + rng.normal(0, 1e-4, count) % 1e-3, np.clip(dec + rng.normal(0, 1e-4, count), -90, 90)
        ra = np.mod(ra, 360.0)
        index = healpix29(ra, dec)
        order = np.argsort(index)
        ids = rng.integers(0, 2**63, count)
        values = {
            "key": [f"{number:02d}{row:07d}-{id_:016x}" for row, id_ in enumerate(ids.tolist())],
            "offset": np.arange(count) * 101_376,
            "nbytes": np.full(count, 101_376) - 512 * (ids % 2),
            "digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(rng.bytes(16 * count))]),
            "member_offset": pa.array([[512, 82_944, 100_352]] * count, pa.list_(pa.int64())),
            "member_nbytes": pa.array([[82_048, 16_512, 700]] * count, pa.list_(pa.int64())),
            "_healpix_29": index[order],
            "ra": ra[order],
            "dec": dec[order],
            "split": np.zeros(count, np.int8),
            "training_order": rng.integers(0, 2**63, count, dtype=np.uint64),
        }
        paths.append(f"pieces/{number:04d}.parquet")
        root.write_table(paths[-1], pa.table([values[name] for name in schema.names], schema=schema))
    return paths


def milliseconds(root: Root, radius: float, places: int = 40) -> tuple[float, float, int]:
    """Of a search and of DuckDB's, medians over random places; and the rows found, likewise."""
    rng = np.random.default_rng(1)
    ours, theirs, found = [], [], []
    path = root.path(INDEX_PATH)
    for _ in range(places):
        ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
        start = time.perf_counter()
        rows = search(root, "", Cone(ra, dec, radius), ["key", "shard", "offset", "nbytes"])
        ours.append(time.perf_counter() - start)
        found.append(len(rows))
        ranges = " or ".join(f"_healpix_29 >= {low} and _healpix_29 < {high}" for low, high in Cone(ra, dec, radius).ranges)
        start = time.perf_counter()
        duckdb.sql(f"select key, shard, \"offset\", nbytes from '{path}' where {ranges}").to_arrow_table()
        theirs.append(time.perf_counter() - start)
    return 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs), int(statistics.median(found))


def main(
    rows: Annotated[int, typer.Option(help="Rows of the index.")] = 20_000_000,
    folder: Annotated[Path | None, typer.Option(help="Where to write.")] = None,
) -> None:
    console = Console()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Root(place)
        paths = write_pieces(root, rows)
        plan = plan_shards([piece_sizes(root, path) for path in paths], ShardRule())
        start = time.perf_counter()
        write_index(root, "set", paths, plan)
        seconds = time.perf_counter() - start
        root = root.at("set")
        size = (root.size(INDEX_PATH) or 0) / len(plan.by_shard)
        verdict = f"goal {MOST_BYTES:g} {'met' if size <= MOST_BYTES else 'MISSED'}: 16 of them are the digest"
        console.print(f"{len(plan.by_shard):,} rows written in {seconds:.1f} s, {size:.1f} bytes a row ({verdict})")
        table = Table("cone", "rows", "ms", "DuckDB, ms", "goal")
        times = {radius: milliseconds(root, radius) for radius in RADII}
        for radius, (ours, theirs, found) in times.items():
            goal = f"{MOST_MS:g} ms {'met' if ours < MOST_MS else 'MISSED'}" if radius == 1.0 else ""
            table.add_row(f"{radius:g} deg", f"{found:,}", f"{ours:.1f}", f"{theirs:.1f}", goal)
        console.print(table)
    raise typer.Exit(size > MOST_BYTES or times[1.0][0] > MOST_MS)


if __name__ == "__main__":
    typer.run(main)

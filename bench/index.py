"""How large is the index of a set, and how fast does it find a part of the sky?

    python -m bench.index [--rows 20000000] [--folder DIR]

An index without scalars, of objects all over the sky with keys and digests as real ones have them, written as a build writes
it. Goals: under 40 bytes a row; a cone, a box and a MOC of 1 degree in under 10 ms (median of random places, file in the page
cache). DuckDB answers the same question from the same file for comparison.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import duckdb
import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from astropy.coordinates import Angle, Latitude, Longitude
from mocpy import MOC
from rich.console import Console
from rich.table import Table

from mmu_pipeline.shards.index import INDEX_PATH, index_schema, layout, shard_index_path
from mmu_pipeline.shards.merge import write_index
from mmu_pipeline.shards.regions import Box, Cone, Moc, Region
from mmu_pipeline.shards.search import search
from mmu_pipeline.sky import healpix29
from mmu_pipeline.storage import Root

FILE = 200_000
SHARDS_A_FILE, SAMPLES_A_SHARD = 40, 5000
MOST_BYTES, MOST_MS = 40.0, 10.0


def box(ra: float, dec: float, radius: float) -> Box:
    """About a cone."""
    width = min(radius / max(float(np.cos(np.radians(dec))), 0.01), 90.0)
    return Box((ra - width) % 360.0, (ra + width) % 360.0, max(dec - radius, -90.0), min(dec + radius, 90.0))


def moc(ra: float, dec: float, radius: float) -> Moc:
    """A cone as a map of pixels of order 10."""
    found = MOC.from_cone(Longitude(ra, "deg"), Latitude(dec, "deg"), radius=Angle(radius, "deg"), max_depth=10)
    return Moc(tuple((int(start), int(stop)) for start, stop in found.to_depth29_ranges))


ASKED: tuple[tuple[str, Callable[[float, float, float], Region], float], ...] = (
    ("cone", Cone, 0.1), ("cone", Cone, 1.0), ("cone", Cone, 5.0), ("box", box, 1.0), ("MOC", moc, 1.0),
)  # fmt: skip


def write_rows(root: Root, rows: int) -> list[str]:
    """Rows beside shards, each shard's all over the sky, as the shards stage leaves them. Gives the names of the shards.

    Ids are numbered along the sky. A file stands for SHARDS_A_FILE shards, so that there are fewer to write.
    """
    rng, names = np.random.default_rng(0), []
    schema = index_schema(pa.schema([]))
    everything = np.sort(rng.integers(0, 12 * 4**14, rows))
    file_of = rng.integers(0, -(-rows // FILE), rows)
    for number in range(-(-rows // FILE)):
        numbers = np.flatnonzero(file_of == number)
        count = len(numbers)
        ra, dec = hp.pix2ang(1 << 14, everything[numbers], nest=True, lonlat=True)
        ra = np.mod(ra + rng.normal(0, 1e-4, count) % 1e-3, 360.0)
        dec = np.clip(dec + rng.normal(0, 1e-4, count), -90, 90)
        index = healpix29(ra, dec)
        order = np.argsort(index)
        hashes = rng.integers(0, 2**63, count)
        nbytes = np.where(rng.random((SHARDS_A_FILE, SAMPLES_A_SHARD)) < 0.5, 100_864, 101_376)
        shard, place = rng.integers(0, SHARDS_A_FILE, count), rng.integers(0, SAMPLES_A_SHARD, count)
        tars = [f"{'train' if one % 10 < 8 else 'test'}-{number * SHARDS_A_FILE + one:06d}.tar" for one in range(SHARDS_A_FILE)]
        values = {
            "key": [f"{one:09d}-{hash_:016x}" for one, hash_ in zip(numbers.tolist(), hashes.tolist(), strict=True)],
            "_healpix_29": index[order],
            "ra": ra[order],
            "dec": dec[order],
            "split": np.where(shard % 10 < 8, "train", "test"),
            "shard": np.array(tars)[shard],
            "repeat": np.zeros(count, np.bool_),
            "edge": rng.random(count) < 0.01,
            "offset": (np.cumsum(nbytes, axis=1) - nbytes)[shard, place],
            "nbytes": nbytes[shard, place],
            "digest": rng.integers(0, 2**64, count, dtype=np.uint64),
            "member_offset": _same([512, 82_944, 100_352], count),
            "member_nbytes": _same([82_048, 16_512, 700], count),
        }
        names.append(f"train-{number:06d}.tar")
        with root.writing(f"set/{shard_index_path(names[-1])}") as file:
            pq.write_table(pa.table([values[name] for name in schema.names], schema=schema), file, **layout(schema))
    return names


def _same(values: list[int], count: int) -> pa.ListArray:
    """The same list for every row."""
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * len(values), pa.int32()), pa.array(np.tile(values, count)))


def milliseconds(
    root: Root, around: Callable[[float, float, float], Region], radius: float, places: int = 40
) -> tuple[float, float, int]:
    """Of a search and of DuckDB's, medians over random places; and the rows found, likewise."""
    rng = np.random.default_rng(1)
    ours, theirs, found = [], [], []
    path = root.path(INDEX_PATH)
    for _ in range(places):
        ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
        region = around(ra, dec, radius)
        start = time.perf_counter()
        rows = search(root, "", region, ["key", "shard", "offset", "nbytes"])
        ours.append(time.perf_counter() - start)
        found.append(len(rows))
        ranges = " or ".join(f"_healpix_29 >= {low} and _healpix_29 < {high}" for low, high in region.ranges)
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
        names = write_rows(root, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        facts = write_index(root, "set", names)
        seconds, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        root = root.at("set")
        size = facts.nbytes / facts.samples
        verdict = f"goal {MOST_BYTES:g} {'met' if size <= MOST_BYTES else 'MISSED'}"
        console.print(
            f"{facts.samples:,} rows merged from {len(names)} files in {seconds:.1f} CPU-s, {grown / 1024:.0f} MB of memory"
        )
        console.print(f"{size:.2f} bytes a row ({verdict}): 8 of them digest, 8 the hash in the key")
        table, slowest = Table("region", "rows", "ms", "DuckDB, ms", "goal"), 0.0
        for name, around, radius in ASKED:
            ours, theirs, found = milliseconds(root, around, radius)
            slowest = max(slowest, ours) if radius == 1.0 else slowest
            goal = f"{MOST_MS:g} ms {'met' if ours < MOST_MS else 'MISSED'}" if radius == 1.0 else ""
            table.add_row(f"{name}, {radius:g} deg", f"{found:,}", f"{ours:.1f}", f"{theirs:.1f}", goal)
        console.print(table)
    raise typer.Exit(size > MOST_BYTES or slowest > MOST_MS)


if __name__ == "__main__":
    typer.run(main)

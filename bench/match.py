"""How fast are two HATS catalogs on disk matched into a match table on disk? Against LSDB, pyacid, and one tree in memory.

    python -m bench.match [--rows 2e6] [--other 2e6] [--order 3] [--workers 2] [--rounds 3] [--peers ours,floor,lsdb]
    python -m bench.match --curve          # ours from 1 to 10 million rows, with 1 and with 2 workers

All read the same files and write Parquet: 1 arcsec, nearest, all sky, partitions at `--order` (3: 768 of them, 0: 12). Ours
is the match stage as a build runs it: planning, units, receipts, metadata. LSDB runs with its Dask client (open, plan,
compute, write), which is there before the clock starts, as is our pool; its plan compiles numba code once a session, in its
first round. The floor reads the columns that a match needs, finds pairs by our join and writes the pairs' rows, partition by
partition, without counting anything. `bytes` is what no matcher can beat: the stored bytes of those columns are read and as
many as the match table has are written; nothing is decoded or compared. The trees in memory read the same columns and write the
same pairs. Pairs must be the same, but for those that LSDB cannot see: the catalogs carry no margin. Goals: against LSDB 10x
less wall time at 768 partitions and 3x at 12 with 10 million rows; within 1.5x of the floor; two workers take at most 0.6 of the
time of one; memory no higher than LSDB's.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

from bench.peak import Took, measured
from bench.skies import RADIUS, matched_build, two_skies
from mmu_pipeline.candidates import Positions
from mmu_pipeline.matching import match
from mmu_pipeline.sky import CELL_ORDER, chord, margin_ranges, unit_vectors
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.match import block_of
from mmu_pipeline.stages.objects import read_objects
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.skies import POINTER, Sky
from mmu_pipeline.storage import Root, match_folder, object_folder, partition_path

PEERS = ("ours", "floor", "bytes", "lsdb", "acid", "ckdtree", "astropy")
COLUMNS = ("ra", "dec", *POINTER)


def run_ours(build: Build, pool: Executor) -> int:
    """The match stage from receipts to metadata."""
    build.root.remove(match_folder("bench"), recursive=True)
    build.root.remove("receipts/match", recursive=True)
    outcomes = list(pool.map(run_unit, units := units_of("match", build), [build] * len(units)))
    finish_stage("match", build, outcomes)
    return sum(outcome.receipt.facts["matched"]["two"] for outcome in outcomes)


def run_floor(build: Build, pool: Executor) -> int:
    return sum(pool.map(partial(_floor, build), units_of("match", build)))


def _floor(build: Build, unit: Unit) -> int:
    """Read, match, take, write; nothing else."""
    one, two = (item for item in unit.inputs if isinstance(item, Sky))
    block = block_of(unit.name)
    here = read_objects(build, "one", one.partitions, margin_ranges(block, 0.0), COLUMNS).combine_chunks()
    there = read_objects(build, "two", two.partitions, margin_ranges(block, RADIUS), COLUMNS).combine_chunks()
    sides = [Positions(*(t[name].to_numpy() for name in ("ra", "dec")), t["object_id"], t["_healpix_29"].to_numpy())
             for t in (here, there)]  # fmt: skip
    pairs = match(*sides, RADIUS)
    left, right = here.take(pa.array(pairs.primary)), there.take(pa.array(pairs.counterpart))
    found = pa.table({**{f"a_{n}": left[n] for n in left.column_names}, **{f"b_{n}": right[n] for n in right.column_names}})
    _write(build.root, f"floor/{unit.name}.parquet", found)
    return len(found)


def run_bytes(build: Build, pool: Executor) -> int:
    """After `ours`, whose match table says how much is written. Pairs are those that it found."""
    list(pool.map(partial(_bytes, build), units := units_of("match", build)))
    tables = [build.root.path(partition_path(match_folder("bench"), block_of(unit.name))) for unit in units]
    return sum(pq.read_metadata(path).num_rows for path in tables)


def _bytes(build: Build, unit: Unit) -> None:
    start, stop = block_of(unit.name).range
    read = bytearray()
    for sky in (item for item in unit.inputs if isinstance(item, Sky)):
        for partition in (p for p in sky.partitions if start <= p.cell.range[0] < stop):
            path = build.root.path(partition.path)
            footer = pq.read_metadata(path)
            with open(path, "rb", buffering=0) as file:
                for group, column in product(range(footer.num_row_groups), range(footer.num_columns)):
                    chunk = footer.row_group(group).column(column)
                    if chunk.path_in_schema in ("_healpix_29", *COLUMNS):
                        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                        read += file.read(chunk.total_compressed_size)
    target = Path(build.root.path(f"bytes/{unit.cell}"))
    target.parent.mkdir(exist_ok=True)
    written = build.root.size(partition_path(match_folder("bench"), block_of(unit.name))) or 0
    target.write_bytes(memoryview(read)[:written])


def _write(root: Root, path: str, table: pa.Table) -> None:
    Path(root.path(path)).parent.mkdir(parents=True, exist_ok=True)
    plain = [name for name in table.column_names if name.endswith("source_file")]
    pq.write_table(table, root.path(path), compression="zstd", compression_level=1, use_dictionary=plain)


def _in_memory(build: Build) -> list[pa.Table]:
    return [pq.read_table(build.root.path(f"{object_folder(name)}/dataset"), columns=["_healpix_29", "ra", "dec", "object_id"])
            for name in ("one", "two")]  # fmt: skip


def _write_pairs(build: Build, name: str, tables: list[pa.Table], i: np.ndarray, j: np.ndarray) -> int:
    left, right = tables[0].take(pa.array(i)), tables[1].take(pa.array(j))
    _write(build.root, f"{name}.parquet", pa.table({"a": left["object_id"], "b": right["object_id"], "ra": left["ra"]}))
    return len(i)


def run_ckdtree(build: Build, _: Executor) -> int:
    """One tree of the whole sky."""
    tables = _in_memory(build)
    one, two = (unit_vectors(table["ra"].to_numpy(), table["dec"].to_numpy()) for table in tables)
    distance, j = cKDTree(two).query(one, distance_upper_bound=float(chord(RADIUS)), workers=2)
    return _write_pairs(build, "ckdtree", tables, np.flatnonzero(np.isfinite(distance)), j[np.isfinite(distance)])


def run_astropy(build: Build, _: Executor) -> int:
    from astropy.coordinates import SkyCoord

    tables = _in_memory(build)
    one, two = (SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg") for table in tables)
    j, separation, _distance = one.match_to_catalog_sky(two)
    close = separation.arcsec <= RADIUS
    return _write_pairs(build, "astropy", tables, np.flatnonzero(close), j[close])


def run_lsdb(build: Build, _: Executor) -> int:
    import lsdb

    target = build.root.path("lsdb")
    columns = ["object_id", "source_file", "source_row", "ra", "dec"]
    one, two = (lsdb.open_catalog(build.root.path(object_folder(name)), columns=columns) for name in ("one", "two"))
    found = one.crossmatch(two, radius_arcsec=RADIUS, n_neighbors=1, suffixes=("_one", "_two"))
    found.write_catalog(target, catalog_name="found", overwrite=True, progress_bar=False)
    return len(lsdb.open_catalog(target))


def run_acid(build: Build, _: Executor) -> int:
    import acid
    from astropy import units

    target = Path(build.root.path("acid"))
    one, two = (acid.open(build.root.path(object_folder(name)), alias=name) for name in ("one", "two"))
    one.crossmatch(two, radius=RADIUS * units.arcsec).save(str(target), overwrite=True)
    return sum(pq.read_metadata(path).num_rows for path in target.rglob("Npix=*.parquet"))


RUN: dict[str, Callable[[Build, Executor], int]] = {
    "ours": run_ours, "floor": run_floor, "bytes": run_bytes, "lsdb": run_lsdb, "acid": run_acid, "ckdtree": run_ckdtree,
    "astropy": run_astropy,
}  # fmt: skip


def compare(build: Build, workers: int, rounds: int, peers: list[str], title: str) -> None:
    """Time the peers in turn, and print them."""
    took: dict[str, list[Took]] = {name: [] for name in peers}
    clients = []
    if "lsdb" in peers:
        from distributed import Client

        clients.append(Client(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"))
    if "acid" in peers:
        import acid
        from acid.tools.build_margin import build_margin_cache

        os.environ["ACID_WORK_AUTOSIZE"] = "0"  # else it asks for a map of counts that only some importers write
        acid.init(workers=workers)
        start = time.perf_counter()
        build_margin_cache(build.root.path(object_folder("two")), margin_arcsec=RADIUS, workers=workers)
        Console().print(f"margin catalog that acid needs, before its clock starts: {time.perf_counter() - start:.1f} s")
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(time.sleep, [0.2] * workers))
        for _ in range(rounds):
            for name in peers:
                took[name].append(measured(partial(RUN[name], build, pool)))
    for client in clients:
        client.close()
    table = Table(title=title)
    for column in ("", "s (first)", "s (median)", "s (best)", "CPU-s (best)", "peak MB", "pairs", "ratio to ours"):
        table.add_column(column, justify="left" if not column else "right")
    ours = statistics.median(item.seconds for item in took["ours"])
    for name, items in took.items():
        seconds = [item.seconds for item in items]
        median = statistics.median(seconds)
        numbers = (seconds[0], median, min(seconds), min(item.cpu for item in items))
        peak = max(item.peak for item in items) / 1e6
        table.add_row(
            name, *(f"{number:.2f}" for number in numbers), f"{peak:.0f}", f"{items[-1].found:,}", f"{median / ours:.2f}"
        )
    Console().print(table)
    pairs = {name: items[-1].found for name, items in took.items()}
    missed = {name: pairs["ours"] - found for name, found in pairs.items() if found != pairs["ours"]}
    cells = len(np.unique([unit.cell for unit in units_of("match", build)]))
    Console().print(f"{cells} units; pairs that others do not find: {missed or 'none'}")


def curve(workers: int) -> None:
    """Ours, from one to ten million rows, with one worker and with several."""
    table = Table(title="the match stage, 12 partitions, 1 arcsec, nearest")
    for column in ("rows x rows", "s, 1 worker", f"s, {workers} workers", "ratio", "us a row", "peak MB"):
        table.add_column(column, justify="right")
    for millions in (1, 2, 5, 10):
        with tempfile.TemporaryDirectory() as folder:
            build = matched_build(Root(folder), dict(zip(("one", "two"), two_skies(millions * 10**6, 2 * 10**6), strict=True)), 0)
            seconds, peak = [], 0
            for number in (1, workers):
                with ProcessPoolExecutor(number) as pool:
                    list(pool.map(time.sleep, [0.2] * number))
                    items = [measured(partial(run_ours, build, pool)) for _ in range(3)]
                seconds.append(min(item.seconds for item in items))
                peak = max(item.peak for item in items)
            rows = (millions + 2) * 10**6
            table.add_row(f"{millions}M x 2M", *(f"{s:.2f}" for s in seconds), f"{seconds[1] / seconds[0]:.2f}",
                          f"{seconds[0] / rows * 1e6:.2f}", f"{peak / 1e6:.0f}")  # fmt: skip
    Console().print(table)


def main(
    rows: Annotated[float, typer.Option(help="Objects of the primary.")] = 2e6,
    other: Annotated[float, typer.Option(help="Objects of the counterpart.")] = 2e6,
    order: Annotated[int, typer.Option(min=0, max=CELL_ORDER, help="Order of the partitions of both.")] = 3,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are printed.")] = 3,
    peers: Annotated[str, typer.Option(help="Who takes part.")] = ",".join(PEERS),
    scaling: Annotated[bool, typer.Option("--curve", help="Ours alone, over sizes and workers.")] = False,
) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    if scaling:
        curve(workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        skies = two_skies(int(rows), int(other))
        build = matched_build(Root(folder), dict(zip(("one", "two"), skies, strict=True)), order)
        title = f"{int(rows):,} x {int(other):,} objects, {12 * 4**order} partitions, {workers} workers"
        compare(build, workers, rounds, peers.split(","), title)


if __name__ == "__main__":
    typer.run(main)

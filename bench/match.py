"""How fast are two HATS catalogs on disk matched into a match table on disk? Against LSDB, and against the bare kernel.

    python -m bench.match [--rows 2000000] [--other 2000000] [--order 3] [--workers 2] [--rounds 3]

Both read the same files and write Parquet: 1 arcsec, nearest, all sky, partitions at `--order` (3: 768 of them). LSDB runs with
its Dask client (open, plan, compute, write); its plan compiles numba code once a session, which is in its first round only.
The floor reads the two columns that a match needs, finds pairs with one scipy tree per cell and writes nothing. Pairs must be
the same. Goal: at least ten times less wall time than LSDB at 768 partitions.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import healpy as hp
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from mmu_pipeline.candidates import Positions
from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey
from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.matching import match
from mmu_pipeline.sky import CELL_ORDER, Cell, healpix29, margin_ranges, pixels_at
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.objects import read_objects
from mmu_pipeline.stages.pipeline import STAGE_FUNCTIONS
from mmu_pipeline.stages.scan import object_schema
from mmu_pipeline.stages.skies import Sky
from mmu_pipeline.storage import Root, match_folder, object_folder, partition_path

RADIUS = 1.0


def survey(name: str, order: int) -> Survey:
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True)
    return Survey(
        name=name, title=name, modality="table", release="none", summary="Made by a benchmark.", forms={"cells": form}, fields=(),
        licence="none", citation="none", partition_order=order,
    )  # fmt: skip


def write_catalog(root: Root, name: str, ra: np.ndarray, dec: np.ndarray, order: int) -> list[Partition]:
    """A catalog as the pipeline stores it, which LSDB opens too."""
    index = healpix29(ra, dec)
    rows = np.argsort(index, kind="stable")
    index, ra, dec = index[rows], ra[rows], dec[rows]
    pixels = pixels_at(index, order)
    edges = np.flatnonzero(np.diff(pixels, prepend=-1, append=-1))
    partitions = []
    schema = object_schema(survey(name, order))
    for start, stop in pairwise(edges):
        part = slice(start, stop)
        table = pa.table(
            {
                "_healpix_29": index[part], "ra": ra[part], "dec": dec[part],
                "object_id": pa.array(rows[part]).cast(pa.string()),
                "source_file": pa.array(["x.hdf5"] * (stop - start)), "source_row": rows[part],
            }
        ).cast(schema)  # fmt: skip
        cell = Cell(order, int(pixels[start]))
        path = partition_path(object_folder(name), cell)
        root.write_table(path, table)
        partitions.append(Partition(cell, path, len(table), str(start)))
    write_metadata(root, object_folder(name), name, partitions)
    return partitions


def make_sky(root: Root, rows: int, other: int, order: int) -> dict[str, list[Partition]]:
    """Two all-sky catalogs; every second object of the smaller one lies within an arcsecond of one of the other's."""
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, rows), np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))
    also, up = rng.uniform(0, 360, other), np.degrees(np.arcsin(rng.uniform(-1, 1, other)))
    shared = min(rows, other) // 2
    also[:shared], up[:shared] = ra[:shared], np.clip(dec[:shared] + rng.normal(0, 0.3 / 3600, shared), -90, 90)
    return {"one": write_catalog(root, "one", ra, dec, order), "two": write_catalog(root, "two", also, up, order)}


def units_of(catalogs: dict[str, list[Partition]], groups: int) -> list[list[Unit]]:
    """Match units of all cells, in runs along the sky."""
    order = catalogs["one"][0].cell.order
    shift = 2 * (CELL_ORDER - order)
    by_pixel = {name: {part.cell.pixel: part for part in partitions} for name, partitions in catalogs.items()}
    around = hp.get_all_neighbours(1 << CELL_ORDER, np.arange(12 * 4**CELL_ORDER), nest=True)
    units = []
    for cell in range(12 * 4**CELL_ORDER):
        near = sorted({pixel >> shift for pixel in (cell, *around[:, cell].tolist()) if pixel >= 0})
        skies = (Sky(name, tuple(known[pixel] for pixel in near if pixel in known)) for name, known in by_pixel.items())
        units.append(Unit("match", f"bench/{cell}", cell, inputs=tuple(skies)))
    return [list(part) for part in np.array_split(np.array(units, object), groups)]


def run_ours(build: Build, units: list[Unit]) -> int:
    return sum(STAGE_FUNCTIONS["match"](unit, build).facts["matched"]["two"] for unit in units)


def run_floor(build: Build, units: list[Unit]) -> int:
    """Read positions, match, forget."""
    pairs = 0
    for unit in units:
        one, two = unit.inputs
        cell = Cell(CELL_ORDER, unit.cell or 0)
        tables = [
            read_objects(build, "one", one.partitions, margin_ranges(cell, 0.0), ["ra", "dec"]),  # type: ignore[attr-defined]
            read_objects(build, "two", two.partitions, margin_ranges(cell, RADIUS), ["ra", "dec"]),  # type: ignore[attr-defined]
        ]
        here, there = (Positions(t["ra"].to_numpy(), t["dec"].to_numpy(), np.arange(len(t))) for t in tables)
        pairs += len(match(here, there, RADIUS).primary)
    return pairs


def run_lsdb(root: Root, workers: int, target: str) -> int:
    import lsdb
    from distributed import Client

    with Client(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as _:
        one, two = (
            lsdb.open_catalog(root.path(object_folder(name)), columns=["object_id", "ra", "dec"]) for name in ("one", "two")
        )
        found = one.crossmatch(two, radius_arcsec=RADIUS, n_neighbors=1, suffixes=("_one", "_two"))
        found.write_catalog(target, catalog_name="found", overwrite=True, progress_bar=False)
        return len(lsdb.open_catalog(target))


def timed(action: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    pairs = action()
    return time.perf_counter() - start, pairs


def main(
    rows: Annotated[int, typer.Option(help="Objects of the primary.")] = 2_000_000,
    other: Annotated[int, typer.Option(help="Objects of the counterpart.")] = 2_000_000,
    order: Annotated[int, typer.Option(min=0, max=CELL_ORDER, help="Order of the partitions of both.")] = 3,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are printed.")] = 3,
) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers) as pool:
        root = Root(folder)
        catalogs = make_sky(root, rows, other, order)
        surveys = {name: survey(name, order) for name in catalogs}
        counterpart = Counterpart(survey="two", radius_arcsec=RADIUS, pick="nearest", how="inner")
        build = Build(Recipe(name="bench", primary=Selection(survey="one"), counterparts=(counterpart,)), surveys, {}, root)
        groups = units_of(catalogs, 8 * workers)
        list(pool.map(abs, range(workers)))
        actions: dict[str, Callable[[], int]] = {
            "floor: read, match": lambda: sum(pool.map(partial(run_floor, build), groups)),
            "mmu_pipeline": lambda: sum(pool.map(partial(run_ours, build), groups)),
            "LSDB": lambda: run_lsdb(root, workers, str(Path(folder) / "lsdb")),
        }
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        pairs: dict[str, int] = {}
        for _ in range(rounds):
            for name, action in actions.items():
                took, pairs[name] = timed(action)
                seconds[name].append(took)
        root.remove(match_folder("bench"), recursive=True)
    table = Table(
        title=f"{rows:,} x {other:,} objects, {12 * 4**order} partitions, {workers} workers, {RADIUS:g} arcsec, nearest"
    )
    for column in ("", "s (median)", "s (best)", "pairs", "ratio to ours"):
        table.add_column(column, justify="left" if not column else "right")
    ours = statistics.median(seconds["mmu_pipeline"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        table.add_row(name, f"{median:.1f}", f"{min(taken):.1f}", f"{pairs[name]:,}", f"{median / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

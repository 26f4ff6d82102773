"""How fast do source files become object tables? Against hats-import, with the margin catalog that LSDB needs to be exact.

    python -m bench.tables [--rows 2e6] [--files 8] [--orders 0,3] [--workers 2] [--rounds 1]

Both read the same Parquet files, whose rows lie all over the sky: an id, a position, four magnitudes. Ours is the stages `scan`
(reader `parquet_table`) and `objects` as a build runs them: planning, units, receipts, digests, HATS metadata; a table names the
source row of every object as well. A match needs no more, since it reads margins from the neighbours; what writing margin
catalogs adds is printed too, but not counted. hats-import maps, splits and reduces with its Dask client, and then makes the
margin of the same width. Pools and clients are there before the clock starts. Both must give the same ids in the same
partitions, at the same `_healpix_29` but for rounding. Goals, in CPU seconds: 4x at 12 partitions (order 0), 20x at 768
(order 3).
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from bench.peak import Took, measured
from mmu_pipeline.catalog import Form, Recipe, Selection, Survey
from mmu_pipeline.fields import Field
from mmu_pipeline.sky import CELL_ORDER
from mmu_pipeline.stages.build import Build, Source, Unit
from mmu_pipeline.stages.margins import finish, margin_units
from mmu_pipeline.stages.partitions import object_partitions
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.receipts import stage_receipts
from mmu_pipeline.storage import Root, object_folder

NAME = "stars"
ARCSEC = 1.0
"""Width of the margins."""
ROUNDING = 5e-9
"""Radians, 1 mas: two pixels of `_healpix_29`."""
MAGNITUDES = ("g_mag", "r_mag", "i_mag", "z_mag")
GOALS = {0: 4.0, 3: 20.0}
"""Order of the partitions -> how many times the CPU seconds of ours hats-import should need."""


def write_files(folder: Path, rows: int, files: int) -> None:
    """A catalog of the whole sky in no order, as so many Parquet files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        table = pa.table(
            {
                "object_id": pa.array(part).cast(pa.string()),
                "ra": rng.uniform(0, 360, len(part)),
                "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, len(part)))),
                **{name: rng.normal(20, 2, len(part)).astype("f4") for name in MAGNITUDES},
            }
        )
        pq.write_table(table, folder / f"part-{number:04d}.parquet")


def stars(folder: Path, root: Root, order: int) -> Build:
    """A build of the files in a folder, its object table cut at an order."""
    fields = tuple(Field(name=name, dtype="float32", unit="mag") for name in MAGNITUDES)
    survey = Survey(
        name=NAME, title=NAME, modality="table", release="none", summary="Made by a benchmark.", licence="none", citation="none",
        forms={"parquet": Form(reader="parquet_table", files=("*.parquet",))}, fields=fields, partition_order=order,
    )  # fmt: skip
    recipe = Recipe(name="bench", primary=Selection(survey=NAME))
    return Build(recipe, {NAME: survey}, {NAME: Source("parquet", str(folder))}, root)


def _done(build: Build, pool: Executor, units: list[Unit]) -> list[Any]:
    outcomes = list(pool.map(run_unit, units, [build] * len(units)))
    if missing := [outcome.receipt.reason for outcome in outcomes if outcome.status != "done"]:
        raise SystemExit(f"units that were not done: {missing}")
    return outcomes


def run_ours(build: Build, pool: Executor) -> int:
    """From source files to the object table and its metadata."""
    for stage in ("scan", "objects"):
        finish_stage(stage, build, outcomes := _done(build, pool, units_of(stage, build)))
    return sum(outcome.receipt.rows_out or 0 for outcome in outcomes)


def run_margin(build: Build, pool: Executor) -> int:
    """The margin catalog of the table that is there."""
    partitions = object_partitions(build, NAME, stage_receipts(build, "objects"))
    outcomes = _done(build, pool, margin_units(NAME, partitions, ARCSEC))
    finish(build, outcomes)
    return sum(outcome.receipt.rows_out or 0 for outcome in outcomes)


def run_import(files: Path, target: Path, order: int, client: Any) -> int:
    """From source files to a catalog, by hats-import."""
    from hats_import.catalog import ImportArguments
    from hats_import.pipeline import pipeline_with_client

    arguments = ImportArguments(
        output_path=target, output_artifact_name=NAME, input_path=files, file_reader="parquet", sort_columns="object_id",
        constant_healpix_order=order, progress_bar=False,
    )  # fmt: skip
    pipeline_with_client(arguments, client)
    return _rows(target / NAME)


def run_import_margin(target: Path, client: Any) -> int:
    """The margin catalog of what hats-import made."""
    from hats_import.margin_cache.margin_cache_arguments import MarginCacheArguments
    from hats_import.pipeline import pipeline_with_client

    arguments = MarginCacheArguments(
        output_path=target, output_artifact_name=f"{NAME}_margin", input_catalog_path=target / NAME, margin_threshold=ARCSEC,
        progress_bar=False,
    )  # fmt: skip
    pipeline_with_client(arguments, client)
    return _rows(target / f"{NAME}_margin")


def _rows(catalog: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in catalog.rglob("Npix=*.parquet"))


def content(catalog: Path) -> pa.Table:
    """Where each object of a catalog lies: `object_id`, partition, `_healpix_29`; by id."""
    paths = sorted(catalog.rglob("Npix=*.parquet"))
    tables = [pq.ParquetFile(path).read(["_healpix_29", "object_id"]) for path in paths]
    table = pa.table(
        {
            "object_id": pa.chunked_array([table["object_id"].combine_chunks().cast(pa.string()) for table in tables]),
            "partition": np.repeat([path.name for path in paths], [len(table) for table in tables]),
            "index": np.concatenate([table["_healpix_29"].to_numpy() for table in tables]),
        }
    )
    return table.sort_by("object_id").combine_chunks()


def check_same(ours: pa.Table, theirs: pa.Table) -> None:
    """Raise SystemExit where ids or partitions differ. One position in millions rounds to another pixel, beside its own."""
    if not ours.select(["object_id", "partition"]).equals(theirs.select(["object_id", "partition"])):
        raise SystemExit("other ids than hats-import, or in other partitions")
    one, two = (np.array(hp.pix2vec(1 << 29, table["index"].to_numpy(), nest=True)) for table in (ours, theirs))
    if (apart := np.abs(one - two).max()) > ROUNDING:
        raise SystemExit(f"other places than hats-import: {np.degrees(apart) * 3600:.2g} arcsec apart")


def once(folder: Path, order: int, pool: Executor, client: Any) -> dict[str, Took]:
    """Each step at one order, its results compared and removed."""
    ours, theirs = folder / "ours", folder / "theirs"
    build = stars(folder / "files", Root(str(ours)), order)
    steps: dict[str, Callable[[], int]] = {
        "ours": partial(run_ours, build, pool),
        "ours: margin catalog (not needed)": partial(run_margin, build, pool),
        "hats-import": partial(run_import, folder / "files", theirs, order, client),
        "hats-import: margin catalog": partial(run_import_margin, theirs, client),
    }
    took = {}
    for name, step in steps.items():
        took[name] = measured(step)
        Console().print(f"order {order}, {name}: {took[name].cpu:.1f} CPU-s")  # the margin of many partitions takes a long while
    check_same(content(ours / object_folder(NAME)), content(theirs / NAME))
    for place in (ours, theirs):
        rmtree(place)
    return took


def best(rounds: list[dict[str, Took]]) -> dict[str, Took]:
    """Of each step the round with the least CPU time."""
    return {name: min((found[name] for found in rounds), key=lambda item: item.cpu) for name in rounds[0]}


def main(
    rows: Annotated[float, typer.Option(help="Objects.")] = 2e6,
    files: Annotated[int, typer.Option(help="Source files that hold them.")] = 8,
    orders: Annotated[str, typer.Option(help=f"Orders of the partitions, 0 to {CELL_ORDER}.")] = "0,3",
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; the least CPU time is printed.")] = 1,
) -> None:
    """Measure, print and compare with the goals; exit 1 where one is missed."""
    from distributed import Client

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    missed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_files(folder / "files", int(rows), files)
        with (
            Client(
                n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
            ) as client,
            ProcessPoolExecutor(workers) as pool,
        ):
            list(pool.map(time.sleep, [0.2] * workers))
            for order in (int(text) for text in orders.split(",")):
                found = best([once(folder, order, pool, client) for _ in range(rounds)])
                table = Table(title=f"{int(rows):,} rows in {files} files to {12 * 4**order} partitions, {workers} workers")
                for column in ("", "s", "CPU-s", "peak MB", "rows"):
                    table.add_column(column, justify="left" if not column else "right")
                for name, item in found.items():
                    table.add_row(name, f"{item.seconds:.1f}", f"{item.cpu:.1f}", f"{item.peak / 1e6:.0f}", f"{item.found:,}")
                theirs = [item for name, item in found.items() if name.startswith("hats-import")]
                cpu = sum(item.cpu for item in theirs) / found["ours"].cpu
                seconds = sum(item.seconds for item in theirs) / found["ours"].seconds
                goal = GOALS.get(order)
                missed += goal is not None and cpu < goal
                Console().print(table)
                Console().print(f"hats-import with its margin against ours: {cpu:.1f}x the CPU, {seconds:.1f}x the time;"
                                f" goal {goal or 'none'}")  # fmt: skip
    raise typer.Exit(code=int(missed > 0))


if __name__ == "__main__":
    typer.run(main)

"""What does it take to have the arrays of matched objects in files? Against LSDB's crossmatch, in CPU, time, bytes and memory.

    python -m bench.fetch [--rows 20000 --rows 60000] [--share 0.01] [--workers 2] [--rounds 2]

Two catalogs, whose rows carry a spectrum of 20 kB, lie in a square of 10 degrees; 1 % of them are within an arcsecond of each
other. LSDB opens the HATS catalogs, matches them and writes both spectra of every pair. Ours builds and publishes checked
shards: once from HDF5 files, a chunk a row, as the Multimodal Universe publishes them; once from the very Parquet files that
LSDB reads, of which it must read whole row groups (20 rows each). Pools and clients are there before the clock starts, and all
surveys' YAML is read, once a command. Code is imported in the first round. Bytes are those that all processes were given by
read(), with what writing and checking the shards reads. The spectra must be the same.
Goals, from HDF5 at the largest size: 10x less CPU and 10x fewer bytes than LSDB; memory that grows by no more than half from
the smallest size to the largest.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Annotated

import h5py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from bench.peak import Took, measured
from bench.skies import RADIUS, Places, along_the_sky, two_skies
from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.loader import ShardDataset
from mmu_pipeline.sky import CELL_ORDER, Cell, pixels_at
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.storage import Root, partition_path, shard_folder

PIXELS = 5_000
ROW_GROUP = 20
DEGREES = 10.0
GOAL, GROWTH = 10.0, 1.5
PEERS = ("ours, HDF5", "ours, Parquet", "LSDB")
SURVEY = """
name: {name}
title: Spectra of 20 kB
modality: spectrum
release: none
summary: Made by a benchmark.
licence: none
citation: none
forms:
  mmu_v1: {{reader: mmu_v1, files: ["healpix=*/*.hdf5"], cut_by_cell: true}}
  hats: {{reader: hats, files: ["dataset/Norder=*/Dir=*/Npix=*.parquet"], cut_by_cell: true}}
fields:
  - {{name: flux, dtype: float32, shape: [{pixels}]}}
"""
RECIPE = """
name: fetch
primary: {survey: one}
counterparts:
  - {survey: two, radius_arcsec: 1.0, pick: nearest, how: inner}
"""
Spectra = dict[str, tuple[float, float]]
"""Id of the primary of each pair -> sum of its spectrum, and of its counterpart's."""


@dataclass(frozen=True)
class Fetched:
    """What one fetch took."""

    took: Took
    read: int
    """Bytes that all processes were given by read()."""


def bytes_read() -> int:
    """By this process and all below it, those that have ended included."""
    here = psutil.Process()
    return sum(process.io_counters().read_chars for process in (here, *here.children(recursive=True)))


def write_survey(folder: Path, name: str, places: Places, seed: int) -> None:
    """The same rows as HDF5 cells in `mmu_v1/NAME` and as a HATS catalog in `hats/NAME`; the survey's YAML in `surveys`."""
    (folder / "surveys").mkdir(exist_ok=True)
    (folder / "surveys" / f"{name}.yaml").write_text(SURVEY.format(name=name, pixels=PIXELS))
    root, rng = Root(str(folder)), np.random.default_rng(seed)
    index, ra, dec, rows = along_the_sky(places)
    pixels, partitions = pixels_at(index, CELL_ORDER), []
    for start, stop in pairwise(np.flatnonzero(np.diff(pixels, prepend=-1, append=-1)).tolist()):
        part, cell = slice(start, stop), Cell(CELL_ORDER, int(pixels[start]))
        flux = rng.normal(size=(stop - start, PIXELS)).astype("f4")
        ids = rows[part].astype(str)
        place = folder / "mmu_v1" / name / f"healpix={cell.pixel}"
        place.mkdir(parents=True)
        with h5py.File(place / "001-of-001.hdf5", "w") as file:
            file["object_id"], file["ra"], file["dec"] = ids.astype("S"), ra[part], dec[part]
            file.create_dataset("flux", data=flux, chunks=(1, PIXELS))
        path = partition_path(f"hats/{name}", cell)
        Path(root.path(path)).parent.mkdir(parents=True, exist_ok=True)
        columns = {"_healpix_29": index[part], "ra": ra[part], "dec": dec[part], "object_id": ids}
        spectra = pa.FixedSizeListArray.from_arrays(pa.array(flux.ravel()), PIXELS).cast(pa.list_(pa.float32()))
        pq.write_table(pa.table({**columns, "flux": spectra}), root.path(path), compression="zstd", row_group_size=ROW_GROUP)
        partitions.append(Partition(cell, path, stop - start, str(start)))
    write_metadata(root, f"hats/{name}", name, partitions)


def prepared(folder: Path, form: str) -> Build:
    """The build that reads one form of both catalogs."""
    sources = {name: str(folder / form / name) for name in ("one", "two")}
    return prepare(str(folder / "fetch.yaml"), root=str(folder / "ours"), sources=sources, survey_dirs=[folder / "surveys"])


def run_ours(build: Build, pool: Executor) -> int:
    """From source files to a published set, without what orchestrates it."""
    for stage in STAGES:
        units = units_of(stage, build)
        outcomes = list(pool.map(run_unit, units, [build] * len(units)))
        if missing := [outcome.receipt.reason for outcome in outcomes if outcome.status != "done"]:
            raise SystemExit(f"units that were not done: {missing}")
        finish_stage(stage, build, outcomes)
    return publish(build).samples


def spectra_of_ours(folder: Path) -> Spectra:
    dataset = ShardDataset(folder / "ours" / Path(shard_folder("fetch", "")), split=None)
    return {
        sample["one_object_id"]: tuple(float(sample[f"{name}.flux"].sum(dtype="f8")) for name in ("one", "two"))  # type: ignore[misc]
        for sample in dataset
    }


def run_lsdb(folder: Path) -> int:
    """The crossmatch of both catalogs, all columns, written as a catalog."""
    import lsdb

    one, two = (lsdb.open_catalog(folder / "hats" / name) for name in ("one", "two"))
    found = one.crossmatch(two, radius_arcsec=RADIUS, n_neighbors=1, suffixes=("_one", "_two"), suffix_method="all_columns")
    found.write_catalog(folder / "lsdb", catalog_name="found", overwrite=True, progress_bar=False)
    return sum(pq.read_metadata(path).num_rows for path in _written(folder))


def _written(folder: Path) -> Iterator[Path]:
    return (folder / "lsdb").rglob("Npix=*.parquet")


def spectra_of_lsdb(folder: Path) -> Spectra:
    found: Spectra = {}
    for path in _written(folder):
        table = pq.ParquetFile(path).read(["object_id_one", "flux_one", "flux_two"])
        sums = [[float(row.values.to_numpy().sum(dtype="f8")) for row in table[name]] for name in ("flux_one", "flux_two")]
        found |= dict(zip(table["object_id_one"].to_pylist(), zip(*sums, strict=True), strict=True))
    return found


def fetch(folder: Path, peer: str, builds: dict[str, Build], pool: Executor) -> tuple[Fetched, Spectra]:
    """One fetch, from nothing, and what it brought."""
    for name in ("ours", "lsdb"):
        rmtree(folder / name, ignore_errors=True)
    actions: dict[str, tuple[Callable[[], int], Callable[[Path], Spectra]]] = {
        "ours, HDF5": (partial(run_ours, builds["mmu_v1"], pool), spectra_of_ours),
        "ours, Parquet": (partial(run_ours, builds["hats"], pool), spectra_of_ours),
        "LSDB": (partial(run_lsdb, folder), spectra_of_lsdb),
    }
    action, spectra = actions[peer]
    before = bytes_read()
    took = measured(action)
    return Fetched(took, bytes_read() - before), spectra(folder)


def compare(rows: int, share: float, workers: int, rounds: int) -> dict[str, list[Fetched]]:
    """Every peer in turn, on one sky. Raises SystemExit where their spectra differ."""
    from distributed import Client

    found: dict[str, list[Fetched]] = {peer: [] for peer in PEERS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "fetch.yaml").write_text(RECIPE)
        for seed, (name, places) in enumerate(zip(("one", "two"), two_skies(rows, rows, DEGREES, share=share), strict=True)):
            write_survey(folder, name, places, seed)
        with (
            Client(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR),
            ProcessPoolExecutor(workers) as pool,
        ):
            list(pool.map(time.sleep, [0.2] * workers))
            builds = {form: prepared(folder, form) for form in ("mmu_v1", "hats")}
            for _ in range(rounds):
                brought = {}
                for peer in PEERS:
                    fetched, brought[peer] = fetch(folder, peer, builds, pool)
                    found[peer].append(fetched)
                if any(spectra != brought["LSDB"] for spectra in brought.values()):
                    raise SystemExit(f"other spectra than LSDB: pairs { ({peer: len(item) for peer, item in brought.items()}) }")
    return found


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Rows of either catalog. Repeatable.")] = None,
    share: Annotated[float, typer.Option(help="Share of them that match.")] = 0.01,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; the least CPU time and bytes are printed.")] = 2,
) -> None:
    """Measure, print and compare with the goals; exit 1 where one is missed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    peaks, worst = [], 0.0
    for count in sorted(rows or [20_000, 60_000]):
        found = compare(count, share, workers, rounds)
        least = {peer: (min(item.took.cpu for item in items), min(item.read for item in items)) for peer, items in found.items()}
        table = Table(title=f"{count:,} x {count:,} rows of {4 * PIXELS / 1e3:.0f} kB, {workers} workers")
        for column in ("", "s", "CPU-s", "LSDB's", "MB read", "LSDB's", "peak MB", "pairs"):
            table.add_column(column, justify="left" if not column else "right")
        for peer, items in found.items():
            cpu, read = least[peer]
            against = [theirs / mine for theirs, mine in zip(least["LSDB"], least[peer], strict=True)]
            peak = max(item.took.peak for item in items) / 1e6
            table.add_row(peer, f"{min(item.took.seconds for item in items):.1f}", f"{cpu:.1f}", f"{against[0]:.1f}x",
                          f"{read / 1e6:.1f}", f"{against[1]:.1f}x", f"{peak:.0f}", f"{items[-1].took.found}")  # fmt: skip
            if peer == PEERS[0]:
                peaks.append(peak)
                worst = min(against)
        Console().print(table)
    missed = worst < GOAL or peaks[-1] > GROWTH * peaks[0]
    Console().print(f"goals: {GOAL:.0f}x less CPU and bytes from HDF5, memory {GROWTH}x at most: {'missed' if missed else 'met'}")
    raise typer.Exit(code=int(missed))


if __name__ == "__main__":
    typer.run(main)

"""What does it cost to read the objects and arrays of a published cell, in memory and in CPU time?

    python -m bench.reading [--rows 20000] [--records 128] [--rounds 5]

Memory: the object table, then 100 chosen rows of a cell of 20,000 stamps of 5 x 160 x 160 with inverse variances and masks (23 GB
if it were filled: only the chosen rows hold data, the others are HDF5's fill value), in a process of its own, in batches as
the samples of a build are. Goal: below 500 MB at its peak, of which imports are about a third.

Speed: all rows of cells of three kinds: images, spectra, and a table. Peers: a loop over records as the published loaders have
it, each value of each record fetched through h5py; and the same datasets read whole, which is the limit. Records per CPU-second
(user and system time of the process), rounds that alternate between the three after one that is not counted; medians.
Goals: 10x the loop, 0.8x the limit.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.readers import mmu_v1

BATCH_BYTES = 74 * 1024**2
"""Arrays of one call, 64 images: less than what the samples stage holds."""
GOALS = {"loop over records": 10.0, "datasets read whole": 0.8}
PEAK_MB = 500
BLOCK = 100
LOOPED = 256
"""Records of one round of the loop."""
CHOSEN = 100
MEASURE = """
import sys
from pathlib import Path
from bench.reading import SURVEYS, chosen_rows, peak_mb, read_ours
imports = peak_mb()
read_ours(SURVEYS["hsc"], Path(sys.argv[1]), chosen_rows(int(sys.argv[2])))
print(imports, peak_mb())
"""
SURVEYS = load_surveys()


@dataclass(frozen=True)
class Cell:
    """A file of one survey, and what a record of it takes."""

    name: str
    survey: Survey
    path: Path
    arrays: tuple[str, ...]
    """Datasets of which each record has a row."""
    bands: int = 0
    """Planes that the published loader fetches one by one."""


def write_cell(path: Path, survey: Survey, datasets: dict[str, Any], count: int) -> Path:
    """A file with the given array datasets (name -> shape of a row, dtype), and random columns as the survey declares them."""
    rng = np.random.default_rng(1)
    form = survey.forms["mmu_v1"]
    with h5py.File(path, "w") as file:
        file[form.object_id] = np.arange(count) + 10**15
        file[form.ra[0]], file[form.dec[0]] = rng.uniform(0, 360, count), rng.uniform(-60, 60, count)
        for field in survey.columns:
            name = field.source_name("mmu_v1")
            if name and name not in file:
                shape = (count, *(int(length) for length in field.shape))
                file[name] = rng.uniform(1, 9, shape).astype("S3" if field.dtype == "string" else field.dtype)
        for name, (shape, dtype) in datasets.items():
            file.create_dataset(
                name,
                (count, *shape),
                dtype,
                chunks=(1 if len(shape) > 1 else min(count, BLOCK), *shape),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
    return path


def fill(path: Path, datasets: dict[str, Any], rows: list[int]) -> None:
    """Put noise, as coarse as that of real images, into some rows of the arrays."""
    rng = np.random.default_rng(2)
    with h5py.File(path, "a") as file:
        for name, (shape, dtype) in datasets.items():
            for start in range(0, len(rows), BLOCK):
                part = rows[start : start + BLOCK]
                noise = np.round(rng.normal(size=(len(part), *shape)) * 64) / 64
                file[name][part] = noise > -3 if dtype == "bool" else noise if "ivar" not in name else noise**2


def peak_mb() -> float:
    """The most memory that this process has held, as the Linux kernel counts it; unlike ru_maxrss not its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def chosen_rows(count: int) -> np.ndarray:
    """Rows spread over a cell."""
    return np.linspace(0, count - 1, CHOSEN).astype(np.int64)


def read_ours(survey: Survey, path: Path, rows: np.ndarray | None) -> int:
    """The object table, then the arrays of some rows or all."""
    table = mmu_v1.read_objects(survey, "mmu_v1", path).table
    rows = np.arange(len(table)) if rows is None else rows
    members = [field for field in survey.members if field.is_carried("mmu_v1")]
    ids = table["object_id"].take(pa.array(rows)).to_pylist() if members else []
    batch = max(1, BATCH_BYTES // max(1, sum(field.nominal_bytes for field in members)))
    for start in range(0, len(rows) if members else 0, batch):
        part = slice(start, start + batch)
        mmu_v1.read_arrays(survey, "mmu_v1", path, rows[part], ids[part], members)
    return len(rows)


def read_loop(cell: Cell) -> int:
    """As the published loaders read: each value of each record by its own access, planes of an image one by one."""
    scalars = [name for field in cell.survey.columns if (name := field.source_name("mmu_v1"))]
    id_name = cell.survey.forms["mmu_v1"].object_id
    with h5py.File(cell.path) as data:
        keys = data[id_name][:]
        order = np.argsort(keys)
        for key in keys[:LOOPED]:
            row = order[np.searchsorted(keys[order], key)]
            example: dict[str, Any] = {"object_id": str(data[id_name][row])}
            if cell.bands:
                example["image"] = [{name: data[name][row][band] for name in cell.arrays} for band in range(cell.bands)]
            else:
                example |= {name: data[name][row] for name in cell.arrays}
            for name in scalars:
                example[name] = data[name][row]
    return len(keys[:LOOPED])


def read_whole(cell: Cell) -> int:
    """The same datasets, each in one go."""
    form = cell.survey.forms["mmu_v1"]
    names = [name for field in cell.survey.columns if (name := field.source_name("mmu_v1"))]
    with h5py.File(cell.path) as data:
        whole = {name: data[name][()] for name in (form.object_id, form.ra[0], form.dec[0], *names, *cell.arrays)}
    return len(whole[form.object_id])


IMAGE = {"image_array": ((5, 160, 160), "f4"), "image_ivar": ((5, 160, 160), "f4"), "image_mask": ((5, 160, 160), "bool")}
SPECTRUM = {"coeff": ((110,), "f4"), "coeff_error": ((110,), "f4")}


def cells(folder: Path, records: int) -> list[Cell]:
    found = []
    for name, survey, datasets, count, bands in (
        ("images (hsc)", SURVEYS["hsc"], IMAGE, records, 5),
        ("spectra (gaia)", SURVEYS["gaia"], SPECTRUM, records * 100, 0),
        ("table (twomass)", SURVEYS["twomass"], {}, records * 100, 0),
    ):
        path = write_cell(folder / f"{survey.name}.hdf5", survey, datasets, count)
        fill(path, datasets, list(range(count)))
        found.append(Cell(name, survey, path, tuple(datasets), bands))
    return found


def rate(read: Callable[[], int]) -> float:
    start = time.process_time()
    return read() / (time.process_time() - start)


def main(
    rows: Annotated[int, typer.Option(help="rows of the cell of which memory is measured")] = 20_000,
    records: Annotated[
        int, typer.Option(help="images of a cell of which speed is measured; a hundred times as many for the others")
    ] = 128,
    rounds: Annotated[int, typer.Option(help="rounds, after one that is not counted")] = 5,
) -> None:
    """Measure, print and compare with the goals; exit 1 where one is missed."""
    console, missed = Console(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = write_cell(Path(folder) / "memory.hdf5", SURVEYS["hsc"], IMAGE, rows)
        fill(path, IMAGE, chosen_rows(rows).tolist())
        words = subprocess.run([sys.executable, "-c", MEASURE, str(path), str(rows)], check=True, capture_output=True, text=True)
        imports, peak = (float(word) for word in words.stdout.split())
        missed += peak > PEAK_MB
        console.print(
            f"{rows} rows, table and {CHOSEN} chosen: peak {peak:.0f} MB, of which imports {imports:.0f} MB; goal {PEAK_MB} MB"
        )
        path.unlink()
        table = Table("records per CPU-second", "ours", *GOALS, "ratios", "goals")
        for cell in cells(Path(folder), records):
            ways: tuple[Callable[[], int], ...] = (
                lambda cell=cell: read_ours(cell.survey, cell.path, None),  # type: ignore[misc]
                lambda cell=cell: read_loop(cell),  # type: ignore[misc]
                lambda cell=cell: read_whole(cell),  # type: ignore[misc]
            )
            found = [[rate(way) for way in ways] for _ in range(rounds + 1)][1:]
            ours, *peers = (statistics.median(column) for column in zip(*found, strict=True))
            ratios = [ours / peer for peer in peers]
            missed += sum(ratio < goal for ratio, goal in zip(ratios, GOALS.values(), strict=True))
            table.add_row(
                cell.name, f"{ours:.0f}", *(f"{peer:.0f}" for peer in peers), " ".join(f"{ratio:.2f}x" for ratio in ratios),
                " ".join(f"{goal}x" for goal in GOALS.values()),
            )  # fmt: skip
        console.print(table)
    raise typer.Exit(code=int(missed > 0))


if __name__ == "__main__":
    typer.run(main)

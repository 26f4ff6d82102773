"""How many bytes and requests does it take to read a remote cell's table, and the few rows of it that are matched?

    python -m bench.remote [--rows 50000] [--chosen 187]

Each file lies on an HTTP server of this machine. Arrays are stored in the three ways of the published cells: chunks of one
compressed row (hsc), one contiguous block (ssl_legacysurvey: a sparse file, only the chosen rows hold data), and nested columns
of Parquet, whose row groups are read as wholes (desi, a hundredth of the rows). A process of its own reads the table, then the
chosen rows in batches, as the scan and the samples of a build do. Goals: the rows of HDF5 files in less than 5 % of the bytes,
and less than 500 MB of memory. The values must be those of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from bench.reading import BATCH_BYTES, IMAGE, PEAK_MB, peak_mb, write_cell
from mmu_pipeline.catalog import Recipe, Selection, Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.stages.access import Access
from mmu_pipeline.stages.build import Build, Source, SourceFile
from mmu_pipeline.storage import Root

SURVEYS = load_surveys()
GOAL = 0.05
ROW_GROUP = 20
RANGES = {"MMU_REMOTE": '{"way": "ranges"}'}
CHILD = "import sys; from bench.remote import read_far; read_far(*sys.argv[1:])"


@dataclass(frozen=True)
class Stored:
    """A file of one survey in one form."""

    survey: str
    form: str
    path: Path
    chosen: np.ndarray
    goal: float | None


def chunked(path: Path, count: int) -> Path:
    """Stamps of hsc in compressed chunks of one row; all rows share their pixels, since only where they lie matters."""
    write_cell(path, SURVEYS["hsc"], IMAGE, count)
    stamp = np.zeros(IMAGE["image_array"][0], "f4")
    stamp[:, 60:100, 60:100] = np.round(np.random.default_rng(3).normal(size=(5, 40, 40)) * 64) / 64
    with h5py.File(path, "a") as file:
        for name in IMAGE:
            plain = stamp.astype(file[name].dtype)
            shuffled = np.ascontiguousarray(plain).view(np.uint8).reshape(-1, plain.itemsize).T
            chunk = zlib.compress(np.ascontiguousarray(shuffled).tobytes(), 1)
            for row in range(count):
                file[name].id.write_direct_chunk((row, 0, 0, 0), chunk)
    return path


def contiguous(path: Path, count: int, chosen: np.ndarray) -> Path:
    """Stamps of ssl_legacysurvey as they are published: one block, neither chunked nor compressed."""
    survey = SURVEYS["ssl_legacysurvey"]
    write_cell(path, survey, {}, count)
    with h5py.File(path, "a") as file:
        file["image_band"] = np.tile(np.array([b"g", b"r", b"z"]), (count, 1))
        for name in ("release", "brickid", "objid"):
            if name not in file:
                file[name] = np.arange(count)
        stamps = file.create_dataset("image_array", (count, 3, 152, 152), "f4")
        for row in chosen:
            stamps[row] = row
    return path


def nested(path: Path, count: int) -> Path:
    """Spectra of desi as a HATS partition."""
    rng, survey = np.random.default_rng(4), SURVEYS["desi"]
    form, pixels = survey.forms["hats"], 7781
    columns: dict[str, Any] = {"object_id": pa.array(np.arange(count).astype(str))}
    columns |= {names[0]: pa.array(rng.uniform(0, 60, count)) for names in (form.ra, form.dec)}
    spectrum: dict[str, Any] = {}
    for field in survey.fields:
        name = next(iter(field.source_names("hats")), "")
        dtype = "bool" if field.dtype == "bool" else "f4"
        if name.startswith("spectrum."):
            values = pa.array(rng.normal(size=count * pixels).astype(dtype))
            spectrum[name.removeprefix("spectrum.")] = pa.FixedSizeListArray.from_arrays(values, pixels)
        elif "{" in name:
            start, _, parts = name.rstrip("}").partition("{")
            columns |= {f"{start}{part}": pa.array(rng.normal(size=count).astype(dtype)) for part in parts.split(",")}
        elif name and name not in columns:
            columns[name] = pa.array(rng.integers(0, 2, count).astype(dtype))
    columns["spectrum"] = pa.StructArray.from_arrays(list(spectrum.values()), list(spectrum))
    pq.write_table(pa.table(columns), path, row_group_size=ROW_GROUP)
    return path


def access(survey: Survey, form: str, url: str) -> Access:
    recipe = Recipe(name="bench", primary=Selection(survey=survey.name))
    return Access(Build(recipe, {survey.name: survey}, {survey.name: Source(form, url)}, Root("."), cache="unused"))


def batches(survey: Survey, form: str, chosen: np.ndarray) -> Iterator[np.ndarray]:
    per_row = sum(field.nominal_bytes for field in survey.members if field.is_carried(form))
    step = max(1, BATCH_BYTES // per_row)
    yield from (chosen[start : start + step] for start in range(0, len(chosen), step))


def read_far(name: str, form: str, url: str, numbers: str) -> None:
    """Read a file at a distance as two units of a build do; print what each moved, the sum of all arrays, the peak of memory."""
    survey, chosen = SURVEYS[name], np.array(json.loads(numbers))
    module, file = reader(survey.forms[form].reader), SourceFile(url.rsplit("/", 1)[1], (url,))
    scan, samples = access(survey, form, url), access(survey, form, url)
    table = scan.read(survey, file, lambda path: module.read_objects(survey, form, path)).table
    ids = table["object_id"].take(pa.array(chosen)).to_pylist()
    members = [field for field in survey.members if field.is_carried(form)]
    total, start = 0.0, 0
    for rows in batches(survey, form, chosen):
        read = partial(arrays_of, survey, form, rows, ids[start : start + len(rows)])
        total += samples.read(survey, file, read, chosen, members)
        start += len(rows)
    moved = [next(iter(unit.moved.values())) for unit in (scan, samples)]
    print(json.dumps({"table": moved[0], "rows": moved[1], "sum": total, "peak": peak_mb()}))


def arrays_of(survey: Survey, form: str, rows: np.ndarray, ids: list[str], path: Path | RangedFile) -> float:
    """The sum of all arrays of some rows."""
    members = [field for field in survey.members if field.is_carried(form)]
    found = reader(survey.forms[form].reader).read_arrays(survey, form, path, rows, ids, members)
    return float(sum(np.sum(array, dtype=np.float64) for arrays in found.values() for array in arrays))


def read_near(stored: Stored) -> float:
    """The same sum from the file itself."""
    survey, form, chosen = SURVEYS[stored.survey], stored.form, stored.chosen
    table = reader(survey.forms[form].reader).read_objects(survey, form, stored.path).table
    ids, start, total = table["object_id"].take(pa.array(chosen)).to_pylist(), 0, 0.0
    for rows in batches(survey, form, chosen):
        total += arrays_of(survey, form, rows, ids[start : start + len(rows)], stored.path)
        start += len(rows)
    return total


def main(
    rows: Annotated[int, typer.Option(help="rows of each HDF5 file")] = 50_000,
    chosen: Annotated[int, typer.Option(help="rows of it that are matched")] = 187,
) -> None:
    """Measure, print and compare with the goals; exit 1 where one is missed."""
    missed = 0
    report = Table("file", "MB", "table: MB", "requests", f"{chosen} rows: MB", "requests", "of the file", "goal", "peak MB")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        place = Path(folder)
        picked = np.sort(np.random.default_rng(5).choice(rows, chosen, replace=False))
        few = np.sort(np.random.default_rng(5).choice(rows // 100, -(-chosen // 100), replace=False))
        for make in (
            lambda: Stored("hsc", "mmu_v1", chunked(place / "hsc.hdf5", rows), picked, GOAL),
            lambda: Stored("ssl_legacysurvey", "mmu_v1", contiguous(place / "ssl.hdf5", rows, picked), picked, GOAL),
            lambda: Stored("desi", "hats", nested(place / "desi.parquet", rows // 100), few, None),
        ):
            stored = make()
            size = stored.path.stat().st_size
            arguments = [stored.survey, stored.form, f"{server.url}/{stored.path.name}", json.dumps(stored.chosen.tolist())]
            command = [sys.executable, "-c", CHILD, *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | RANGES)
            found = json.loads(done.stdout)
            if found["sum"] != read_near(stored):
                raise SystemExit(f"{stored.path.name}: other values at a distance than here")
            part = found["rows"]["bytes"] / size
            missed += found["peak"] > PEAK_MB or (stored.goal is not None and part > stored.goal)
            report.add_row(
                f"{stored.survey}, {stored.form}", f"{size / 1e6:.0f}", f"{found['table']['bytes'] / 1e6:.1f}",
                f"{found['table']['requests']}", f"{found['rows']['bytes'] / 1e6:.1f}", f"{found['rows']['requests']}",
                f"{part:.2%}", f"{stored.goal:.0%}" if stored.goal else "", f"{found['peak']:.0f}",
            )  # fmt: skip
            stored.path.unlink()
    Console().print(report)
    raise typer.Exit(code=int(missed > 0))


if __name__ == "__main__":
    typer.run(main)

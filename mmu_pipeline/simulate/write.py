"""A seed to a folder: the simulated sky as four surveys publish it, checksums beside the data, and the truth about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.simulate import gaia, hsc, ps1_sne_ia, sdss
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.layout import truncate
from mmu_pipeline.simulate.sky import EMPTY_CELL, sky_objects


class Layout(Protocol):
    """How one survey names and writes its files."""

    @property
    def FOLDER(self) -> str:  # noqa: N802
        """Where its files lie in the simulated archive."""

    def object_ids(self, rows: pa.Table) -> list[str]:
        """Ids as the survey writes them, without padding."""

    def file_names(self, rows: pa.Table) -> list[str]:
        """File of each row, relative to that folder."""

    def write_file(self, path: Path, rows: pa.Table, seed: int) -> None:
        """Write the rows of one file, in their order."""


LAYOUTS: dict[str, Layout] = {"hsc": hsc, "sdss": sdss, "gaia": gaia, "ps1_sne_ia": ps1_sne_ia}
FOLDERS = {name: layout.FOLDER for name, layout in LAYOUTS.items()}
"""Where each survey lies, relative to the simulated archive, as in the public one."""
CUT_BY_CELL = ("hsc", "sdss", "gaia")


@dataclass(frozen=True)
class Truth:
    """What is really on the simulated sky, and what each survey says about it."""

    folder: Path
    """Holds one folder per survey (FOLDERS), truth.parquet and detections.parquet."""
    objects: pa.Table
    """`sky_objects`: one row per true object."""
    detections: pa.Table
    """One row per row of a file: survey, true_id, object_id, ra, dec, cell, source_file, source_row, planted, fault."""

    def survey(self, name: str) -> pa.Table:
        """The detections of one survey."""
        return self.detections.filter(pc.equal(self.detections["survey"], name))


def write_sky(folder: Path, seed: int = 0) -> Truth:
    """Write the simulated sky into a folder (about 40 MB). The same seed gives the same arrays and tables."""
    sky = sky_objects(seed)
    detections = pa.concat_tables(
        [_write_survey(folder / FOLDERS[name], detect(sky, INSTRUMENTS[name], seed), name, seed) for name in LAYOUTS]
    )
    pq.write_table(detections, folder / "detections.parquet")
    pq.write_table(sky, folder / "truth.parquet")
    return Truth(folder, sky, detections)


def read_truth(folder: Path) -> Truth:
    """The truth about a folder that `write_sky` wrote."""
    return Truth(folder, pq.read_table(folder / "truth.parquet"), pq.read_table(folder / "detections.parquet"))


def _write_survey(folder: Path, seen: pa.Table, survey: str, seed: int) -> pa.Table:
    """Write all files of one survey and its SHA256SUMS; the detections as they stand in the files."""
    layout = LAYOUTS[survey]
    seen = seen.append_column("object_id", pa.array(layout.object_ids(seen), pa.string()))
    seen = seen.append_column("source_file", pa.array(layout.file_names(seen), pa.string()))
    listed = []
    for file in pc.unique(seen["source_file"]).to_pylist():
        rows = seen.filter(pc.equal(seen["source_file"], file))
        layout.write_file(folder / file, rows, seed)
        if "broken_file" in rows["fault"].to_pylist():
            truncate(folder / file)
        listed.append(rows.append_column("source_row", pa.array(np.arange(rows.num_rows))))
    if survey in CUT_BY_CELL:
        layout.write_file(folder / f"healpix={EMPTY_CELL}/001-of-001.hdf5", seen.slice(0, 0), seed)
    _write_checksums(folder)
    rows = pa.concat_tables(listed)
    names = ("true_id", "object_id", "ra", "dec", "cell", "source_file", "source_row", "planted", "fault")
    return rows.select(names).add_column(0, "survey", pa.array([survey] * rows.num_rows, pa.string()))


def _write_checksums(folder: Path) -> None:
    """SHA256SUMS of all data files, in the format of `sha256sum`; a truncated file is listed as it is published."""
    files = sorted(folder.rglob("*.hdf5"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines))

"""Readers: one module per file format. File -> table of its objects; chosen rows -> their arrays, each checked by id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import pyarrow as pa

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BadInput, BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.sky import Int

FORMATS = (
    "snana",
    "mmu_v1",
    "mmu_v1_groups",
    "hats",
    "fits_spectra",
    "desi_coadd",
    "gaia_xp",
    "chandra_pha",
    "text_table",
    "parquet_table",
    "npy_table",
    "fits_table",
    "fits_light_curve",
    "plasticc_csv",
    "snpy",
    "brick",
    "manga_cube",
)

RANGED = frozenset({"mmu_v1", "mmu_v1_groups", "hats", "parquet_table"})
"""Formats whose reader also takes a file at a distance, and then reads no more of it than it needs."""

GATHERED = frozenset({"plasticc_csv"})
"""Formats whose arrays stand in no order that leads to a row: their reader sorts them once into a folder, and reads that."""


@dataclass(frozen=True)
class Skipped:
    """A source row that is not in the object table, and why."""

    source_row: int
    object_id: str
    reason: str


@dataclass(frozen=True)
class ObjectRows:
    """What one source file holds.

    `table` has object_id (string), ra, dec (float64, degrees), source_row (int64), then every column field of the survey
    under our name and type, in file order. len(table) + len(skipped) is the number of objects in the file.
    """

    table: pa.Table
    skipped: tuple[Skipped, ...] = ()


class Reader(Protocol):
    """What a module in this package provides. `path` is a local file; readers of `RANGED` also take a file at a distance."""

    def read_objects(self, survey: Survey, form: str, path: Path | RangedFile) -> ObjectRows:
        """The objects of one file, without touching its arrays. Raises BrokenSource naming file and column."""

    def read_arrays(
        self, survey: Survey, form: str, path: Path | RangedFile, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
    ) -> dict[str, Sequence[Array]]:
        """Arrays of chosen rows: member name -> one array per row, in the order of `rows`, normalised.

        `rows` are source_row values, in any order, repeats allowed. Each row's id in the file must equal `object_ids`.
        Raises BrokenSource if it does not, or if the file lacks a member or has another dtype or shape than declared.
        """


def objects_of(survey: Survey, form: str, path: Path | RangedFile, relative: str) -> ObjectRows:
    """The objects of one file, and what its path below the survey's folder tells of them. Raises BrokenSource."""
    rows = reader(survey.forms[form].reader).read_objects(survey, form, path)
    table = rows.table
    for field in survey.columns:
        if form in field.file_name:
            found = re.search(field.file_name[form], relative)
            if found is None:
                raise BrokenSource("the name of the file does not tell it", file=relative, column=field.name)
            at = table.schema.get_field_index(field.name)
            table = table.set_column(at, field.name, pa.array([found[1]] * len(table), pa.string()))
    return ObjectRows(table, rows.skipped)


class RangedReader(Reader, Protocol):
    """What the modules of `RANGED` provide beside."""

    def ranges(
        self, survey: Survey, form: str, source: RangedFile, rows: Int | None = None, members: Sequence[Field] = ()
    ) -> Int:
        """Byte ranges (n, 2) that hold all columns of the object table, or some members of some rows. Raises BrokenSource."""


class GatheringReader(Reader, Protocol):
    """What the modules of `GATHERED` provide beside; their `read_arrays` also takes the folder for the file."""

    def gather_arrays(self, survey: Survey, form: str, path: Path, folder: Path) -> None:
        """Fill a folder, with files in no folder of their own, in bounded memory. Raises BrokenSource."""


def reader(name: str) -> Reader:
    """The reader of a format. Raises BadInput for an unknown name."""
    if name not in FORMATS:
        raise BadInput(f"no reader for the format {name!r}", hint=f"readers: {', '.join(FORMATS)}")
    return cast(Reader, import_module(f"mmu_pipeline.readers.{name}"))

"""A survey, one of its forms and the objects of a sky to a folder of its files: and what a reader must find in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BadInput
from mmu_pipeline.simulate import (
    apogee,
    brick,
    chandra,
    chandra_pha,
    desi,
    desi_coadd,
    fits_spectra,
    gaia,
    gaia_xp,
    galah,
    hats,
    hsc,
    lamost,
    manga_cube,
    mmu_v1,
    raw,
    sdss,
    supernovae,
    vipers,
)  # fmt: skip
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.ids import ids_of
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.kept import consistent, kept
from mmu_pipeline.simulate.objects import Objects, invented
from mmu_pipeline.simulate.told import told

Writer = Callable[[Path, Objects], list[Path]]
SUPERNOVAE = ("csp", "des_y3_sne_ia", "foundation", "ps1_sne_ia", "snls", "swift_sne_ia", "yse")
WRITERS: Mapping[tuple[str, str], Writer] = {
    **{(name, "mmu_v1"): mmu_v1.write_cells for name in mmu_v1.FILES},
    **{(name, "mmu_v1"): supernovae.write_v1 for name in (*SUPERNOVAE, "cfa3_standard")},
    **{(name, "snana"): supernovae.write_snana for name in (*SUPERNOVAE, "cfa3")},
    **raw.WRITERS,
    ("apogee", "apstar"): fits_spectra.write_apstar,
    ("chandra", "pha"): chandra_pha.write_pha,
    ("csp", "snpy"): supernovae.write_snpy,
    ("desi", "coadd"): desi_coadd.write_coadd,
    ("gaia", "xp"): gaia_xp.write_xp,
    ("galah", "fits"): fits_spectra.write_galah,
    ("lamost", "fits"): fits_spectra.write_lamost,
    ("legacysurvey", "bricks"): brick.write_bricks,
    ("manga", "logcube"): manga_cube.write_cubes,
    ("sdss", "spec"): fits_spectra.write_sdss,
    ("vipers", "fits"): fits_spectra.write_vipers,
}
"""Survey and form -> writer of files with invented values; its data files are returned, companions lie beside them."""
TRUE_LIGHT = {"apogee": apogee, "chandra": chandra, "desi": desi, "galah": galah, "lamost": lamost, "vipers": vipers}
"""Surveys whose MMU v1 cells hold the light of the objects themselves, and which say what a reader must find."""
BY_COLUMNS = {"gaia": gaia, "hsc": hsc, "sdss": sdss}
"""The same, by the columns of their files."""


@dataclass(frozen=True)
class Written:
    """The files of a survey in one form, and what is in them."""

    folder: Path
    objects: Objects
    """What a reader must find."""
    paths: tuple[Path, ...]
    """The data files, in order; companions are not among them."""


def forms() -> list[tuple[str, str]]:
    """Every survey and form that can be written."""
    v1 = [(name, "mmu_v1") for name in (*TRUE_LIGHT, *BY_COLUMNS)]
    return sorted({*WRITERS, *v1, *((name, "hats") for name in hats.RECORDS)})


def write_files(folder: Path, survey: Survey, form: str, seen: pa.Table, seed: int = 0) -> Written:
    """Write all files of what a survey lists (rows of `detect` that are `readable`) in one form. Raises BadInput."""
    if (survey.name, form) not in forms():
        known = ", ".join(f"{name} {one}" for name, one in forms() if name == survey.name)
        raise BadInput(f"no files of {survey.name} in the form {form!r} can be made", hint=f"forms: {known or 'none'}")
    folder.mkdir(parents=True, exist_ok=True)
    seen = seen.append_column("object_id", pa.array(ids_of(survey.name, form, seen), pa.string()))
    return _hats(folder, survey, seen, seed) if form == "hats" else _files(folder, survey, form, seen, seed)


def _files(folder: Path, survey: Survey, form: str, seen: pa.Table, seed: int) -> Written:
    if (survey.name, form) not in WRITERS:
        return _cells(folder, survey, seen, seed)
    ready = consistent(invented(survey, form, seen, seen["object_id"].to_pylist(), seed))
    return Written(folder, kept(ready), tuple(WRITERS[survey.name, form](folder, ready)))


def _cells(folder: Path, survey: Survey, seen: pa.Table, seed: int) -> Written:
    """MMU v1 cells with the objects' own light."""
    layout = {**TRUE_LIGHT, **BY_COLUMNS}[survey.name]
    names = np.array(layout.file_names(seen))
    paths, parts = [], []
    for name in dict.fromkeys(names.tolist()):
        here = seen.filter(pa.array(names == name))
        paths.append(folder / name)
        layout.write_file(paths[-1], here, seed)
        parts.append(_true(survey, here, seed))
    return Written(folder, _joined(parts), tuple(paths))


def _true(survey: Survey, seen: pa.Table, seed: int) -> Objects:
    ids = seen["object_id"].to_pylist()
    if survey.name in BY_COLUMNS:
        return told(survey, BY_COLUMNS[survey.name].file_columns(seen, seed), ids)
    rows = TRUE_LIGHT[survey.name].true_rows(seen, seed)
    columns = {field.name: [row[field.name] for row in rows] for field in survey.columns if field.name in rows[0]}
    members = {field.name: [row[field.name] for row in rows] for field in survey.members if field.name in rows[0]}
    ra, dec = (seen[name].to_numpy() for name in ("ra", "dec"))
    return Objects(survey, "mmu_v1", ids, ra, dec, columns, members)


def _joined(parts: list[Objects]) -> Objects:
    """Objects of several files as those of one list."""
    first = parts[0]
    return replace(
        first,
        object_ids=[one for part in parts for one in part.object_ids],
        ra=np.concatenate([part.ra for part in parts]),
        dec=np.concatenate([part.dec for part in parts]),
        columns={name: [value for part in parts for value in part.columns[name]] for name in first.columns},
        members={name: [array for part in parts for array in part.members[name]] for name in first.members},
    )


def _hats(folder: Path, survey: Survey, seen: pa.Table, seed: int) -> Written:
    """A HATS catalog whose partitions hold the rows of the cells."""
    with TemporaryDirectory() as aside:
        cells = _files(Path(aside), survey, "mmu_v1", seen, seed)
        paths = [_partition(folder, survey.name, path) for path in cells.paths]
    known = {field.name for field in survey.fields if field.is_carried("hats")}
    columns = {name: hats.as_published(name, values) for name, values in cells.objects.columns.items() if name in known}
    members = {name: arrays for name, arrays in cells.objects.members.items() if name in known}
    return Written(folder, replace(cells.objects, form="hats", columns=columns, members=members), tuple(paths))


def _partition(folder: Path, survey: str, cell: Path) -> Path:
    path = folder / f"dataset/Norder=4/Dir=0/Npix={cell.parent.name.partition('=')[2]}.parquet"
    hats.write_partition(survey, cell, path, row_group_size=2)
    return path


def write_archive(
    folder: Path, surveys: Mapping[str, Survey], wanted: Sequence[tuple[str, str]], sky: pa.Table, seed: int = 0
) -> list[dict[str, str | int]]:
    """Write some surveys of one sky into `folder/<survey>/<form>`, and the truth beside; what each survey lists is counted.

    `wanted` are surveys and forms, `sky` is as `sky_objects` or `sky_at` give it and becomes truth.parquet. What surveys say
    of it is detections.parquet: survey, form, true_id, object_id, ra, dec (degrees, with the survey's own errors).
    Raises BadInput if none of them lists any object.
    """
    tables, counts = [], list[dict[str, str | int]]()
    for name, form in wanted:
        seen = readable(detect(sky, INSTRUMENTS[name], seed))
        counts.append({"survey": name, "form": form, "listed": len(seen)})
        if len(seen):
            written = write_files(folder / name / form, surveys[name], form, seen, seed)
            place = {"ra": written.objects.ra, "dec": written.objects.dec, "object_id": written.objects.object_ids}
            listed = pa.table({"survey": [name] * len(seen), "form": [form] * len(seen), **place})
            tables.append(listed.append_column("true_id", pa.array(_true_ids(written, name, form, seen))))
    if not tables:
        raise BadInput("none of the surveys lists any of the objects", hint="see their depth, kinds and footprint")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), folder / "detections.parquet")
    pq.write_table(sky, folder / "truth.parquet")
    return counts


def _true_ids(written: Written, name: str, form: str, seen: pa.Table) -> list[int]:
    """The true object of each object that was written; those of cells come cell by cell."""
    known = dict(zip(ids_of(name, form, seen), seen["true_id"].to_pylist(), strict=True))
    return [known[one] for one in written.objects.object_ids]


def readable(seen: pa.Table) -> pa.Table:
    """What a survey lists, without what it publishes wrongly on purpose: each object once, at a position."""
    return seen.filter(pc.and_(pc.is_finite(seen["ra"]), pc.equal(seen["fault"], "")))

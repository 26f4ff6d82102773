"""A table of objects in csv and tables of all their observations beside it to an object table and light curves of chosen rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.arrow_table import ids_of
from mmu_pipeline.readers.companions import companions_there
from mmu_pipeline.readers.gathered import gather, rows_of
from mmu_pipeline.readers.identity import check_ids, id_sources
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.readers.ragged import finished, needed_members, of_arrays
from mmu_pipeline.readers.text_table import batches, column_names, read_objects
from mmu_pipeline.sky import Int

__all__ = ["gather_arrays", "read_arrays", "read_objects"]

ID = "object_id"
IDS, TABLE = "ids.arrow", "table.json"
"""In a folder of gathered arrays: the id of each row; where the table lies, and files that lack a member's column."""
UNPACKED = 4
"""How much longer the text of a compressed table is, about; PLAsTiCC's are 3 times as long."""


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Light curves of chosen objects, of length 0 where there is no observation. Raises BrokenSource.

    Observations stand in no order that leads to an object. `path` is a folder that `gather_arrays` filled, of which no more is
    read than these objects need; or the table of objects itself, whose companions are then gathered for this one call.
    """
    if not path.is_dir():
        with TemporaryDirectory() as folder:
            gather_arrays(survey, form, path, Path(folder))
            return read_arrays(survey, form, Path(folder), rows, object_ids, members)
    rows, needed = np.asarray(rows, np.int64), needed_members(survey, form, members)
    facts = json.loads((path / TABLE).read_text())
    table_path, missing = Path(facts["table"]), facts["missing"]
    with blaming(table_path), pa.memory_map(str(path / IDS)) as mapped:
        ids = pa.ipc.open_file(mapped).read_all()[0]
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(ids):
            raise BrokenSource("no such row", row=int(rows.max()), rows=len(ids))
        check_ids(rows, ids.take(pa.array(rows)).to_pylist(), object_ids)
    for field in (field for field in needed if field.name in missing):
        file, expected = Path(missing[field.name]), " or ".join(field.source_names(form))
        raise BrokenSource("a declared column is missing", file=file, column=field.name, expected=expected)
    if not len(rows):
        return {field.name: [] for field in members}
    places = {one: at for at, one in enumerate(dict.fromkeys(object_ids))}
    table = rows_of(path, list(places), [field.name for field in needed])
    order = pc.index_in(table[0], pa.array(list(places))).to_numpy()
    by_object = np.argsort(order, kind="stable")
    ends = np.searchsorted(order[by_object], np.arange(len(places) + 1))
    sources = {}
    for field in needed:
        curves = np.split(table[field.name].to_numpy()[by_object], ends[1:-1])
        sources[field.name] = of_arrays([curves[places[one]] for one in object_ids])
    with blaming(table_path):
        arrays = finished(survey, form, sources)
    return {field.name: arrays[field.name] for field in members}


def gather_arrays(survey: Survey, form: str, path: Path, folder: Path) -> None:
    """Read the observations through once, a batch at a time, into a folder where `read_arrays` finds those of an object.

    It also holds the ids of the table's rows, so that the table is not read again. Raises BrokenSource.
    """
    declared = survey.forms[form]
    fields = needed_members(survey, form, [field for field in survey.members if field.is_carried(form)])
    with blaming(path):
        files = companions_there(declared, path)
        if not files:
            raise BrokenSource("no file of observations lies beside the table", looked_for=", ".join(declared.companions))
        _write_ids(survey, form, path, folder / IDS)
    missing: dict[str, str] = {}
    for file in files:
        with blaming(file):
            names = column_names(declared, file)
        missing |= {field.name: str(file) for field in fields if not set(field.source_names(form)) & set(names)}
    (folder / TABLE).write_text(json.dumps({"table": str(path), "missing": missing}))
    kept = {field.name: pa.string() if field.is_band_code else pa.float64() for field in fields if field.name not in missing}
    schema = pa.schema({ID: pa.string(), **kept})
    text_bytes = sum(file.stat().st_size * (1 if file.suffix == ".csv" else UNPACKED) for file in files)
    rows = (batch for file in files for batch in _observations(survey, form, file, schema))
    gather(rows, schema, folder, text_bytes)


def _write_ids(survey: Survey, form: str, path: Path, target: Path) -> None:
    """The id of each row of the table, uncompressed, so that single rows are read of it."""
    declared, count = survey.forms[form], 0
    with pa.ipc.new_file(str(target), pa.schema({ID: pa.string()})) as file:
        for batch in batches(declared, path, {name: pa.string() for name in id_sources(declared)}):
            ids = ids_of(survey, form, batch, count)
            file.write_batch(pa.record_batch({ID: pa.array(ids, pa.string())}))
            count += len(ids)


def _observations(survey: Survey, form: str, file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All rows of one table of observations, with our names. Raises BrokenSource."""
    declared = survey.forms[form]
    with blaming(file):
        names = column_names(declared, file)
        sources = {ID: declared.object_id}
        for field in (survey.field(name) for name in schema.names[1:]):
            sources[field.name] = next(name for name in field.source_names(form) if name in names)
        types = {source: schema.field(name).type for name, source in sources.items()}
        for batch in batches(declared, file, types):
            yield pa.record_batch([batch[source] for source in sources.values()], schema=schema)

"""Some files of a survey to a piece of its object table: rows of any cell, sorted along the sky, bad ones counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import objects_of
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import CELL_ORDER, healpix29, is_position, pixels_at
from mmu_pipeline.stages.access import Access
from mmu_pipeline.stages.build import Build, SourceFile, Unit
from mmu_pipeline.storage import digest

NOT_MEMBER = {"unlisted": "not in the survey's list of members", "missing": "in the survey's list of members, but not there"}
NO_POSITION = "position is not on the sphere"
PIECE_ROWS = 1 << 14
"""Rows of a row group of a piece: what is read of one to make a small partition."""
SKIPPED_SCHEMA = pa.schema(
    [("source_file", pa.string()), ("source_row", pa.int64()), ("object_id", pa.string()), ("reason", pa.string())]
)


def object_schema(survey: Survey) -> pa.Schema:
    """Columns of a survey's object table, in order."""
    return pa.schema(
        [
            pa.field("_healpix_29", pa.int64(), nullable=False),
            pa.field("ra", pa.float64(), nullable=False),
            pa.field("dec", pa.float64(), nullable=False),
            pa.field("object_id", pa.string(), nullable=False),
            pa.field("source_file", pa.string(), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *(pa.field(field.name, field.arrow_type) for field in survey.columns),
        ]
    )


def run(unit: Unit, build: Build) -> Receipt:
    """Read the objects of a unit's files into `pieces/objects/<unit>.parquet`.

    A broken file is set aside alone when the unit has others: the receipt is then partial and names it. Raises
    BrokenSource when no file of the unit can be read, Unreachable when one cannot be had.
    """
    survey, access = build.surveys[unit.name.split("/")[0]], Access(build)
    tables, skipped, broken = [], [], {}
    for file in (item for item in unit.inputs if isinstance(item, SourceFile)):
        try:
            table, rows_skipped = _objects_of(survey, access, file)
        except BrokenSource as error:
            broken[file.relative] = str(error)
            continue
        tables.append(table)
        skipped.append(rows_skipped)
    if broken and not tables:
        raise BrokenSource("\n".join(broken.values()))
    schema = object_schema(survey)
    table = pa.concat_tables([schema.empty_table(), *tables])
    table = table.sort_by([(name, "ascending") for name in ("_healpix_29", "object_id", "source_file", "source_row")])
    skips = pa.concat_tables([SKIPPED_SCHEMA.empty_table(), *skipped])
    path = piece_path(unit.name)
    build.root.write_table(path, table, row_group_size=PIECE_ROWS)
    skipped_rows = None
    if len(skips):
        skipped_rows = f"skipped/scan/{unit.name}.parquet"
        build.root.write_table(skipped_rows, skips)
    index = table["_healpix_29"].to_numpy()
    return Receipt(
        stage="scan", unit=unit.name, fingerprint=unit.fingerprint, status="partial" if broken else "done",
        rows_in=len(table) + len(skips), rows_out=len(table),
        skipped=dict(Counter(skips["reason"].to_pylist())), skipped_rows=skipped_rows,
        outputs={path: build.root.size(path) or 0}, reason="\n".join(broken.values()),
        facts={
            "digest": table_digest(table),
            "partitions": counts_of(pixels_at(index, survey.partition_order)),
            "cells": counts_of(pixels_at(index, CELL_ORDER)),
            "broken": sorted(broken),
            "files": len(unit.inputs) - len(broken),
            "bytes": unit.weight,
            "moved": access.moved,
        },
    )  # fmt: skip


def piece_path(unit: str) -> str:
    """Where a scan unit leaves its objects."""
    return f"pieces/objects/{unit}.parquet"


def _objects_of(survey: Survey, access: Access, file: SourceFile) -> tuple[pa.Table, pa.Table]:
    """Object rows of one file, and its skipped rows."""
    source = access.build.sources[survey.name]
    if file.state != "listed":
        skip = pa.table([[file.relative], [0], [""], [NOT_MEMBER[file.state]]], schema=SKIPPED_SCHEMA)
        return object_schema(survey).empty_table(), skip
    found = access.read(survey, file, lambda path: objects_of(survey, source.form, path, file.relative))
    ra, dec = (found.table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("ra", "dec"))
    good = is_position(ra, dec)
    table = found.table.filter(pa.array(good))
    columns = {
        "_healpix_29": pa.array(healpix29(ra[good], dec[good])),
        "source_file": pa.array([file.relative] * len(table), pa.string()),
        **{name: table[name] for name in table.column_names},
    }
    schema = object_schema(survey)
    lost = found.table.filter(pa.array(~good))
    skips = [
        *((file.relative, skip.source_row, skip.object_id, skip.reason) for skip in found.skipped),
        *((file.relative, row.as_py(), name.as_py(), NO_POSITION)
          for row, name in zip(lost["source_row"], lost["object_id"], strict=True)),
    ]  # fmt: skip
    return (
        pa.table([pc.cast(columns[name], schema.field(name).type) for name in schema.names], schema=schema),
        pa.table(list(map(list, zip(*skips, strict=True))) or [[]] * 4, schema=SKIPPED_SCHEMA),
    )


def counts_of(pixels: np.ndarray) -> dict[str, int]:
    return {str(pixel): int(count) for pixel, count in zip(*np.unique(pixels, return_counts=True), strict=True)}


def table_digest(table: pa.Table) -> str:
    """A digest of a table's rows that does not depend on how Parquet encodes them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return digest(memoryview(sink.getvalue()))

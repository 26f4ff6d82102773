"""Arrow batches of a source's columns, text or numbers, to rows of an object table; whole numbers never become floats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Field
from mmu_pipeline.readers import ObjectRows, Skipped
from mmu_pipeline.readers.identity import ROW_NUMBER, id_sources, object_ids
from mmu_pipeline.readers.normalise import refuse_markers
from mmu_pipeline.readers.text import as_text

NO_ID = "no object id"
TRUE, FALSE = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")


def source_types(survey: Survey, form: str, present: Sequence[str]) -> dict[str, pa.DataType]:
    """Columns of a source that its object table needs, as present there, and the type to read each as.

    Raises BrokenSource naming a declared column that is missing.
    """
    declared = survey.forms[form]
    types: dict[str, pa.DataType] = {}
    for field in survey.columns:
        if field.source_names(form):
            kind = field.numpy_dtype.kind
            types[_found(field.source_names(form), present, field.name)] = (
                pa.float64() if kind == "f" else pa.int64() if kind in "iu" else pa.string()
            )
    for name in id_sources(declared):
        if name != ROW_NUMBER:
            types[_found((name,), present, name)] = pa.string()
    for axis, names in (("ra", declared.ra), ("dec", declared.dec)):
        types[_found(names, present, axis)] = pa.float64()
    return types


def object_rows(survey: Survey, form: str, batches: Iterable[pa.RecordBatch]) -> ObjectRows:
    """Rows of an object table from batches that hold the columns of `source_types`. Raises BrokenSource naming the column."""
    declared, tables, skipped, start = survey.forms[form], [], [], 0
    for batch in batches:
        ids = ids_of(survey, form, batch, start)
        columns = {field.name: _field(field, form, batch) for field in survey.columns}
        for field in survey.columns:
            if field.error_of is not None:
                known = pc.is_valid(columns[field.error_of])
                columns[field.name] = pc.if_else(known, columns[field.name], pa.scalar(None, field.arrow_type))
        position = {
            axis: pc.fill_null(_cast(batch[_found(names, batch.schema.names, axis)], pa.float64(), axis), np.nan)
            for axis, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        rows = pa.array(np.arange(start, start + len(batch)), pa.int64())
        table = pa.table({"object_id": pa.array(ids, pa.string()), **position, "source_row": rows, **columns})
        skipped += [Skipped(start + row, "", NO_ID) for row, object_id in enumerate(ids) if not object_id]
        tables.append(table.filter(pa.array([bool(object_id) for object_id in ids], pa.bool_())))
        start += len(batch)
    return ObjectRows(pa.concat_tables(tables), tuple(skipped))


def ids_of(survey: Survey, form: str, batch: pa.RecordBatch, start: int) -> list[str]:
    """The id of each row of a batch whose first row has the number `start`; "" where there is none."""
    declared = survey.forms[form]
    if declared.object_id == ROW_NUMBER:
        return [str(start + row) for row in range(len(batch))]
    sources = {}
    for name in id_sources(declared):
        column = batch[_found((name,), batch.schema.names, name)]
        sources[name] = np.array(as_text(np.array(column.to_pylist(), object)), object)
    return object_ids(declared, sources) if len(batch) else []


def _found(names: Sequence[str], present: Sequence[str], column: str) -> str:
    """The first of `names` that is present; upper and lower case are the same if no name is exact."""
    folded = {name.lower(): name for name in reversed(present)}
    found = next((name for name in names if name in present), None) or next(
        (folded[n.lower()] for n in names if n.lower() in folded), None
    )
    if found is None:
        hint = f"the file has: {', '.join(present[:20])}"
        raise BrokenSource("a declared column is missing", column=column, expected=" or ".join(names), hint=hint)
    return found


def _field(field: Field, form: str, batch: pa.RecordBatch) -> pa.Array:
    """One column in its declared type, null where its values are missing."""
    if not field.source_names(form):
        return pa.nulls(len(batch), field.arrow_type)
    source = batch[_found(field.source_names(form), batch.schema.names, field.name)]
    if pa.types.is_string(source.type) or pa.types.is_large_string(source.type):
        source = pc.utf8_trim_whitespace(source)
        source = _null_where(
            source, pc.is_in(source, pa.array(["", *(s for s in field.sentinels if isinstance(s, str))], source.type))
        )
    numbers = [value for value in field.sentinels if not isinstance(value, str)]
    if field.dtype == "bool" and not pa.types.is_boolean(source.type):
        return _truth(field, source)
    if field.dtype != "string":
        if pa.types.is_floating(source.type):
            source = _null_where(source, pc.invert(pc.is_finite(source)))
        if numbers:
            source = _null_where(source, pc.is_in(source, pa.array(numbers).cast(source.type)))
        refuse_markers(field, source.drop_null().to_numpy(zero_copy_only=False))
        if form in {*field.power, *field.scale, *field.offset}:
            raised = pc.power(pc.cast(source, pa.float64()), field.power.get(form, 1.0))
            source = pc.add(pc.multiply(raised, field.scale.get(form, 1.0)), field.offset.get(form, 0.0))
    return _cast(source, field.arrow_type, field.name)


def _null_where(values: pa.Array, missing: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(missing, True), pa.scalar(None, values.type), values)


def _truth(field: Field, source: pa.Array) -> pa.Array:
    text = pc.utf8_lower(pc.cast(source, pa.string()))
    known = pc.is_in(text, pa.array([*TRUE, *FALSE]))
    unknown = pc.and_(pc.is_valid(text), pc.invert(known))
    if pc.any(unknown).as_py():
        raise BrokenSource("neither true nor false", column=field.name, value=repr(text.filter(unknown)[0].as_py()))
    return pc.if_else(known, pc.is_in(text, pa.array(TRUE)), pa.scalar(None, pa.bool_()))


def _cast(values: pa.Array, target: pa.DataType, column: str) -> pa.Array:
    try:
        return pc.cast(values, target, safe=not pa.types.is_floating(target))
    except pa.ArrowInvalid as error:
        raise BrokenSource(f"not a {target}", column=column, reason=str(error), dtype=values.type) from error

"""FITS binary tables, plain or gzipped, to an object table: columns by name, in native byte order, markers of FITS made null."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers import ObjectRows, Skipped, text_table
from mmu_pipeline.readers.arrow_table import NO_ID
from mmu_pipeline.readers.bounded import check_images
from mmu_pipeline.readers.identity import ROW_NUMBER, id_sources, object_ids
from mmu_pipeline.readers.normalise import blaming, columns, numbers_of
from mmu_pipeline.sky import Int


def read_objects(survey: Survey, form: str, path: Path) -> ObjectRows:
    """The objects of the first table of a file, in file order; rows without an id are skipped. Raises BrokenSource."""
    declared = survey.forms[form]
    with blaming(path):
        table = first_table(path)
        if declared.object_id == ROW_NUMBER:
            ids = [str(row) for row in range(len(table))]
        else:
            ids = object_ids(declared, {name: column_of(table, (name,), name) for name in id_sources(declared)})
        position = {
            axis: numbers_of(column_of(table, names, axis), axis).astype(np.float64)
            for axis, names in (("ra", declared.ra), ("dec", declared.dec))
        }
        carried = [field for field in survey.columns if field.source_names(form)]
        sources = {field.name: column_of(table, field.source_names(form), field.name) for field in carried}
        found = pa.table(
            {
                "object_id": pa.array(ids, pa.string()),
                **position,
                "source_row": np.arange(len(ids), dtype=np.int64),
                **columns(survey, form, sources, len(ids)),
            }
        )
    named = pa.array([bool(object_id) for object_id in ids], pa.bool_())
    return ObjectRows(found.filter(named), tuple(Skipped(row, "", NO_ID) for row, object_id in enumerate(ids) if not object_id))


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """A table has no arrays: raises BrokenSource if any member is asked for."""
    return text_table.read_arrays(survey, form, path, rows, object_ids, members)


def first_table(path: Path) -> Any:
    """The rows of the first binary table of a file (FITS_rec). Raises BrokenSource if it has none or is damaged."""
    try:
        with fits.open(path, memmap=path.suffix != ".gz", lazy_load_hdus=True) as hdus:
            for hdu in hdus:
                if type(hdu) is fits.BinTableHDU:
                    check_images([hdu])
                    return hdu.data
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource("not a readable FITS file", reason=str(error), hint="fetch the file again") from error
    raise BrokenSource("the file has no binary table")


def column_of(table: Any, names: Sequence[str], column: str) -> Array:
    """The first of `names` that a table has, in any case; whole numbers that equal TNULL become NaN. Raises BrokenSource."""
    present = {name.lower(): name for name in table.columns.names}
    found = next((present[name.lower()] for name in names if name.lower() in present), None)
    if found is None:
        hint = f"the table has: {', '.join(table.columns.names[:20])}"
        raise BrokenSource("a declared column is missing", column=column, expected=" or ".join(names), hint=hint)
    try:
        values = np.asarray(table[found])
    except (ValueError, TypeError, OSError) as error:
        raise BrokenSource("a column cannot be read", column=column, reason=str(error)) from error
    null = table.columns[found].null
    if values.dtype.kind in "iu" and isinstance(null, int) and (values == null).any():
        return np.where(values == null, np.nan, values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)

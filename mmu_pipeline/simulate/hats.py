"""MMU v1 cells to partitions of a HATS catalog, as the MMU's later Parquet form has them: nested records and their faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.simulate.sky import Values
from mmu_pipeline.sky import healpix29


@dataclass(frozen=True)
class Record:
    """How one survey's rows are nested and changed on their way."""

    spectrum: Mapping[str, str]
    """Name inside `spectrum` -> dataset of the cell."""
    nest: str = "spectrum"
    columns: Mapping[str, Callable[[Values], Values]] = field(default_factory=dict)
    """Column -> what the loader makes of the dataset of that name."""
    arrays: Mapping[str, Callable[[Values], Values]] = field(default_factory=dict)
    split: tuple[str, ...] = ()
    """Columns of five bands that become five columns."""
    object_id: str = "object_id"


def _same(values: Values) -> Values:
    return values


def _as_text(values: Values) -> Values:
    return values.astype(str)


def _as_repr(values: Values) -> Values:
    return np.array([str(value) for value in values])


def _as_float(values: Values) -> Values:
    return np.array([str(float(value)) for value in values])


USUAL = {"flux": "spectrum_flux", "ivar": "spectrum_ivar", "lsf_sigma": "spectrum_lsf_sigma", "lambda": "spectrum_lambda",
         "mask": "spectrum_mask"}  # fmt: skip
RECORDS = {
    "sdss": Record(
        USUAL,
        columns={"object_id": _as_repr, "ZWARNING": lambda bits: bits != 0},
        split=("SPECTROFLUX", "SPECTROFLUX_IVAR", "SPECTROSYNFLUX", "SPECTROSYNFLUX_IVAR"),
    ),
    "gaia": Record({"coeff": "coeff", "coeff_error": "coeff_error"}, nest="spectral_coefficients", object_id="source_id"),
    "desi": Record(USUAL, columns={"ZWARN": lambda bits: bits == 0}),
    "apogee": Record(
        {
            **USUAL,
            "pseudo_continuum_flux": "pseudo_continuum_spectrum_flux",
            "pseudo_continuum_ivar": "pseudo_continuum_spectrum_ivar",
        },
        columns={"object_id": _as_repr},
    ),
    "vipers": Record(
        {"flux": "spectrum_flux", "ivar": "spectrum_noise", "lambda": "spectrum_wave", "mask": "spectrum_mask"},
        columns={"object_id": _as_float},
        arrays={"flux": lambda flux: flux.astype("f8") * 1e17, "ivar": lambda noise: 1 / (noise.astype("f8") * 1e34)},
    ),
}


def write_partition(survey: str, cell: Path, path: Path, row_group_size: int = 1000) -> None:
    """Write the rows of one MMU v1 cell as one partition, sorted along the sky."""
    record = RECORDS[survey]
    with h5py.File(cell) as file:
        columns: dict[str, Any] = {
            name: (record.columns.get(name, _same))(_native(file[name][()]))
            for name in file
            if file[name].ndim == 1 and name not in (record.object_id, "healpix")
        }
        ids = record.columns.get("object_id", _as_text)(_native(file[record.object_id][()]))
        spectrum = {name: record.arrays.get(name, _same)(_native(file[source][()])) for name, source in record.spectrum.items()}
        split = {f"{name}_{band}": _native(file[name][:, at]) for name in record.split for at, band in enumerate("UGRIZ")}
    nested = pa.StructArray.from_arrays([_lists(values) for values in spectrum.values()], names=list(spectrum))
    index = healpix29(np.nan_to_num(columns["ra"]), columns["dec"])
    table = pa.table({"_healpix_29": index, "object_id": ids, **columns, **split, record.nest: nested})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.sort_by("_healpix_29"), path, row_group_size=row_group_size)


def as_published(name: str, values: list[Any]) -> list[Any]:
    """Values of a column as this form still has them: warnings of a redshift became a boolean."""
    return [int(bool(value)) for value in values] if name in ("zwarn", "zwarning") else values


def _lists(values: Values) -> pa.Array:
    single = values if values.dtype.kind == "b" else values.astype("f4")
    flat, size = pa.array(single.reshape(-1)), single.shape[1]
    return pa.ListArray.from_arrays(np.arange(0, flat.__len__() + 1, size, dtype=np.int32), flat)


def _native(values: Any) -> Values:
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)

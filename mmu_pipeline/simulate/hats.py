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

    inside: Mapping[str, str] = field(default_factory=dict)
    """Name inside the nested column -> dataset of the cell, a value or an array per row."""
    nest: str = "spectrum"
    """Name of the nested column; without one the arrays are columns of their own."""
    planes: bool = False
    """Whether the nested column is a list of records, one per plane of an image, rather than a record of lists."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Dataset -> name of its column where that is another."""
    columns: Mapping[str, Callable[[Values], Values]] = field(default_factory=dict)
    """Column -> what the loader makes of the dataset of that name."""
    arrays: Mapping[str, Callable[[Values], Values]] = field(default_factory=dict)
    split: tuple[str, ...] = ()
    """Columns of five bands that become five columns."""
    object_id: str = "object_id"


def _same(values: Values) -> Values:
    return values


def _as_single(values: Values) -> Values:
    return values.astype("f4")


def _as_text(values: Values) -> Values:
    return values.astype(str)


def _as_repr(values: Values) -> Values:
    return np.array([str(value.encode()) for value in values.tolist()])


def _as_float(values: Values) -> Values:
    return np.array([str(float(value)) for value in values])


USUAL = {"flux": "spectrum_flux", "ivar": "spectrum_ivar", "lsf_sigma": "spectrum_lsf_sigma", "lambda": "spectrum_lambda",
         "mask": "spectrum_mask"}  # fmt: skip
CURVE = ("time", "flux", "flux_err", "quality")
QLP = (*CURVE, "sap_flux", "orbitid", "sap_x", "sap_y", "sap_bkg", "sap_bkg_err", "kspsap_flux_sml", "kspsap_flux_lag")
KEPLER = ("time", "sap_flux", "sap_flux_err", "pdcsap_flux", "pdcsap_flux_err")
RECORDS = {
    **dict.fromkeys(("allwise", "galex", "sages", "twomass"), Record()),
    "btsbot": Record(
        {"array": "image_triplet"},
        "image",
        planes=True,
        arrays={"array": lambda stamps: stamps.transpose(0, 3, 1, 2)},
        columns=dict.fromkeys(("jd", "jdstarthist", "jdstartref"), _as_single),
    ),
    "desi_provabgs": Record(
        {name: name for name in ("PROVABGS_MCMC", "PROVABGS_THETA_BF")}, nest="", names={"PROVABGS_LOGMSTAR_BF": "LOG_MSTAR"}
    ),
    "gz10": Record(names={"ans": "gz10_label"}, columns={"redshift": _as_single}),
    "hsc": Record(
        {"flux": "image_array", "ivar": "image_ivar", "mask": "image_mask", "psf_fwhm": "image_psf_fwhm"}, "image", planes=True
    ),
    "kepler": Record(dict(zip(KEPLER, KEPLER, strict=True)), "lightcurve"),
    "lamost": Record({name: name for name in ("spectrum_flux", "spectrum_wavelength")}, nest=""),
    "tess": Record(dict(zip(CURVE, CURVE, strict=True)), "lightcurve"),
    "tess_qlp": Record(dict(zip(QLP, QLP, strict=True)), "lightcurve"),
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
            record.names.get(name, name): record.columns.get(name, _same)(_native(file[name][()].reshape(-1)))
            for name in file
            if file[name].shape[1:] in ((), (1,)) and name not in (record.object_id, "object_id", "healpix")
        }
        ids = record.columns.get("object_id", _as_text)(_native(file[record.object_id][()]))
        inside = {name: record.arrays.get(name, _same)(_native(file[source][()])) for name, source in record.inside.items()}
        split = {f"{name}_{band}": _native(file[name][:, at]) for name in record.split for at, band in enumerate("UGRIZ")}
    lists = {name: _lists(values, 1 + record.planes) for name, values in inside.items()}
    nested = {record.nest: _nested(lists, inside, record.planes)} if record.nest and lists else lists
    ra, dec = (next(columns[name] for name in names if name in columns) for names in (("ra", "RA"), ("dec", "DEC")))
    index = healpix29(np.nan_to_num(ra.astype("f8")), dec.astype("f8"))
    table = pa.table({"_healpix_29": index, "object_id": ids, **columns, **split, **nested})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.sort_by("_healpix_29"), path, row_group_size=row_group_size)


def _nested(lists: Mapping[str, pa.Array], inside: Mapping[str, Values], planes: bool) -> pa.Array:
    records = pa.StructArray.from_arrays(list(lists.values()), names=list(lists))
    if not planes:
        return records
    rows, each = next(iter(inside.values())).shape[:2]
    return pa.ListArray.from_arrays(np.arange(0, rows * each + 1, each, dtype=np.int32), records)


def as_published(name: str, values: list[Any]) -> list[Any]:
    """Values of a column as this form still has them: warnings of a redshift became a boolean."""
    return [int(bool(value)) for value in values] if name in ("zwarn", "zwarning") else values


def _lists(values: Values, outer: int = 1) -> pa.Array:
    """Numbers of any shape as lists within lists, below so many outer axes, which become one."""
    single = values if values.dtype.kind == "b" else values.astype("f4")
    array = pa.array(single.reshape(-1))
    for size in reversed(values.shape[outer:]):
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, size, dtype=np.int32), array)
    return array


def _native(values: Any) -> Values:
    """In native byte order; text as such."""
    array = np.asarray(values)
    if array.dtype.kind == "S":
        return np.strings.decode(array, "utf-8")
    return array.astype(array.dtype.newbyteorder("="), copy=False)

"""Objects to the files that surveys themselves release, form by form: text, FITS, NumPy and HDF5, with their markers."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from mmu_pipeline.fields import Field
from mmu_pipeline.simulate.objects import Objects
from mmu_pipeline.sky import healpix29, pixels_at

Values = npt.NDArray[Any]


def _word(field: Field, value: Any, null: str) -> str:
    """A value as text; a missing one as the survey's marker where it has one."""
    if value is None:
        marker = next((sentinel for sentinel in field.sentinels if not isinstance(sentinel, str)), None)
        return null if marker is None else f"{float(marker):g}"
    return repr(value) if isinstance(value, float) else str(value)


def _records(objects: Objects, id_name: str, null: str, place: tuple[str, str] = ("ra", "dec")) -> list[dict[str, str]]:
    """Rows of words by source name."""
    rows = []
    for at, object_id in enumerate(objects.object_ids):
        row = {place[0]: repr(float(objects.ra[at])), place[1]: repr(float(objects.dec[at]))}
        for name, values in objects.columns.items():
            field = objects.survey.field(name)
            row[field.source_name(objects.form) or name] = _word(field, values[at], null)
        rows.append(row | {id_name: object_id})
    return rows


def _psc(folder: Path, objects: Objects) -> list[Path]:
    """2MASS: no header, nulls as backslash N, designations filled with a blank."""
    rows = _records(objects, "pts_key", "\\N", ("ra", "decl"))
    lines = [
        "|".join(f"{row[n]} " if n == "designation" else row[n] for n in objects.survey.forms["psc"].text.columns) for row in rows
    ]
    path = folder / "psc_aaa.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return [path]


def _allwise(folder: Path, objects: Objects) -> list[Path]:
    """AllWISE: no header, empty nulls, a delimiter at the end of each line."""
    rows = _records(objects, "cntr", "")
    lines = ["".join(f"{row[name]}|" for name in objects.survey.forms["text"].text.columns) for row in rows]
    path = folder / "wise-allwise-cat-part01.bz2"
    path.write_bytes(bz2.compress("".join(f"{line}\n" for line in lines).encode()))
    return [path]


def _allwise_parquet(folder: Path, objects: Objects) -> list[Path]:
    """AllWISE at IRSA: hive folders of HEALPix order 5, reals as float64."""
    table = {"cntr": pa.array([int(one) for one in objects.object_ids]), "ra": objects.ra, "dec": objects.dec}
    for name, values in objects.columns.items():
        field = objects.survey.field(name)
        kind = pa.float64() if pa.types.is_floating(field.arrow_type) else field.arrow_type
        table[field.source_name(objects.form) or name] = pa.array(values, kind)
    pixels = pixels_at(healpix29(objects.ra, objects.dec), 5)
    paths = []
    for pixel in np.unique(pixels):
        paths.append(folder / f"healpix_k0={pixel >> 10}/healpix_k5={pixel}/part0.snappy.parquet")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table).filter(pa.array(pixels == pixel)), paths[-1])
    return paths


def _csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()) if path.suffix == ".gz" else text.getvalue().encode())
    return path


def _btsbot(folder: Path, objects: Objects) -> list[Path]:
    """A csv and a NumPy file of float64 stamps, planes last."""
    stamps = np.array(objects.members["image"], "f8").transpose(0, 2, 3, 1)
    np.save(folder / "val_triplets_v10_N100_programid1.npy", np.ascontiguousarray(stamps))
    return [_csv(folder / "val_cand_v10_N100_programid1.csv", _records(objects, "candid", ""))]


def _gz2(folder: Path, objects: Objects) -> list[Path]:
    return [_csv(folder / "table5.csv.gz", _records(objects, "objid", ""))]


def _asassn(folder: Path, objects: Objects) -> list[Path]:
    rows = _records(objects, "asassn_name", "", ("raj2000", "dej2000"))
    return [_csv(folder / "asassn_variables_x.csv", rows)]


def _plasticc(folder: Path, objects: Objects) -> list[Path]:
    """A table of objects, and two tables of the observations of all, in order of time."""
    arrays = objects.members
    rows = [
        {"object_id": object_id, "mjd": repr(float(arrays["time"][at][n])), "passband": str(arrays["band"][at][n]),
         "flux": repr(float(arrays["flux"][at][n])), "flux_err": repr(float(arrays["flux_err"][at][n])),
         "detected_bool": str(int(arrays["detected"][at][n]))}
        for at, object_id in enumerate(objects.object_ids)
        for n in np.argsort(arrays["time"][at], kind="stable")
    ]  # fmt: skip
    half = {object_id: at % 2 for at, object_id in enumerate(objects.object_ids)}
    for part in (0, 1):
        _csv(folder / f"plasticc_test_lightcurves_{part + 1:02d}.csv.gz", [row for row in rows if half[row["object_id"]] == part])
    records = _records(objects, "object_id", "", ("ra", "decl"))
    return [_csv(folder / "plasticc_test_metadata.csv.gz", [_flags(row) for row in records])]


def _flags(row: dict[str, str]) -> dict[str, str]:
    return {name: {"True": "1", "False": "0"}.get(word, word) for name, word in row.items()}


def _fits(name: str, id_name: str, id_format: str, upper: bool) -> Callable[[Path, Objects], list[Path]]:
    """A writer of one FITS table; missing numbers are the survey's marker, or NaN."""

    def write(folder: Path, objects: Objects) -> list[Path]:
        ids = np.array([int(value) if id_format == "K" else value for value in objects.object_ids])
        columns = [fits.Column(id_name, id_format, array=ids), fits.Column("RA", "D", array=objects.ra),
                   fits.Column("DEC", "D", array=objects.dec)]  # fmt: skip
        for field in objects.survey.columns:
            values = objects.columns.get(field.name)
            if values is None:
                continue
            source = field.source_name(objects.form) or field.name
            marker = next(
                (float(s) for s in field.sentinels if not isinstance(s, str)),
                -32000 if field.numpy_dtype.kind in "iu" else np.nan,
            )
            kind = {"string": "24A", "float32": "E", "float64": "D", "int8": "I", "int16": "I", "int32": "J", "int64": "K"}[
                field.dtype
            ]
            null = int(marker) if field.numpy_dtype.kind in "iu" and None in values and not field.sentinels else None
            filled = [f"{value} " if field.dtype == "string" else marker if value is None else value for value in values]
            columns.append(fits.Column(source.upper() if upper else source, kind, null=null, array=np.array(filled)))
        path = folder / name
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
        return [path]

    return write


def _llc(folder: Path, objects: Objects) -> list[Path]:
    """Kepler: a file per quarter, cadences without time between them; the headers of all are those of the star."""
    first = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items() if name != "good"}
        cuts = [0, len(arrays["time"]) // 2, len(arrays["time"])]
        header = {"KEPLERID": int(object_id), **_header(objects, at)}
        for quarter, (start, stop) in enumerate(pairwise(cuts)):
            path = folder / f"kplr{int(object_id):09d}-20{9 + quarter:02d}131105131_llc.fits"
            _light_curve(
                path,
                {**header, "QUARTER": 4},
                objects,
                {name: values[start:stop] for name, values in arrays.items() if name != "quarter"},
            )
            first += [path] if quarter == 0 else []
    return first


def _spoc(folder: Path, objects: Objects) -> list[Path]:
    """TESS: a file per star and sector."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items() if name != "good"}
        paths.append(folder / f"hlsp_tess-spoc_tess_phot_{int(object_id):016d}-s0014_tess_v1_lc.fits")
        _light_curve(paths[-1], {"TICID": int(object_id), **_header(objects, at)}, objects, arrays)
    return paths


def _tglc(folder: Path, objects: Objects) -> list[Path]:
    """TESS-Gaia: the errors are keys of the header, the id is a sentence."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items() if name != "good"}
        paths.append(folder / f"hlsp_tglc_tess_ffi_gaiaid-{object_id}-s0014-cam1-ccd2_tess_v1_llc.fits")
        _light_curve(paths[-1], {"OBJECT": f"Gaia DR3 {object_id}", **_header(objects, at)}, objects, arrays)
    return paths


def _header(objects: Objects, at: int) -> dict[str, Any]:
    keys = {objects.survey.field(name).source_name(objects.form): values[at] for name, values in objects.columns.items()}
    return {
        "RA_OBJ": float(objects.ra[at]),
        "DEC_OBJ": float(objects.dec[at]),
        **{str(key): value for key, value in keys.items()},
    }


def _light_curve(path: Path, header: dict[str, Any], objects: Objects, arrays: dict[str, Values]) -> None:
    """One file: a cadence without data comes first; lost values are NaN."""
    columns = []
    for name, values in arrays.items():
        field = objects.survey.field(name)
        source, kind = field.source_name(objects.form) or name, {"f8": "D", "f4": "E", "i4": "J"}[field.numpy_dtype.str[1:]]
        real = np.where(values == 0, np.nan, values) if field.mask else values
        columns.append(fits.Column(source, kind, array=np.concatenate([[np.nan if kind in "DE" else 0], real])))
    primary = fits.PrimaryHDU()
    for key, value in header.items():
        primary.header[key] = value
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")]).writeto(path)


def _hdf5(name: str, members: dict[str, str], id_name: str | None) -> Callable[[Path, Objects], list[Path]]:
    """A writer of one HDF5 file with a dataset per column."""

    def write(folder: Path, objects: Objects) -> list[Path]:
        with h5py.File(folder / name, "w") as file:
            if id_name:
                file[id_name] = np.array([int(value) for value in objects.object_ids], np.int64)
            file["RA" if id_name else "ra"], file["DEC" if id_name else "dec"] = objects.ra, objects.dec
            for column, values in objects.columns.items():
                field = objects.survey.field(column)
                source = field.source_name(objects.form) or column
                kind = "f8" if field.numpy_dtype.kind in "iu" and None in values else field.dtype
                filled = np.array([np.nan if value is None else value for value in np.array(values, object).flat])
                shape = (len(values), *(int(length) for length in field.shape))
                file[source.upper() if id_name else source] = filled.reshape(shape).astype(kind)
            for member, source in members.items():
                block = np.array(objects.members[member])
                file[source] = block.transpose(0, 2, 3, 1) if objects.form in objects.survey.field(member).axes else block
        return [folder / name]

    return write


def _gz_hubble(folder: Path, objects: Objects) -> list[Path]:
    """Parquet as the Hugging Face hub has it: a picture is a struct of its bytes and a path, rows in small groups."""
    files = [
        pa.array([file.tobytes() for file in objects.members["jpg"]]),
        pa.array([f"{one}.jpg" for one in objects.object_ids]),
    ]
    columns: dict[str, pa.Array] = {
        "image": pa.StructArray.from_arrays(files, names=["bytes", "path"]),
        "id_str": pa.array(objects.object_ids),
        "ra": pa.array(objects.ra),
        "dec": pa.array(objects.dec),
    }
    for name, values in objects.columns.items():
        field = objects.survey.field(name)
        columns[field.source_name(objects.form) or name] = pa.array(values, field.arrow_type)
    path = folder / "data/train-00000-of-00001.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return [path]


WRITERS: dict[tuple[str, str], Callable[[Path, Objects], list[Path]]] = {
    ("allwise", "parquet"): _allwise_parquet,
    ("allwise", "text"): _allwise,
    ("asassn_variables", "csv"): _asassn,
    ("btsbot", "npy"): _btsbot,
    ("desi_provabgs", "hdf5"): _hdf5("BGS_ANY_full.provabgs.sv3.v0.hdf5", {"mcmc": "PROVABGS_MCMC"}, "TARGETID"),
    ("galex", "fits"): _fits("GUVCat_AIS_FOV055_glat85_00N__90_00N.fits.gz", "OBJID", "K", True),
    ("gz10", "hdf5"): _hdf5("Galaxy10_DECals.h5", {"image": "images"}, None),
    ("gz_hubble", "parquet"): _gz_hubble,
    ("gz2", "csv"): _gz2,
    ("gz2", "fits"): _fits("gz2_hart16.fits.gz", "dr7objid", "K", False),
    ("kepler", "llc"): _llc,
    ("plasticc", "csv"): _plasticc,
    ("sages", "fits"): _fits("dr1-uv.fits", "SAGE_ID", "20A", True),
    ("tess", "spoc"): _spoc,
    ("tess_tglc", "tglc"): _tglc,
    ("twomass", "psc"): _psc,
}
"""Survey and form -> writer of all its files; the data files among them."""

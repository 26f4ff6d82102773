"""Objects to files of the Multimodal Universe v1, survey by survey: its names, types, byte order, padding and faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mmu_pipeline.simulate.objects import Objects
from mmu_pipeline.simulate.sky import Columns
from mmu_pipeline.sky import CELL_ORDER, healpix29, pixels_at

Values = npt.NDArray[Any]
FILES = {
    "allwise": "healpix={cell}/001-of-001.hdf5",
    "btsbot": "healpix={cell:04d}/train_001-of-001.hdf5",
    "desi_provabgs": "healpix={cell}/001-of-001.h5",
    "galex": "healpix={cell}/001-of-001.hdf5",
    "gz10": "healpix={cell}/001-of-001.h5",
    "jwst": "ngdeep/healpix={cell}/001-of-001.hdf5",
    "kepler": "healpix={cell}/001-of-001.hdf5",
    "legacysurvey": "healpix={cell}/001-of-001.hdf5",
    "manga": "healpix={cell}/0001-of-0001.hdf5",
    "plasticc": "healpix={cell}/train_01.hdf5",
    "sages": "healpix={cell}/001-of-001.hdf5",
    "ssl_legacysurvey": "healpix={cell}/001-of-001.hdf5",
    "tess": "healpix={cell}/001-of-001.hdf5",
    "tess_qlp": "QLP/healpix={cell}/001-of-001.hdf5",
    "tess_tglc": "TGLC/healpix={cell}/001-of-001.hdf5",
    "twomass": "healpix={cell}/001-of-001.hdf5",
}
"""File of a cell, relative to the survey's folder."""


def write_cells(folder: Path, objects: Objects) -> list[Path]:
    """Write the files of all cells that objects lie in, by their positions."""
    cells, paths = pixels_at(healpix29(objects.ra, objects.dec), CELL_ORDER), []
    for cell in np.unique(cells):
        paths.append(folder / FILES[objects.survey.name].format(cell=cell))
        write_file(paths[-1], objects.take(np.flatnonzero(cells == cell).tolist()))
    return paths


def write_file(path: Path, objects: Objects) -> None:
    """Write one file of a survey in FILES, as its published form is; `objects` of that form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if objects.survey.name == "manga":
            _manga(file, objects)
            return
        chunked = objects.survey.name in ("legacysurvey", "jwst", "kepler")
        for name, values in LAYOUTS[objects.survey.name](objects).items():
            wide = {"chunks": (1, *values.shape[1:]), "compression": "gzip"} if chunked and values.ndim > 1 else {}
            file.create_dataset(name, data=values, **(wide if len(values) else {}))


def _catalog(objects: Objects, upper: bool = False, big: bool = False) -> Columns:
    """All columns under their published names. A missing value is the survey's marker, or NaN: whole numbers become floats."""
    table: Columns = {}
    for field in objects.survey.columns:
        if field.name not in objects.columns:
            continue
        source = field.source_name(objects.form) or field.name
        name = source.upper() if upper and source == field.name else source
        values = objects.columns[field.name]
        if field.dtype == "string":
            table[name] = np.array([str(value).encode() for value in values], "S24")
        elif field.dtype == "bool":
            table[name] = np.array(values, bool)
        else:
            marker = next((float(value) for value in field.sentinels if not isinstance(value, str)), np.nan)
            filled = np.array([np.nan if value is None else value for value in np.array(values, object).flat], "f8")
            kind = "f8" if np.isnan(marker) and np.isnan(filled).any() and field.numpy_dtype.kind in "iu" else field.dtype
            numbers = np.where(np.isnan(filled), marker, filled).reshape(len(values), *field.shape)
            table[name] = numbers.astype(np.dtype(kind).newbyteorder(">" if big else "<"))
    return table


def _stack(objects: Objects, name: str, dtype: str = "f4", big: bool = False) -> Values:
    """A member of fixed shape, shape (n, ...); NaN where a value is lost."""
    field = objects.survey.field(name)
    values = np.array(objects.members[name]).reshape(len(objects), *field.shape)
    if field.mask is not None:
        values = np.where(values == 0, np.nan, values)
    return values.astype(np.dtype(dtype).newbyteorder(">" if big else "<"))


def _padded(
    objects: Objects, name: str, fill: float, dtype: str = "f8", extra: Callable[[Values], Values] | None = None
) -> Values:
    """A ragged member, each row filled to the longest; NaN where a value is lost. `extra` changes a row first."""
    field = objects.survey.field(name)
    rows = [row.astype(dtype) for row in objects.members[name]]
    if field.mask is not None:
        rows = [np.where(row == 0, np.nan, row) for row in rows]
    rows = [extra(row) for row in rows] if extra else rows
    block = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype)
    for at, row in enumerate(rows):
        block[at, : len(row)] = row
    return block


def _labels(objects: Objects, names: Sequence[str], size: int) -> Values:
    return np.tile(np.array([name.encode() for name in names], f"S{size}"), (len(objects), 1)).reshape(len(objects), len(names))


def _place(objects: Objects, dtype: str = "f8", names: tuple[str, str] = ("ra", "dec")) -> Columns:
    return {names[0]: objects.ra.astype(dtype), names[1]: objects.dec.astype(dtype)}


def _whole_ids(objects: Objects) -> Values:
    return np.array([int(name) for name in objects.object_ids], np.int64)


def _byte_ids(objects: Objects, size: int) -> Values:
    return np.array([name.encode() for name in objects.object_ids], f"S{size}")


def _legacysurvey(objects: Objects) -> Columns:
    """Big-endian, from FITS: the sweep in upper case, copies of the position, one mask plane, neighbours filled with 0."""
    table = _catalog(objects, upper=True, big=True)
    neighbours = ("flux_g", "flux_r", "flux_i", "flux_z", "shape_r", "shape_e1", "shape_e2", "type", "x", "y")
    members: Columns = {
        "image_band": _labels(objects, ["des-g", "des-r", "des-i", "des-z"], 5),
        "image_array": _stack(objects, "image", big=True),
        "image_ivar": _stack(objects, "image_ivar", big=True),
        "image_mask": np.array(objects.members["image_mask"]).reshape(len(objects), 160, 160),
        "image_scale": np.full((len(objects), 4), 0.262, "f4"),
        "image_rgb": _stack(objects, "rgb", "u1").transpose(0, 2, 3, 1),
        "object_mask": _stack(objects, "object_mask", "u1"),
        **{f"catalog_{name.upper()}": _padded(objects, f"neighbour_{name}", 0, "f4") for name in neighbours},
    }
    members |= {
        name: np.pad(values, ((0, 0), (0, 20 - values.shape[1]))) for name, values in members.items() if "catalog_" in name
    }
    ids = {"object_id": _byte_ids(objects, 16), "healpix": np.zeros(len(objects), np.int64)}
    return {**ids, **_place(objects), **_place(objects, ">f8", ("RA", "DEC")), **table, **members}


def _ssl_legacysurvey(objects: Objects) -> Columns:
    """Uncompressed; bands of the south in the labels; a running number for an id."""
    table = _catalog(objects, big=True)
    release, brick, number = zip(*(name.split("-") for name in objects.object_ids), strict=True)
    table |= {"release": np.array(release, ">i4"), "brickid": np.array(brick, ">i4"), "objid": np.array(number, ">i4")}
    return {
        "object_id": np.arange(len(objects)), "image_band": _labels(objects, ["des-g", "des-r", "des-z"], 5),
        "image_array": _stack(objects, "image"), "image_scale": np.full((len(objects), 3), 0.262, "f4"),
        **_place(objects), **table,
    }  # fmt: skip


def _btsbot(objects: Objects) -> Columns:
    """Float64 stamps with their planes last; -999 where PS1 has nothing; ids of 19 digits."""
    table = _catalog(objects)
    table = {name: values.astype("f8") if values.dtype.kind == "f" else values for name, values in table.items()}
    return {"object_id": _whole_ids(objects), **_place(objects), **table,
            "image_triplet": _stack(objects, "image", "f8").transpose(0, 2, 3, 1)}  # fmt: skip


def _jwst(objects: Objects) -> Columns:
    """NGDEEP: six planes, f090w is not there. Inverse variances lie under `image_ivar`, fluxes under `image_flux`."""
    keep = slice(1, None)
    names = [f"jwst_nircam_{band}" for band in objects.survey.field("image").bands]
    table = _catalog(objects, big=True)
    table |= {name: values[:, keep] for name, values in table.items() if values.ndim > 1}
    return {
        "object_id": _whole_ids(objects), **_place(objects), **table, "image_band": _labels(objects, names[1:], 17),
        "image_flux": np.nan_to_num(_stack(objects, "image")[:, keep]), "image_ivar": _stack(objects, "image_ivar")[:, keep],
        "image_mask": np.array(objects.members["image_mask"]).reshape(len(objects), 7, 96, 96)[:, keep],
    }  # fmt: skip


def _gz10(objects: Objects) -> Columns:
    return {"object_id": _whole_ids(objects), **_place(objects), **_catalog(objects),
            "rgb_image": _stack(objects, "image", "u1").transpose(0, 2, 3, 1)}  # fmt: skip


def _desi_provabgs(objects: Objects) -> Columns:
    """Derived columns have a second axis of length one."""
    table = _catalog(objects, upper=True)
    table |= {name: table[name][:, np.newaxis] for name in ("Z_MW", "TAGE_MW", "AVG_SFR")}
    return {"object_id": _whole_ids(objects), **_place(objects), **table, "PROVABGS_MCMC": _stack(objects, "mcmc", "f8")}


def _galex(objects: Objects) -> Columns:
    return {"object_id": _byte_ids(objects, 19), **_place(objects, ">f8"), **_catalog(objects, big=True)}


def _sages(objects: Objects) -> Columns:
    table = _catalog(objects, upper=True, big=True)
    return {"object_id": _byte_ids(objects, 20), **_place(objects, ">f8"), **table}


def _twomass(objects: Objects) -> Columns:
    """No column of cells; the declination twice; whole numbers that are missing are NaN."""
    table = _catalog(objects) | {"pts_key": _whole_ids(objects)}
    return {"object_id": _whole_ids(objects), **_place(objects), "decl": objects.dec, **table}


def _allwise(objects: Objects) -> Columns:
    """Positions, unit vectors and times as float32; no column of cells."""
    table = {name: values.astype("f4") if values.dtype == "f8" else values for name, values in _catalog(objects).items()}
    return {"object_id": _whole_ids(objects), **_place(objects, "f4"), **table, "cntr": _whole_ids(objects)}


def _plasticc(objects: Objects) -> Columns:
    """One block (n, 6, 3, longest) of mjd, flux and flux_err, band Y empty, filled with zeros; no column of cells."""
    arrays = objects.members
    longest = max(map(len, arrays["time"]), default=0)
    block = np.zeros((len(objects), 6, 3, longest))
    for row, bands in enumerate(arrays["band"]):
        for band in range(5):
            here = bands == band
            for part, name in enumerate(("time", "flux", "flux_err")):
                block[row, band, part, : here.sum()] = arrays[name][row][here]
    return {"object_id": _whole_ids(objects), **_place(objects), **_catalog(objects), "lightcurve": block}


def _with_gaps(row: Values) -> Values:
    """A cadence without data before the last one: NaN, or 0 in whole numbers."""
    return np.insert(row, len(row) - 1, np.nan if row.dtype.kind == "f" else 0)


def _tess(objects: Objects) -> Columns:
    """Big-endian; zeros fill the rows after gaps of NaN; positions in upper case, float32; no column of cells."""
    flat = {
        objects.survey.field(name).source_name(objects.form) or name: _padded(
            objects, name, 0, objects.survey.field(name).numpy_dtype.str[1:], _with_gaps
        ).astype(objects.survey.field(name).numpy_dtype.newbyteorder(">"))
        for name in objects.members
        if name != "good"
    }
    return {"object_id": _byte_ids(objects, 16) if objects.survey.name == "tess" else _whole_ids(objects),
            **_place(objects, "f4", ("RA", "DEC")), **_catalog(objects), **flat}  # fmt: skip


def _tess_tglc(objects: Objects) -> Columns:
    return _tess(objects) | {"object_id": _whole_ids(objects)}


def _kepler(objects: Objects) -> Columns:
    """Quarters in no order; NaN fills the rows; positions float32."""
    flat = {name: _padded(objects, name, np.nan, extra=lambda row: np.roll(row, len(row) // 2)) for name in objects.members}
    return {"object_id": _whole_ids(objects), **_place(objects, "f4"), **_catalog(objects), **flat}


def _manga(file: h5py.File, objects: Objects) -> None:
    """A group per galaxy: scalars, and tables of spaxels, images and maps; spaxels without data fill the square."""
    survey = objects.survey
    for at, name in enumerate(objects.object_ids):
        group = file.create_group(name, track_order=True)
        arrays = {field: values[at] for field, values in objects.members.items()}
        for key, value in {
            "object_id": name, "ra": objects.ra[at], "dec": objects.dec[at], "healpix": 0, "spaxel_size_unit": b"arcsec",
            "z": objects.columns["z"][at] or -9999.0, "spaxel_size": objects.columns["spaxel_size"][at] or np.nan,
        }.items():  # fmt: skip
            group.attrs[key] = value
            group.create_dataset(key, data=value)
        group.create_dataset("spaxels", data=_spaxels(arrays))
        images = np.zeros(4, [("image_band", "S5"), ("image_array", "f4", (96, 96)), ("image_array_units", "S17"),
                              ("image_psf", "f4", (96, 96)), ("image_scale", "f8")])  # fmt: skip
        images["image_band"], images["image_scale"] = [b"g", b"r", b"i", b"z"], 0.5
        images["image_array"], images["image_psf"] = arrays["image"], arrays["psf"]
        group.create_dataset("images", data=images)
        labelled = [
            (label.replace("{band}", band), part, arrays[field.name][plane] if field.bands else arrays[field.name])
            for field in survey.members
            if (source := field.source_name(objects.form) or "").startswith("maps.")
            for part, label in [source.removeprefix("maps.").rstrip("]").split("[")]
            for plane, band in enumerate(field.bands or ("",))
        ]
        group.create_dataset("maps", data=_maps(labelled))


def _spaxels(arrays: dict[str, Values]) -> Values:
    count, pixels = arrays["flux"].shape
    kind = [("flux", "f4", pixels), ("ivar", "f4", pixels), ("mask", "i8", pixels), ("lsf_sigma", "f4", pixels),
            ("lambda", "f4", pixels), ("x", "i8"), ("y", "i8"), ("spaxel_idx", "i8"), ("flux_units", "S38")]  # fmt: skip
    table = np.zeros(count + 3, kind)
    table["mask"] = 1024
    table["lambda"] = arrays["wavelength"]
    real = np.delete(np.arange(count + 3), [0, count // 2, count + 2])
    for name in ("flux", "ivar", "lsf_sigma", "x", "y"):
        table[name][real] = arrays[name]
    table["mask"][real] = np.where(arrays["mask"], 0, 3)
    return table


def _maps(labelled: list[tuple[str, str, Values]]) -> Values:
    labels = list(dict.fromkeys(label for label, _, _ in labelled))
    table = np.zeros(len(labels), [("group", "S24"), ("label", "S48"), ("array", "f4", (96, 96)), ("ivar", "f4", (96, 96)),
                                   ("mask", "f4", (96, 96)), ("array_units", "S38")])  # fmt: skip
    table["label"] = [label.encode() for label in labels]
    table["mask"] = 2.0**30
    for label, part, values in labelled:
        table[part][labels.index(label)] = np.where(values, 0, 2.0**30) if part == "mask" else values
    return table


LAYOUTS: dict[str, Callable[[Objects], Columns]] = {
    "allwise": _allwise, "btsbot": _btsbot, "desi_provabgs": _desi_provabgs, "galex": _galex, "gz10": _gz10, "jwst": _jwst,
    "kepler": _kepler, "legacysurvey": _legacysurvey, "plasticc": _plasticc, "sages": _sages,
    "ssl_legacysurvey": _ssl_legacysurvey, "tess": _tess, "tess_qlp": _tess, "tess_tglc": _tess_tglc, "twomass": _twomass,
}  # fmt: skip

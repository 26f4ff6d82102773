"""Spectra of some objects to the FITS files that surveys release, one file or one file per arm each, in their byte order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from mmu_pipeline.simulate.objects import Objects

Values = npt.NDArray[Any]
BAD_PIXEL = 1 << 24
ARMS = ((4713.0, 0.046), (5648.0, 0.0546), (6478.0, 0.0631), (7585.0, 0.0736))
"""First wavelength and step of each arm of GALAH, in Angstrom."""
FORMATS = {"f4": "E", "f8": "D", "i4": "J", "i8": "K", "b1": "L"}


def _table(columns: dict[str, Values], name: str = "") -> fits.BinTableHDU:
    """A table of rows; text blank padded."""
    made = []
    for column, values in columns.items():
        kind = f"{values.dtype.itemsize}A" if values.dtype.kind == "S" else FORMATS[values.dtype.str[1:]]
        shape = "" if values.ndim == 1 else str(values.shape[1])
        made.append(fits.Column(column, shape + kind, array=values))
    return fits.BinTableHDU.from_columns(made, name=name)


def _value(objects: Objects, name: str, at: int, lost: float = -9999) -> Any:
    value = objects.columns[name][at]
    marker = next((sentinel for sentinel in objects.survey.field(name).sentinels), lost)
    return marker if value is None else value


def _of_form(objects: Objects, prefix: str) -> dict[str, str]:
    """Field -> what follows a prefix in its address in this form."""
    found = {field.name: field.source_name(objects.form) or "" for field in objects.survey.columns}
    return {name: address.removeprefix(prefix) for name, address in found.items() if address.startswith(prefix)}


def _bits(good: Values) -> Values:
    return np.where(good, 0, BAD_PIXEL).astype("i4")


def write_sdss(folder: Path, objects: Objects) -> list[Path]:
    """SDSS spec: COADD with rounded logarithms of wavelength, SPECOBJ with a right-justified id."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        coadd = {
            "flux": arrays["flux"],
            "loglam": np.log10(arrays["wavelength"].astype("f8")).astype("f4"),
            "ivar": arrays["ivar"],
            "and_mask": _bits(arrays["mask"]),
            "or_mask": _bits(arrays["mask"]),
            "wdisp": arrays["lsf_sigma"],
        }
        row: dict[str, Values] = {
            "SPECOBJID": np.array([object_id.rjust(22).encode()]),
            "PLUG_RA": objects.ra[at : at + 1], "PLUG_DEC": objects.dec[at : at + 1],
        }  # fmt: skip
        for name in objects.columns:
            field = objects.survey.field(name)
            address = (field.source_name("spec") or "").split(":")[-1]
            value = _value(objects, name, at)
            if field.dtype == "string":
                row[address] = np.array([str("" if objects.columns[name][at] is None else value).ljust(12).encode()])
            elif field.shape:
                row[address] = np.array([[np.nan if one is None else one for one in objects.columns[name][at]]], "f4")
            else:
                row[address] = np.array([value], "u1" if field.dtype == "bool" else field.numpy_dtype)
        tables = [_table(coadd, "COADD"), _specobj(row)]
        paths.append(folder / f"spec-{266 + at:04d}-51602-{1 + at:04d}.fits")
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(paths[-1])
    return paths


def _specobj(row: dict[str, Values]) -> fits.BinTableHDU:
    made = []
    for name, values in row.items():
        kind = f"{values.dtype.itemsize}A" if values.dtype.kind == "S" else {"u1": "B", **FORMATS}[values.dtype.str[1:]]
        made.append(fits.Column(name, (str(values.shape[1]) if values.ndim > 1 else "") + kind, array=values))
    return fits.BinTableHDU.from_columns(made, name="SPECOBJ")


def write_lamost(folder: Path, objects: Objects) -> list[Path]:
    """LAMOST from DR9 on: a table of one row of vectors; every second file in the older layout, five rows of an image."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        primary = fits.PrimaryHDU()
        primary.header.update({"OBSID": int(object_id), "RA": float(objects.ra[at]), "DEC": float(objects.dec[at])})
        primary.header.update({key: _value(objects, name, at) for name, key in _of_form(objects, "0@").items()})
        rows = [arrays["flux"], arrays["ivar"], arrays["wavelength"], ~arrays["mask"], ~arrays["mask"]]
        if at % 2:
            primary.data = np.array(rows, ">f4")
            hdus = fits.HDUList([primary])
        else:
            names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
            vectors = {name: row[np.newaxis].astype("f4") for name, row in zip(names, rows, strict=True)}
            hdus = fits.HDUList([primary, _table(vectors, "COADD")])
        paths.append(folder / (f"spec-55859-F5902_sp01-{at:03d}.fits" if at % 2 else f"{object_id}.fits"))
        hdus.writeto(paths[-1])
    return paths


def write_vipers(folder: Path, objects: Objects) -> list[Path]:
    """VIPERS: flux and noise in erg/s/cm2/A; no noise where there is no weight."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        with np.errstate(divide="ignore"):
            noise = np.where(arrays["ivar"] > 0, arrays["ivar"].astype("f8") ** -0.5 * 1e-17, 0)
        table = _table({"WAVES": arrays["wavelength"], "FLUXES": arrays["flux"].astype("f8") * 1e-17, "NOISE": noise,
                        "MASK": np.where(arrays["mask"], 0, 2).astype("i4")})  # fmt: skip
        table.header.update({"ID": int(object_id), "RA": float(objects.ra[at]), "DEC": float(objects.dec[at])})
        table.header.update({key: _value(objects, name, at) for name, key in _of_form(objects, "1@").items()})
        paths.append(folder / f"VIPERS_{object_id}.fits")
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(paths[-1])
    return paths


def write_apstar(folder: Path, objects: Objects) -> list[Path]:
    """APOGEE apStar: float64 images whose rows are two combinations and the visits; wavelengths in the header."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        with np.errstate(divide="ignore"):
            error = np.where(arrays["ivar"] > 0, arrays["ivar"].astype("f8") ** -0.5, 0)
        header = fits.Header({"OBJID": object_id, "RA": float(objects.ra[at]), "DEC": float(objects.dec[at]), "NVISITS": 1})
        header.update({key: _value(objects, name, at) for name, key in _of_form(objects, "0@").items()})
        images = []
        for number, row in enumerate((arrays["flux"].astype("f8"), error, _bits(arrays["mask"]))):
            image = fits.ImageHDU(np.array([row, np.zeros_like(row)]))
            if number == 0:
                image.header.update({"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1})
            images.append(image)
        paths.append(folder / f"{'ap' if at % 2 else 'as'}Star-dr17-{object_id}.fits")
        fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(paths[-1])
    stars = {"APOGEE_ID": np.array([one.encode() for one in objects.object_ids], "S18"),
             **_catalog(objects, "allstar/1[APOGEE_ID]:")}  # fmt: skip
    _in_order(stars, np.arange(len(objects))[::-1]).writeto(folder / "allStar-dr17-synspec_rev1.fits")
    return paths


def write_galah(folder: Path, objects: Objects) -> list[Path]:
    """GALAH: a file per arm, errors relative, reference pixel 1 or 0; and the catalog of all, in another order."""
    spectra = folder / "spectra"
    spectra.mkdir()
    first = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at].astype("f8") for name, values in objects.members.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(arrays["ivar"] > 0, 1 / (arrays["flux"] * np.sqrt(arrays["ivar"])), 0)
        for arm, here in enumerate(arms(len(error)), start=1):
            header = fits.Header({"OBJECT": object_id, "CRPIX1": at % 2, "CRVAL1": ARMS[arm - 1][0], "CDELT1": ARMS[arm - 1][1]})
            header["UTMJD"] = _value(objects, "mjd", at)
            flux, norm = arrays["flux"][here], arrays["norm_flux"][here]
            images = [error[here], flux, error[here], norm]
            hdus = [fits.PrimaryHDU(flux, header), *(fits.ImageHDU(image) for image in images)]
            hdus[4].header.update({key: header[key] for key in ("CRPIX1", "CRVAL1", "CDELT1")})
            fits.HDUList(hdus).writeto(spectra / f"{object_id}{arm}.fits")
        first.append(spectra / f"{object_id}1.fits")
    ids = {"sobject_id": np.array([int(one) for one in objects.object_ids])}
    order = np.arange(len(objects))[::-1]
    catalog = {**ids, "ra_dr2": objects.ra, "dec_dr2": objects.dec, **_catalog(objects, "catalog/1[sobject_id]:")}
    _in_order(catalog, order).writeto(folder / "GALAH_DR3_main_allstar_v2.fits")
    _in_order({**ids, **_catalog(objects, "ages/1[sobject_id]:")}, order).writeto(folder / "GALAH_DR3_VAC_ages_v2.fits")
    return first


def _catalog(objects: Objects, prefix: str) -> dict[str, Values]:
    """Columns of numbers of a companion's table."""
    return {
        key: np.array([np.nan if value is None else value for value in objects.columns[name]], objects.survey.field(name).dtype)
        for name, key in _of_form(objects, prefix).items()
    }


def arms(length: int) -> list[Values]:
    """Pixels of each arm, for a spectrum of so many in all."""
    return list(np.array_split(np.arange(length), len(ARMS)))


def _in_order(catalog: dict[str, Values], order: Sequence[int] | Values) -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(), _table({name: values[order] for name, values in catalog.items()})])

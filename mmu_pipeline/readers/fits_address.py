"""A FITS file, its companions and an address to the value there: a column, an image row, a header key, a wavelength grid.

COADD:flux                    column of a table, by name or number of its extension; of its only row, if it has one
0[2]                          row of an image, counted from 0; without brackets all of it
1@RA                          header key
wave(0)                       wavelengths of an image's pixels from its header, linear or logarithmic
10^COADD:loglam               ten to the power of it
0*1                           product, in float64
0 & green/0 & red/0           one after the other; `green/` is a companion of the form
catalog/1[sobject_id]:ra_dr2  column of the row that has the object's id in another column
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array
from mmu_pipeline.readers.bounded import check_images
from mmu_pipeline.readers.companions import companion, find_companion
from mmu_pipeline.readers.fits_rows import Absent, hdu_of, rows_of

PLACE = re.compile(r"(?:(?P<role>[a-z_]+)/)?(?P<hdu>[^:@\[\]]+)(?:\[(?P<index>\w+)\])?(?:(?P<kind>[:@])(?P<name>.+))?")


class Unlisted(LookupError):
    """A catalog has no row of the object."""


class Unjoined(LookupError):
    """A companion that may be absent is, or has no row of the object."""


@dataclass(frozen=True)
class Files:
    """A data file and those of its companions that were asked for, open."""

    form: Form
    path: Path
    stack: ExitStack
    known: dict[str, Any] = field(default_factory=dict)

    def hdus(self, role: str | None) -> Any:
        """HDU list of the file itself (None) or of a companion. Raises BrokenSource, Unjoined."""
        if (role or "") not in self.known:
            if role in self.form.optional and find_companion(self.form, role, self.path) is None:
                raise Unjoined
            path = self.path if role is None else companion(self.form, role, self.path)
            self.known[role or ""] = self.stack.enter_context(opened_fits(path))
        return self.known[role or ""]


@contextmanager
def opened_fits(path: Path) -> Iterator[Any]:
    """HDU list of a FITS file, compressed or not. Raises BrokenSource if it is not one or is cut short."""
    with _blaming_fits("not a readable FITS file", path):
        hdus = fits.open(path, memmap=path.suffix != ".gz", lazy_load_hdus=False)
    with hdus, _blaming_fits("the FITS file cannot be read", path):
        check_images(hdus)
        yield hdus


@contextmanager
def _blaming_fits(what: str, path: Path) -> Iterator[None]:
    """Turn what astropy raises on damaged files into BrokenSource; errors of the operating system pass."""
    try:
        yield
    except (Absent, Unlisted, Unjoined):
        raise
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, fits.VerifyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BrokenSource(what, file=path, reason=str(error), hint="fetch the file again") from error


@contextmanager
def opened(form: Form, path: Path) -> Iterator[Files]:
    """A data file whose addresses can be read. Raises BrokenSource."""
    with ExitStack() as stack:
        yield Files(form, path, stack)


def read(files: Files, names: Sequence[str], column: str, object_id: str = "") -> Array:
    """The value at the first of some addresses that the file has, in native byte order.

    Empty text where it would come of a companion that may be absent. Raises BrokenSource, Unlisted.
    """
    if not names:
        raise BrokenSource("this form of the survey does not carry the field", column=column)
    for name in names:
        try:
            parts = [_product(files, term, object_id) for term in name.split(" & ")]
        except Absent:
            continue
        except Unjoined:
            return np.array("")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    hint = "; ".join(f"{hdu.name or number}: {_content(hdu)}" for number, hdu in enumerate(files.hdus(None)))
    raise BrokenSource(
        "a declared value is missing", column=column, expected=" or ".join(names), hint=f"the file has {hint}"[:500]
    )


def read_rows(files: Files, address: str, column: str, key: str, ids: Array) -> Array:
    """What a companion's table, `redrock/REDSHIFTS:Z`, has for each of some ids (n,) in its column `key`; else NaN or "".

    Of a table with SURVEY and PROGRAM, only rows of those in the file's own header count. Raises BrokenSource.
    """
    role, hdu, name = re.split("[/:]", address)
    try:
        table = hdu_of(files.hdus(role), hdu)
        header = files.hdus(None)[0].header
        only = {column: str(header.get(column, "")) for column in ("SURVEY", "PROGRAM") if column in table.columns.names}
        rows = rows_of(files.hdus(role).filename(), hdu, key, ids, only)
        if name not in table.columns.names:
            raise Absent
    except Unjoined:
        return np.full(len(ids), np.nan)
    except Absent as error:
        raise BrokenSource("a declared value is missing", column=column, expected=address) from error
    found = rows >= 0
    values = _native(table.data[rows[found]][name])
    if found.all():
        return values
    text = values.dtype.kind in "SU"
    result = np.full(len(ids), "" if text else np.nan, values.dtype if text else np.float64)
    result[found] = values
    return result


def _content(hdu: Any) -> str:
    return ", ".join(hdu.columns.names[:20]) if isinstance(hdu, fits.BinTableHDU) else f"image {hdu.shape}"


def _product(files: Files, term: str, object_id: str) -> Array:
    factors = [_factor(files, factor.strip(), object_id) for factor in term.split("*")]
    return factors[0] if len(factors) == 1 else np.asarray(np.prod([factor.astype(np.float64) for factor in factors], axis=0))


def _factor(files: Files, text: str, object_id: str) -> Array:
    if text.startswith("10^"):
        return np.asarray(10.0 ** _place(files, text.removeprefix("10^"), object_id).astype(np.float64))
    if text.startswith("wave("):
        return _wavelengths(files, text.removeprefix("wave(").removesuffix(")"))
    return _place(files, text, object_id)


def _place(files: Files, text: str, object_id: str) -> Array:
    found = PLACE.fullmatch(text)
    if found is None:
        raise BrokenSource("not an address in a FITS file", address=text)
    hdus = files.hdus(found["role"])
    hdu = hdu_of(hdus, found["hdu"])
    if found["kind"] == "@":
        if found["name"] not in hdu.header:
            raise Absent
        return np.asarray(hdu.header[found["name"]])
    if found["kind"] == ":":
        if not isinstance(hdu, fits.BinTableHDU) or found["name"].upper() not in map(str.upper, hdu.columns.names):
            raise Absent
        values = hdu.data[found["name"]]
        if found["index"] is not None:
            row = int(rows_of(hdus.filename(), found["hdu"], found["index"], np.array([object_id]), {})[0])
            if row < 0:
                raise Unjoined if found["role"] in files.form.optional else Unlisted
            return _native(values[row])
        return _native(values[0] if len(values) == 1 else values)
    if hdu.data is None or not hdu.is_image:
        raise Absent
    if found["index"] is None:
        return _native(hdu.data)
    return _native(np.atleast_2d(hdu.data)[int(found["index"])])


def _wavelengths(files: Files, text: str) -> Array:
    """Pixel positions of an image's last axis from CRVAL1, CDELT1 or CD1_1, and CRPIX1, of its own header or the primary one.

    Shape (pixels,), float64. CRPIX1 counts from 1; where it is 0 or absent the first pixel is meant. DC-FLAG 1 or CTYPE1
    LOG-LINEAR mean that the logarithm is linear (FITS IRAF convention).
    """
    found = PLACE.fullmatch(text)
    hdus = files.hdus(found["role"] if found else None)
    image = hdu_of(hdus, found["hdu"] if found else text)
    header = image.header if "CRVAL1" in image.header else hdus[0].header
    step = header.get("CDELT1", header.get("CD1_1"))
    if "CRVAL1" not in header or step is None or image.data is None:
        raise Absent
    pixel = np.arange(image.data.shape[-1], dtype=np.float64) + 1 - (header.get("CRPIX1") or 1)
    grid = header["CRVAL1"] + step * pixel
    logarithmic = header.get("DC-FLAG") == 1 or str(header.get("CTYPE1", "")).upper().startswith("LOG")
    return np.asarray(10**grid if logarithmic else grid)


def _native(values: Any) -> Array:
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)

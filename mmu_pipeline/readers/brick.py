"""Legacy Surveys bricks: rows of a Tractor catalog to an object table, tile-compressed coadds to stamps centred on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.readers.bounded import check_images
from mmu_pipeline.readers.fits_table import column_of, first_table, read_objects
from mmu_pipeline.readers.identity import check_ids, id_sources, object_ids
from mmu_pipeline.readers.normalise import blaming
from mmu_pipeline.readers.ragged import finished, needed_members
from mmu_pipeline.sky import Int

__all__ = ["read_arrays", "read_objects"]

CATALOG = re.compile(r"tractor-((\d{3})\d[pm]\d{3})\.fits(?:\.gz)?")
BAD_BITS = sum(1 << bit for bit in (1, 2, 3, 4, 5, 6, 7, 11, 14, 15))
"""Of maskbits: bright star, saturated or bad in a band, medium-bright star. Not bit 0, which only says whose brick a pixel is."""
LAYERS = {"image": "image", "image_ivar": "invvar"}
"""Member -> kind of coadd."""


@dataclass(frozen=True)
class Window:
    """A stamp of a brick's image: pixels that both have, as slices of either."""

    inside: tuple[slice, slice]
    of_brick: tuple[slice, slice]


def read_arrays(
    survey: Survey, form: str, path: Path, rows: Int, object_ids_: Sequence[str], members: Sequence[Field]
) -> dict[str, Sequence[Array]]:
    """Stamps of chosen rows, the object within half a pixel of the middle; 0 and masked beyond the brick's image, and in bands
    that it lacks. Only the tiles of the coadds that a stamp touches are decompressed. Raises BrokenSource.
    """
    declared, rows = survey.forms[form], np.asarray(rows, np.int64)
    needed = needed_members(survey, form, members)
    with blaming(path), ExitStack() as stack:
        table = first_table(path)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
            raise BrokenSource("no such row", row=int(rows.max()), rows=len(table))
        ids = object_ids(declared, {name: column_of(table, (name,), name)[rows] for name in id_sources(declared)})
        check_ids(rows, ids, object_ids_)
        ra, dec = (column_of(table, names, axis)[rows] for axis, names in (("ra", declared.ra), ("dec", declared.dec)))
        brick = _brick(path, stack)
        sources = {field.name: _stamps(brick, field, ra, dec) for field in needed}
        arrays = finished(survey, form, sources)
    return {field.name: arrays[field.name] for field in members}


@dataclass(frozen=True)
class Brick:
    """The coadds of one brick, each opened when it is first asked for."""

    name: str
    folders: tuple[Path, ...]
    """Where they may lie: beside the catalog, or in the archive's own folder."""
    stack: ExitStack
    known: dict[str, Any] = field(default_factory=dict)

    def layer(self, kind: str) -> Any:
        """The image extension of a coadd such as image-g or maskbits; None where the brick has none."""
        if kind not in self.known:
            name = f"legacysurvey-{self.name}-{kind}.fits.fz"
            path = next((folder / name for folder in self.folders if (folder / name).is_file()), None)
            self.known[kind] = None if path is None else self._opened(path)
        return self.known[kind]

    def _opened(self, path: Path) -> Any:
        try:
            hdus = self.stack.enter_context(fits.open(path))
            check_images(hdus)
            return hdus[1]
        except (OSError, IndexError) as error:
            raise BrokenSource("not a readable coadd", file=path, reason=str(error), hint="fetch the file again") from error

    def windows(self, bands: Sequence[str], ra: Array, dec: Array, size: int) -> list[Window]:
        """Where the stamps of some positions lie; all coadds of a brick have one grid."""
        first = next((layer for band in bands if (layer := self.layer(f"image-{band}")) is not None), None)
        if first is None:
            expected = f"legacysurvey-{self.name}-image-{bands[0]}.fits.fz"
            raise BrokenSource("no coadd of the brick is there", expected=expected, looked_in=", ".join(map(str, self.folders)))
        x, y = WCS(first.header).all_world2pix(ra, dec, 0)
        return [_window(float(one[0]), float(one[1]), size, first.shape) for one in zip(x, y, strict=True)]


def _brick(catalog: Path, stack: ExitStack) -> Brick:
    found = CATALOG.fullmatch(catalog.name)
    if not found:
        raise BrokenSource("not the name of a brick's catalog", expected="tractor-1126p222.fits")
    return Brick(found[1], (catalog.parent, catalog.parent.parent.parent / "coadd" / found[2] / found[1]), stack)


def _window(x: float, y: float, size: int, shape: tuple[int, int]) -> Window:
    """The stamp whose middle, index (size - 1) / 2, is the closest to a 0-based pixel position."""
    inside, of_brick = [], []
    for at, length in ((y, shape[0]), (x, shape[1])):
        start = int(np.floor(at - (size - 1) / 2 + 0.5))
        low, high = min(max(start, 0), length), max(min(start + size, length), 0)
        of_brick.append(slice(low, max(low, high)))
        inside.append(slice(low - start, max(low, high) - start))
    return Window((inside[0], inside[1]), (of_brick[0], of_brick[1]))


def _stamps(brick: Brick, field: Field, ra: Array, dec: Array) -> Array:
    """Stamps of one member, shape (n, *field.shape)."""
    size = int(field.shape[-1])
    stamps: npt.NDArray[Any] = np.zeros((len(ra), *(int(length) for length in field.shape)), field.numpy_dtype)
    windows = brick.windows(field.bands or ("g", "r", "i", "z"), ra, dec, size)
    if field.true_means is not None:
        for stamp, window in zip(stamps, windows, strict=True):
            stamp[window.inside] = _good(brick, window)
        return stamps
    if field.name not in LAYERS:
        raise BrokenSource("this form of the survey does not carry the field", column=field.name)
    for plane, band in enumerate(field.bands):
        layer = brick.layer(f"{LAYERS[field.name]}-{band}")
        for stamp, window in zip(stamps, windows, strict=True):
            if layer is not None:
                stamp[plane][window.inside] = _cut(layer, window)
    return stamps


def _good(brick: Brick, window: Window) -> Array:
    """Where no bad bit is set; without a map of bits, where any band has weight."""
    bits = brick.layer("maskbits")
    if bits is not None:
        return np.asarray(_cut(bits, window) & BAD_BITS == 0)
    weights = [brick.layer(f"invvar-{band}") for band in "griz"]
    return np.asarray(np.any([_cut(layer, window) > 0 for layer in weights if layer is not None], axis=0))


def _cut(layer: Any, window: Window) -> npt.NDArray[Any]:
    if any(part.start == part.stop for part in window.of_brick):
        return np.zeros([part.stop - part.start for part in window.of_brick], np.int32)
    try:
        return np.asarray(layer.section[window.of_brick])
    except (OSError, ValueError, TypeError) as error:
        raise BrokenSource("a coadd cannot be read", layer=layer.name, reason=str(error), hint="fetch the file again") from error

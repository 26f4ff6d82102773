"""A cone, a box or a MOC -> the ranges of `_healpix_29` that hold it, and which positions lie in it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fsspec
import numpy as np
from astropy.coordinates import SkyCoord
from mocpy import MOC

from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import Bool, Float, Int, arcsec, cone_cells, in_ranges, merge_ranges, unit_vectors

DEEPEST = 12
"""Order of the ranges around a cone or box: what they hold too much is left out by position."""


class Region(Protocol):
    """A part of the sky."""

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Sorted, disjoint, half-open ranges of `_healpix_29` that hold all of it, and perhaps a little more."""
        ...

    def holds(self, healpix29: Int, ra: Float, dec: Float) -> Bool:
        """Whether each position (degrees, with its pixel) lies in it. Shape (n,)."""
        ...


@dataclass(frozen=True)
class Cone:
    """All within `radius` of a point; all in degrees."""

    ra: float
    dec: float
    radius: float

    def __post_init__(self) -> None:
        if not (0 <= self.ra <= 360 and -90 <= self.dec <= 90 and 0 < self.radius <= 180):
            raise BadInput("a cone is RA,DEC,RADIUS in degrees: 0 to 360, -90 to 90, above 0", cone=str(self))

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        order = max(0, min(DEEPEST, int(np.log2(240.0 / max(self.radius, 1e-3)))))
        return merge_ranges(cell.range for cell in cone_cells(self.ra, self.dec, self.radius, order))

    def holds(self, healpix29: Int, ra: Float, dec: Float) -> Bool:
        centre = unit_vectors(np.array([self.ra]), np.array([self.dec]))
        return np.asarray(arcsec(np.linalg.norm(unit_vectors(ra, dec) - centre, axis=1)) <= self.radius * 3600.0)


@dataclass(frozen=True)
class Box:
    """Right ascension from `ra_min` on to `ra_max`, over 0 where that is smaller, and declination between two; degrees."""

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    def __post_init__(self) -> None:
        if not (0 <= self.ra_min <= 360 and 0 <= self.ra_max <= 360 and -90 <= self.dec_min < self.dec_max <= 90):
            raise BadInput("a box is RA_MIN,RA_MAX,DEC_MIN,DEC_MAX in degrees: 0 to 360, -90 to 90", box=str(self))

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        size = max(min((self.ra_max - self.ra_min) % 360.0 or 360.0, self.dec_max - self.dec_min), 1e-3)
        order = max(0, min(DEEPEST, int(np.log2(480.0 / size))))
        edge = 1e-9
        parts = [(self.ra_min, self.ra_max)] if self.ra_min < self.ra_max else [(self.ra_min, 360.0), (0.0, self.ra_max)]
        found: list[tuple[int, int]] = []
        for first, last in parts:
            corners = SkyCoord([first, last], [self.dec_min, min(self.dec_max + edge, 90.0)], unit="deg")
            zone = MOC.from_zone(corners, max_depth=order) if last > first else MOC.new_empty(order)
            around = zone.add_neighbours() if order > 0 else MOC.from_str("0/0-11")
            found += [(int(start), int(stop)) for start, stop in around.to_depth29_ranges]
        return merge_ranges(found)

    def holds(self, healpix29: Int, ra: Float, dec: Float) -> Bool:
        across = self._crosses(ra) | ((ra % 360.0 == 0) & self._crosses(np.array([0.0, 360.0])).any())
        return np.asarray(across & (dec >= self.dec_min) & (dec <= self.dec_max))

    def _crosses(self, ra: Float) -> Bool:
        after, before = ra >= self.ra_min, ra <= self.ra_max
        return (after & before) if self.ra_min < self.ra_max else (after | before)


@dataclass(frozen=True)
class Moc:
    """A multi-order coverage map."""

    ranges: tuple[tuple[int, int], ...]

    def holds(self, healpix29: Int, ra: Float, dec: Float) -> Bool:
        return in_ranges(healpix29, self.ranges)


def read_moc(url: str) -> Moc:
    """The MOC in a file (FITS or JSON, at any fsspec URL). Raises BadInput if it is none."""
    try:
        with tempfile.TemporaryDirectory() as folder, fsspec.open(url, "rb") as file:
            content = file.read()
            path = Path(folder, "moc")
            path.write_bytes(content)
            moc = MOC.load(path, format="fits" if content.startswith(b"SIMPLE") else "json")
    except FileNotFoundError as error:
        raise BadInput("there is no such MOC", file=url) from error
    except Exception as error:  # mocpy raises what its parser in Rust gives
        raise BadInput("cannot be read as a MOC in FITS or JSON", file=url, reason=str(error).splitlines()[0]) from error
    return Moc(tuple((int(start), int(stop)) for start, stop in moc.to_depth29_ranges))

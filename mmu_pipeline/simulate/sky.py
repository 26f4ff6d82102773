"""A seed to one true sky: galaxies, stars and supernova hosts in a few fields, and the places where matching goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import healpy as hp
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from astropy import units as u
from astropy.coordinates import Angle, offset_by, position_angle

from mmu_pipeline.errors import BadInput
from mmu_pipeline.sky import CELL_ORDER, Float, is_position

Values = npt.NDArray[Any]
Columns = dict[str, Values]
"""Column name -> values, all of one length."""
Row = dict[str, Any]
"""Column name -> value of one object."""


EPOCH = 2016.0
"""Julian year of the true positions."""
KINDS = ("galaxy", "star", "sn_host")
NSIDE = 1 << CELL_ORDER


@dataclass(frozen=True)
class Patch:
    """A round piece of sky with `count` objects drawn at random."""

    name: str
    ra: float
    dec: float
    radius_deg: float
    count: int


PATCHES = (
    Patch("cosmos", 150.12, 2.21, 0.8, 46),
    Patch("xmm_lss", 35.0, -4.8, 0.8, 44),
    Patch("elais_n1", 242.8, 54.9, 0.8, 42),
    Patch("deep2_3", 351.9, -0.4, 0.8, 42),
)
"""The four deep fields of HSC, thinned out."""

EDGE_CELL = 4 * 277
"""Order-4 cell whose two northern edges lie inside one order-3 cell: pairs across them share a split."""
CORNERS = ((4 * 277, 0), (4 * 430, 0), (4 * 430, 2))
"""Order-4 cells and which of their corners (0 north, 2 south). At the last, four order-3 cells meet: a guard acts there."""
EMPTY_CELL = 1300
"""Order-4 cell for which surveys publish files without rows."""
BROKEN_CELL = 1688
"""Order-4 cell whose SDSS file is truncated."""


def sky_objects(seed: int = 0) -> pa.Table:
    """The true objects, one row each, in the order of `true_id`.

    Columns: true_id int64; ra, dec float64 (degrees, epoch 2016.0); field, planted, kind string; across_deg float64 (for
    planted objects the position angle from the object into the first of the cells that meet there, else NaN); mag (AB, i band),
    colour (g - i), redshift, radius_arcsec, sersic, axis_ratio, angle_deg, teff (K), pmra, pmdec (mas/yr, pmra times cos dec),
    parallax (mas), sn_offset_arcsec, sn_peak_mjd float64. `planted` says why an object is there on purpose, "" if at random.
    """
    rng = np.random.default_rng([seed, 1])
    places = [*(_scattered(patch, rng) for patch in PATCHES), *_planted(rng)]
    joined = {name: np.concatenate([place[name] for place in places]) for name in places[0]}
    return pa.table({"true_id": np.arange(len(joined["ra"])), **joined, **_properties(joined, rng)})


def sky_at(places: pa.Table, seed: int = 0) -> pa.Table:
    """Objects at given places, as `sky_objects` gives them. `places` has ra and dec (degrees) and any of the other columns;
    what it does not say is drawn at random. Raises BadInput where a position is not on the sphere or a column is unknown."""
    if missing := {"ra", "dec"} - set(places.column_names):
        raise BadInput("the list of positions lacks a column", column=sorted(missing)[0], hint="it needs ra and dec, in degrees")
    ra, dec = (places[name].to_numpy().astype(np.float64) for name in ("ra", "dec"))
    if not is_position(ra, dec).all():
        raise BadInput("a position is not on the sphere", row=int(np.flatnonzero(~is_position(ra, dec))[0]))
    rng = np.random.default_rng([seed, 12])
    kinds = rng.choice(KINDS, len(ra), p=(0.5, 0.3, 0.2))
    if "kind" in places.column_names:
        kinds = np.array(places["kind"].to_pylist())
    joined = _place("list", "", ra, dec, np.nan, kinds)
    table = pa.table({"true_id": np.arange(len(ra)), **joined, **_properties(joined, rng)})
    for name in places.column_names:
        if name not in table.column_names:
            raise BadInput(
                "the list of positions has an unknown column", column=name, hint=f"known: {', '.join(table.column_names)}"
            )
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, places[name].cast(table.schema.field(name).type))
    return table


def _place(field: str, planted: str, ra: Float, dec: Float, across_deg: float | Float, kind: Values) -> Columns:
    count = len(ra)
    return {
        "ra": np.mod(ra, 360.0),
        "dec": np.asarray(dec, float),
        "field": np.full(count, field),
        "planted": np.full(count, planted, "U16"),
        "across_deg": np.broadcast_to(np.asarray(across_deg, float), count),
        "kind": kind.astype("U8"),
    }


def _scattered(patch: Patch, rng: np.random.Generator) -> Columns:
    angle = rng.uniform(0, 360, patch.count)
    distance = patch.radius_deg * np.sqrt(rng.uniform(0, 1, patch.count))
    ra, dec = offset(np.full(patch.count, patch.ra), np.full(patch.count, patch.dec), angle, distance * 3600)
    return _place(patch.name, "", ra, dec, np.nan, rng.choice(KINDS, patch.count, p=(0.5, 0.3, 0.2)))


def _planted(rng: np.random.Generator) -> list[Columns]:
    """Objects on borders, corners, the pole and RA 0, and those that a survey will publish wrongly."""
    steps = 8
    cycle = np.array(KINDS)
    around = hp.boundaries(NSIDE, EDGE_CELL, step=steps, nest=True).T
    edges = np.concatenate([around[1:steps:2], around[3 * steps + 1 :: 2]])
    corners = np.array([hp.boundaries(NSIDE, cell, step=1, nest=True).T[corner] for cell, corner in CORNERS])
    inside = np.array([cell for cell, _ in CORNERS])
    ra, dec = hp.pix2ang(NSIDE, BROKEN_CELL, nest=True, lonlat=True)
    return [
        _on_border("border", edges, np.full(len(edges), EDGE_CELL), cycle[np.arange(len(edges)) % 3]),
        _on_border("corner", corners, inside, cycle),
        _place("pole", "pole", np.array([0.0, 0.0, 90.0]), 90 - np.array([0.05, 20.0, 20.0]) / 3600, 90.0, cycle),
        _place("meridian", "meridian", np.zeros(6), np.array([-1.2, -0.7, -0.1, 0.4, 0.9, 1.3]), 90.0, np.tile(cycle, 2)),
        *(_near("cosmos", planted, 152.6, 1.1, 2, "galaxy", rng) for planted in ("duplicate", "coincident", "unmatched")),
        *(_near("cosmos", planted, 152.6, 1.1, 2, "star", rng) for planted in ("nan", "fast")),
        _near("lost", "broken_file", ra, dec, 5, "galaxy", rng),
    ]


def _on_border(name: str, points: Float, cells: Values, kind: Values) -> Columns:
    """Objects on the border of cells, points as unit vectors (n, 3)."""
    ra, dec = hp.vec2ang(points, lonlat=True)
    centre = [np.radians(angle) for angle in hp.pix2ang(NSIDE, cells, nest=True, lonlat=True)]
    across = np.degrees(position_angle(np.radians(ra), np.radians(dec), *centre).value)
    return _place(name, name, ra, dec, across, kind)


def _near(field: str, planted: str, ra: float, dec: float, count: int, kind: str, rng: np.random.Generator) -> Columns:
    """Objects 1 to 15 arcmin from a point."""
    around = offset(np.full(count, ra), np.full(count, dec), rng.uniform(0, 360, count), rng.uniform(60, 900, count))
    return _place(field, planted, *around, np.nan, np.full(count, kind))


def _properties(places: Columns, rng: np.random.Generator) -> Columns:
    """What the objects are, by kind: brightness, colour, distance, shape, motion."""
    count = len(places["ra"])
    star, host = places["kind"] == "star", places["kind"] == "sn_host"
    on_purpose = places["planted"] != ""
    redshift = np.where(star, rng.normal(0, 2e-4, count), rng.gamma(3.0, 0.055, count).clip(0.02, 0.75))
    galaxy_mag = 17.2 + 4.6 * np.sqrt(redshift.clip(0, 0.75)) + rng.normal(0, 0.8, count)
    mag = np.where(star, rng.uniform(15.5, 20.3, count), galaxy_mag).clip(15.5, 22.3)
    mag = np.where(on_purpose | host, mag.clip(15.5, 19.2), mag)
    teff = np.exp(rng.uniform(np.log(3400), np.log(9500), count))
    late = rng.uniform(0, 1, count)
    colour = np.where(star, 4.2 * (5200 / teff) ** 1.2 - 2.9, np.where(late < 0.62, 0.55 + 0.9 * late, 1.5 + 0.6 * (late - 0.5)))
    fast = places["planted"] == "fast"
    motion, heading = np.where(fast, 320.0, rng.gamma(1.5, 2.0, count)) * star, rng.uniform(0, 2 * np.pi, count)
    return {
        "mag": mag,
        "colour": colour.clip(-0.4, 3.4),
        "redshift": redshift,
        "radius_arcsec": (2.9 * 10 ** (-0.14 * (mag - 18)) * rng.lognormal(0, 0.25, count)).clip(0.5, 5.0),
        "sersic": np.where(late < 0.62, rng.uniform(0.8, 1.4, count), rng.uniform(2.5, 4.0, count)),
        "axis_ratio": rng.uniform(0.35, 0.95, count),
        "angle_deg": rng.uniform(0, 180, count),
        "teff": teff,
        "pmra": motion * np.sin(heading),
        "pmdec": motion * np.cos(heading),
        "parallax": np.where(star, rng.gamma(1.2, 0.6, count) + 0.05, 0.0),
        "sn_offset_arcsec": np.where(host, rng.uniform(0.4, 2.6, count), 0.0),
        "sn_peak_mjd": np.where(host, rng.uniform(55200, 56200, count), np.nan),
    }


def offset(ra: Float, dec: Float, angle_deg: Float, distance_arcsec: Float) -> tuple[Float, Float]:
    """Positions (degrees) reached from others along a position angle (degrees, north through east); exact at the poles."""
    lon, lat = offset_by(*(Angle(value, u.deg) for value in (ra, dec, angle_deg)), Angle(distance_arcsec, u.arcsec))
    return np.mod(lon.deg, 360.0), lat.deg


def rows_of(table: pa.Table) -> list[Row]:
    """Rows of a table as plain values."""
    return cast(list[Row], table.to_pylist())

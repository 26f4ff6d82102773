"""Positions at the epochs of their survey -> positions at one epoch, by proper motion, parallax and radial velocity."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from astropy import units

from mmu_pipeline.catalog import Survey
from mmu_pipeline.sky import Float, Int, unit_vectors

JULIAN_YEAR = re.compile(r"J(\d{4}(?:\.\d+)?)")
AU_KM_S_YR = 4.740470446
"""One astronomical unit a Julian year, in km/s (IAU 2012 definition of the au)."""
RADIAN_ARCSEC = float(np.degrees(1.0) * 3600.0)
JD_J2000, MJD_J2000 = 2451545.0, 51544.5
FIRST_JD = 1_000_000.0
"""Days from here on are Julian dates, those below modified Julian dates."""


def julian_year(text: str) -> float:
    """The number of an epoch written as J2016.0. Raises ValueError."""
    found = JULIAN_YEAR.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not an epoch: write it as J2016.0")
    return float(found[1])


def motion_columns(survey: Survey) -> list[str]:
    """Columns of the object table that moving a survey's positions reads."""
    named = [survey.epoch, *(survey.motion.model_dump().values() if survey.motion else ())]
    return [name for name in named if isinstance(name, str)]


def _values(table: pa.Table, survey: Survey, column: str | None, unit: str) -> Float:
    """A column in a unit, 0 where it is null or not there. Shape (n,)."""
    if column is None:
        return np.zeros(len(table))
    factor = units.Unit(survey.field(column).unit).to(unit)
    return np.asarray(np.nan_to_num(table[column].cast(pa.float64()).to_numpy() * factor))


def epochs(table: pa.Table, survey: Survey) -> Float:
    """Julian year of each row's position; NaN where it is not known. Shape (n,)."""
    declared = survey.epoch
    if declared is None:
        return np.full(len(table), np.nan)
    if isinstance(declared, float):
        return np.full(len(table), declared)
    values = table[declared].cast(pa.float64()).to_numpy()
    if units.Unit(survey.field(declared).unit) == units.day:
        zero = np.where(values >= FIRST_JD, JD_J2000, MJD_J2000)
        return np.asarray(2000.0 + (values - zero) / 365.25)
    return np.asarray(values)


def at_epoch(table: pa.Table, survey: Survey, epoch: float | Float) -> tuple[Float, Float]:
    """ra, dec in degrees of an object table's rows at a Julian year, or each at its own; shape (n,) each.

    Rows without proper motion or epoch stay where they are. Uniform straight motion in space: the direction at time t is
    that of r + t (mu_ra e_ra + mu_dec e_dec + mu_r r), with mu_r = v_r parallax / A (ESA 1997, The Hipparcos and Tycho
    Catalogues, vol. 1, section 1.5.5): what astropy's `apply_space_motion` does, but for light-travel time.
    """
    ra, dec = table["ra"].to_numpy(), table["dec"].to_numpy()
    motion = survey.motion
    if motion is None:
        return ra, dec
    years = np.nan_to_num(epoch - epochs(table, survey))
    rate = [_values(table, survey, name, "arcsec / yr") / RADIAN_ARCSEC for name in (motion.pmra, motion.pmdec)]
    parallax = np.maximum(_values(table, survey, motion.parallax, "arcsec"), 0.0) / RADIAN_ARCSEC
    radial = _values(table, survey, motion.radial_velocity, "km / s") * parallax / AU_KM_S_YR
    lon, lat = np.radians(ra), np.radians(dec)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    here = unit_vectors(ra, dec)
    velocity = rate[0][:, None] * east + rate[1][:, None] * north + radial[:, None] * here
    moved = here + years[:, None] * velocity
    new_ra = np.mod(np.degrees(np.arctan2(moved[:, 1], moved[:, 0])), 360.0)
    new_dec = np.degrees(np.arctan2(moved[:, 2], np.hypot(moved[:, 0], moved[:, 1])))
    still = (years == 0) | ~velocity.any(axis=1)
    return np.where(still, ra, new_ra), np.where(still, dec, new_dec)


def pair_chord(
    tables: tuple[pa.Table, pa.Table], surveys: tuple[Survey, Survey], epoch: float | None
) -> Callable[[Int, Int], Float]:
    """(rows of one object table, rows of the other) -> chord of each pair on the unit sphere, both moved to a Julian year.

    Where one survey alone has motions and the other says when it looked, each row is moved to the very epoch of the other.
    """
    moving = [survey.motion is not None for survey in surveys]
    side, still = moving.index(max(moving)), 1 - moving.index(max(moving))
    years: list[float | Float | None] = [epoch, epoch]
    if epoch is not None and sum(moving) == 1 and surveys[still].epoch is not None:
        known = epochs(tables[still], surveys[still])
        years[still], years[side] = None, np.where(np.isfinite(known), known, epoch)

    def chords(*rows: Int) -> Float:
        at = []
        for place, (table, survey) in enumerate(zip(tables, surveys, strict=True)):
            part, year = table.take(pa.array(rows[place])), years[place]
            if isinstance(year, np.ndarray):
                year = year[rows[still]]
            here = (part["ra"].to_numpy(), part["dec"].to_numpy()) if year is None else at_epoch(part, survey, year)
            at.append(unit_vectors(*here))
        return np.asarray(np.linalg.norm(at[0] - at[1], axis=1))

    return chords


def position_errors(table: pa.Table, survey: Survey) -> Float:
    """Standard error of each row's position in one coordinate, arcsec; NaN where it is not known. Shape (n,).

    The root mean square of the two axes, which is the same for any pair of axes at right angles.
    """
    squares = np.zeros(len(table))
    for column in survey.position_error or ():
        factor = units.Unit(survey.field(column).unit).to("arcsec")
        squares += (table[column].cast(pa.float64()).to_numpy() * factor) ** 2 / 2.0
    return np.sqrt(np.where(squares > 0, squares, np.nan))


def widest_motion(table: pa.Table, survey: Survey) -> dict[str, float]:
    """The fastest proper motion (arcsec a year) and the first and last epoch of some rows; empty if no epoch is known."""
    years = epochs(table, survey)
    known = years[np.isfinite(years)]
    if not len(known):
        return {}
    motion, speed = survey.motion, 0.0
    if motion is not None:
        speed = float(np.hypot(*(_values(table, survey, name, "arcsec / yr") for name in (motion.pmra, motion.pmdec))).max())
    return {"speed": speed, "first": float(known.min()), "last": float(known.max())}


def reach_of_motion(own: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]], epoch: float) -> float:
    """How far, in arcsec, a row may move to a Julian year, and on to the epoch of any row of the survey it is matched with.

    `own` and `others` are what `widest_motion` gave for the partitions of the two surveys. A tenth more, for perspective.
    """

    def span(facts: Sequence[Mapping[str, float]]) -> float:
        return max((abs(epoch - part[end]) for part in facts if part for end in ("first", "last")), default=0.0)

    speed = max((part["speed"] for part in own if part), default=0.0)
    return 1.1 * speed * (span(own) + span(others))

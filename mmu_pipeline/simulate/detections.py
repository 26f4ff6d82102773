"""True objects to what each survey lists: its own astrometric error, epoch, footprint, depth, ids and faults."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.simulate.instruments import Instrument
from mmu_pipeline.simulate.sky import BROKEN_CELL, EPOCH, NSIDE, Columns, Values, offset

PLANTED_SHIFT_ARCSEC = 0.25
"""How far each survey sees a planted border object from its true place, each survey to another side."""


def detect(sky: pa.Table, instrument: Instrument, seed: int) -> pa.Table:
    """Rows that a survey lists: `sky_objects` columns with ra, dec as it measures them, and `fault`, `cell` (int64, order 4).

    `fault` says what is wrong with the row on purpose: duplicate (the same row a second time), coincident (another id at the same
    position), nan (no right ascension; `cell` is still the true one), broken_file (lies in a truncated file), or "".
    Rows are in order of `true_id`; a repeated object stands in two rows.
    """
    rng = np.random.default_rng([seed, 2, *instrument.survey.encode()])
    sky = sky.filter(pc.is_in(sky["kind"], pa.array(instrument.kinds)))
    sky = sky.filter(pc.and_(pc.less_equal(sky["mag"], instrument.faintest), _covered(sky, instrument)))
    columns: Columns = {name: sky[name].to_numpy(zero_copy_only=False) for name in sky.column_names}
    ra, dec = _measured(columns, instrument, rng)
    cell = hp.ang2pix(NSIDE, ra, dec, nest=True, lonlat=True)
    fault = _faults(columns["planted"], cell, instrument.survey)
    table = sky.set_column(sky.schema.get_field_index("ra"), "ra", pa.array(np.where(fault == "nan", np.nan, ra)))
    table = table.set_column(sky.schema.get_field_index("dec"), "dec", pa.array(dec))
    table = table.append_column("fault", pa.array(np.where(_twice(fault), "", fault), pa.string()))
    table = table.append_column("cell", pa.array(cell, pa.int64()))
    again = table.filter(pa.array(_twice(fault)))
    again = again.set_column(again.schema.get_field_index("fault"), "fault", pa.array(fault[_twice(fault)], pa.string()))
    return pa.concat_tables([table, again]).sort_by("true_id")


def _twice(fault: Values) -> Values:
    return np.isin(fault, ("duplicate", "coincident"))


def _covered(sky: pa.Table, instrument: Instrument) -> pa.Array:
    outside = pc.is_in(sky["field"], pa.array(instrument.not_covered, pa.string()))
    if instrument.survey != "sdss":
        outside = pc.or_(outside, pc.equal(sky["planted"], "unmatched"))
    return pc.invert(outside)


def _measured(columns: Columns, instrument: Instrument, rng: np.random.Generator) -> tuple[Values, Values]:
    """Observed positions in degrees: moved to the epoch, to the supernova where one is listed, and off by the error."""
    count, years = len(columns["ra"]), instrument.epoch - EPOCH
    motion_arcsec = np.hypot(columns["pmra"], columns["pmdec"]) * years / 1000
    ra, dec = offset(columns["ra"], columns["dec"], np.degrees(np.arctan2(columns["pmra"], columns["pmdec"])), motion_arcsec)
    border = np.isfinite(columns["across_deg"])
    if instrument.kinds == ("sn_host",):
        far = np.where(border, 0.0, columns["sn_offset_arcsec"])
        ra, dec = offset(ra, dec, columns["angle_deg"], far)
    error = (instrument.error_arcsec * rng.rayleigh(1.0, count)).clip(0, 3 * instrument.error_arcsec)
    away = np.where(border, PLANTED_SHIFT_ARCSEC, error)
    angle = np.where(border, np.nan_to_num(columns["across_deg"]) + instrument.side_deg, rng.uniform(0, 360, count))
    return offset(ra, dec, angle, away)


def _faults(planted: Values, cell: Values, survey: str) -> Values:
    """The fault of each row in this survey."""
    where = {"duplicate": "hsc", "coincident": "sdss", "nan": "gaia"}
    fault = np.full(len(planted), "", "U16")
    for name, at in where.items():
        fault[(planted == name) & (survey == at)] = name
    fault[(cell == BROKEN_CELL) & (survey == "sdss")] = "broken_file"
    return fault

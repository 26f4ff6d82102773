"""Positions moved to another epoch, against astropy and against real benchmark stars."""

from __future__ import annotations

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import Distance, SkyCoord
from astropy.table import Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.astrometry import at_epoch, epochs, julian_year, reach_of_motion, widest_motion
from mmu_pipeline.catalog import Counterpart, Form, Motion, Recipe, Selection, Survey
from mmu_pipeline.fields import Field
from mmu_pipeline.sky import arcsec, healpix29, unit_vectors
from tests.skies import object_table
from tests.test_match_stage import run_match

UNITS = {"pmra": "mas / yr", "pmdec": "mas / yr", "parallax": "mas", "rv": "km / s", "jd": "d"}


def survey(name: str, epoch: float | str | None, moving: bool) -> Survey:
    fields = tuple(Field(name=column, dtype="float64", unit=unit) for column, unit in UNITS.items())
    motion = Motion(pmra="pmra", pmdec="pmdec", parallax="parallax", radial_velocity="rv") if moving else None
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True)
    return Survey(
        name=name, title=name, modality="table", release="1", summary="", forms={"mmu_v1": form}, fields=fields,
        licence="CC0", citation="none", epoch=epoch, motion=motion,
    )  # fmt: skip


def table(ra: np.ndarray, dec: np.ndarray, ids: list[str], **columns: np.ndarray) -> pa.Table:
    result = object_table(ra, dec, ids)
    order = [ids.index(name) for name in result["object_id"].to_pylist()]
    for name in UNITS:
        values = np.asarray(columns.get(name, np.full(len(ids), np.nan)), float)[order]
        result = result.append_column(name, pa.array(values, mask=~np.isfinite(values)))
    return result


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), year=st.floats(1950, 2050))
def test_moved_positions_are_those_of_astropy(seed: int, year: float) -> None:
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, 5), np.degrees(np.arcsin(rng.uniform(-1, 1, 5)))
    columns = {name: rng.normal(0, width, 5) for name, width in (("pmra", 3000), ("pmdec", 3000), ("rv", 60))}
    stars = table(ra, dec, list("abcde"), parallax=rng.uniform(1, 500, 5), **columns)
    found = at_epoch(stars, survey("gaia", 2016.0, moving=True), year)
    value = {
        name: stars[name].to_numpy() * u.Unit(unit or "deg")
        for name, unit in {**UNITS, "ra": "", "dec": ""}.items()
        if name != "jd"
    }
    epoch = [Time(when, format="jyear", scale="tcb") for when in (2016.0, year)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = SkyCoord(
            value["ra"], value["dec"], distance=Distance(parallax=value["parallax"]), pm_ra_cosdec=value["pmra"],
            pm_dec=value["pmdec"], radial_velocity=value["rv"], obstime=epoch[0],
        ).apply_space_motion(new_obstime=epoch[1])  # fmt: skip
    here, ours, theirs = (
        unit_vectors(*place) for place in ((value["ra"].value, value["dec"].value), found, (moved.ra.deg, moved.dec.deg))
    )
    differ, motion = (arcsec(np.linalg.norm(ours - other, axis=1)) for other in (theirs, here))
    assert (differ < 1e-5 + motion * 1.5 * np.abs(value["rv"].value) / 299792.458).all()  # astropy adds light-travel time


def test_rows_without_motion_or_epoch_stay() -> None:
    stars = table(
        np.array([10.0, 20.0]),
        np.array([5.0, -5.0]),
        ["a", "b"],
        pmra=np.array([np.nan, 100.0]),
        jd=np.array([2451545.0, np.nan]),
    )
    ra, dec = at_epoch(stars, survey("s", "jd", moving=True), 2016.0)
    assert ra.tolist() == stars["ra"].to_pylist()
    assert dec.tolist() == stars["dec"].to_pylist()


def test_epochs_are_read_from_years_jd_and_mjd() -> None:
    stars = table(np.zeros(3), np.array([0.0, 1.0, 2.0]), ["a", "b", "c"], jd=np.array([2451545.0, 51544.5, 2457388.5]))
    years = dict(zip(stars["object_id"].to_pylist(), epochs(stars, survey("s", "jd", moving=False)), strict=True))
    assert years == pytest.approx({"a": 2000.0, "b": 2000.0, "c": 2015.998}, abs=1e-3)
    assert julian_year("J2015.5") == 2015.5
    with pytest.raises(ValueError, match="write it as"):
        julian_year("2015.5")


def test_a_star_that_left_its_cell_is_still_found(tmp_path: Path) -> None:
    ra, dec = np.array([45.0]), np.array([0.0])  # a corner of four cells
    stars = table(ra + 1e-5, dec + 1e-5, ["fast"], pmra=np.array([-10000.0]), pmdec=np.array([-4000.0]))
    seen = at_epoch(stars, survey("one", 2016.0, moving=True), 2000.0)
    other = table(*seen, ["seen"], jd=np.array([2451545.0]))
    cells = [int(healpix29(t["ra"].to_numpy(), t["dec"].to_numpy())[0] >> 50) for t in (stars, other)]
    assert cells[0] != cells[1]
    surveys = {"one": survey("one", 2016.0, moving=True), "two": survey("two", "jd", moving=False)}
    for names in (("one", "two"), ("two", "one")):
        tables = {"one": stars, "two": other}
        for epoch, expected in ((None, [None]), ("J2000.0", ["seen" if names[0] == "one" else "fast"])):
            counterpart = Counterpart(survey=names[1], radius_arcsec=1.0, pick="mutual", epoch=epoch)
            recipe = Recipe(name="r", primary=Selection(survey=names[0]), counterparts=(counterpart,))
            found = run_match(
                tmp_path / f"{names[0]}{epoch}",
                recipe,
                {name: tables[name] for name in names},
                dict.fromkeys(names, 4),
                {},
                surveys,
            )
            assert found[f"{names[1]}_object_id"].to_pylist() == expected


def test_benchmark_stars_in_gaia_and_2mass_are_found_once_gaia_is_moved(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "catalogs" / "gbs_v3_gaia_2mass_allwise" / "gbs_v3_tmass_gaiadr3_hip_allwise_all_columns.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stars = Table.read(path)

    def column(name: str) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(stars[name]).astype(float), np.nan)

    both = np.isfinite(column("ra")) & np.isfinite(column("ra_gaiadr3"))
    names = [f"star{number:03d}" for number in np.flatnonzero(both)]
    gaia = table(
        column("ra_gaiadr3")[both], column("dec_gaiadr3")[both], names, pmra=column("pmra")[both], pmdec=column("pmdec")[both],
        parallax=column("parallax")[both], rv=column("radial_velocity")[both],
    )  # fmt: skip
    tmass = table(column("ra")[both], column("dec")[both], names, jd=column("j_date")[both])
    surveys = {"gaia": survey("gaia", 2016.0, moving=True), "tmass": survey("tmass", "jd", moving=False)}
    pairs = {}
    for epoch in (None, "J2000.0"):
        counterpart = Counterpart(survey="tmass", radius_arcsec=3.0, pick="nearest", how="inner", epoch=epoch)
        recipe = Recipe(name="r", primary=Selection(survey="gaia"), counterparts=(counterpart,))
        found = run_match(tmp_path / str(epoch), recipe, {"gaia": gaia, "tmass": tmass}, {"gaia": 4, "tmass": 4}, {}, surveys)
        assert found["gaia_object_id"].to_pylist() == found["tmass_object_id"].to_pylist()  # the pairs that are found are true
        pairs[epoch] = len(found)
    assert len(names) > 170
    assert pairs[None] == 83
    assert pairs["J2000.0"] >= len(names) - 5


def test_the_reach_of_motion_bounds_every_row() -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(0, width, 200) for name, width in (("pmra", 2000), ("pmdec", 2000), ("rv", 100))}
    ids = [f"s{number}" for number in range(200)]
    stars = table(rng.uniform(0, 360, 200), rng.uniform(-80, 80, 200), ids, parallax=rng.uniform(1, 700, 200), **columns)
    one = survey("one", 2016.0, moving=True)
    moved = at_epoch(stars, one, 1995.0)
    far = arcsec(
        np.linalg.norm(unit_vectors(*moved) - unit_vectors(stars["ra"].to_numpy(), stars["dec"].to_numpy()), axis=1)
    ).max()
    assert far < reach_of_motion([widest_motion(stars, one)], [], 1995.0) < 1.3 * far

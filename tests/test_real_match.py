"""Real rows: Gaia x 2MASS against astropy and LSDB, and who is right where they differ; a DESI target and its imaging."""

from __future__ import annotations

import warnings
from pathlib import Path

import astropy.units as u
import lsdb
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from mmu_pipeline.catalog import Counterpart, Recipe, Selection
from mmu_pipeline.sky import pixels_at
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.partitions import describe_objects
from mmu_pipeline.stages.receipts import stage_receipts
from tests.skies import object_table
from tests.test_blocks import match_table, stored, survey

ORDER = 7
"""Of the partitions: the field, two thirds of a degree wide, then lies in several, and their borders cross it."""


@pytest.fixture(scope="module")
def field(real_data: Path) -> dict[str, SkyCoord]:
    folder = real_data / "catalogs" / "gaia_2mass_hd219829"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gaia = Table.read(folder / "gaia_results.fits")
        tmass = Table.read(folder / "2MASS_results.ecsv")
    return {
        "gaia": SkyCoord(np.asarray(gaia["ra"]), np.asarray(gaia["dec"]), unit="deg"),
        "tmass": SkyCoord(np.asarray(tmass["RAJ2000"]), np.asarray(tmass["DEJ2000"]), unit="deg"),
    }


def build_of(folder: Path, field: dict[str, SkyCoord], pick: str, match_rows: int = 1_000_000) -> Build:
    tables = {}
    for name, places in field.items():
        table = object_table(places.ra.deg, places.dec.deg, [f"{name}{row}" for row in range(len(places))])
        tables[name] = table.append_column("mag", pa.nulls(len(table), pa.float32()))
    counterpart = Counterpart(survey="tmass", radius_arcsec=2.0, pick=pick, how="inner")
    recipe = Recipe(name="r", primary=Selection(survey="gaia"), counterparts=(counterpart,))
    surveys = {name: survey(name, ORDER) for name in tables}
    build = stored(folder, tables, surveys, recipe, match_rows=match_rows)
    describe_objects(build, stage_receipts(build, "objects"))
    return build


def pairs_of(table: pa.Table) -> dict[tuple[str, str], float]:
    ids = zip(table["gaia_object_id"].to_pylist(), table["tmass_object_id"].to_pylist(), strict=True)
    return dict(zip(ids, table["tmass_separation_arcsec"].to_pylist(), strict=True))


@pytest.mark.parametrize("match_rows", [1_000_000, 500])
def test_all_pairs_are_those_of_astropy(tmp_path: Path, field: dict[str, SkyCoord], match_rows: int) -> None:
    found = pairs_of(match_table(build_of(tmp_path, field, "all", match_rows), "gaia"))
    j, i, separation, _ = field["gaia"].search_around_sky(field["tmass"], 2 * u.arcsec)
    expected = {(f"gaia{a}", f"tmass{b}"): s for a, b, s in zip(i, j, separation.arcsec, strict=True)}
    assert len(expected) > 3000
    assert found.keys() == expected.keys()
    assert [found[pair] for pair in expected] == pytest.approx(list(expected.values()), abs=1e-6)


def test_what_lsdb_misses_lies_across_borders_and_astropy_finds_it(tmp_path: Path, field: dict[str, SkyCoord]) -> None:
    build = build_of(tmp_path, field, "nearest")
    ours = pairs_of(match_table(build, "gaia"))
    j, separation, _ = field["gaia"].match_to_catalog_sky(field["tmass"])
    astropy = {(f"gaia{i}", f"tmass{k}") for i, k in enumerate(j) if separation[i].arcsec <= 2.0}
    assert ours.keys() == astropy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left, right = (lsdb.open_catalog(build.root.path(f"objects/{name}")) for name in ("gaia", "tmass"))
        frame = left.crossmatch(
            right, radius_arcsec=2.0, n_neighbors=1, suffixes=("_g", "_t"), suffix_method="all_columns"
        ).compute()
    theirs = set(zip(frame["object_id_g"], frame["object_id_t"], strict=True))
    pixel = {}
    for name in field:
        table = build.root.read_table(f"objects/{name}/dataset", ["_healpix_29", "object_id"])
        pixel |= dict(
            zip(table["object_id"].to_pylist(), pixels_at(table["_healpix_29"].to_numpy(), ORDER).tolist(), strict=True)
        )
    differ = (ours.keys() - theirs) | (theirs - ours.keys())
    assert ours.keys() - theirs  # its catalogs have no margin here
    touched = {gaia for gaia, _ in differ}
    right_pairs = {pair for pair in ours if pair[0] in touched}
    assert all(pixel[gaia] != pixel[tmass] for gaia, tmass in right_pairs)


def test_a_desi_target_is_found_in_the_brick_that_it_was_chosen_from(real_data: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = real_data / "raw"
        target = Table.read(folder / "desi/fastspecfit/coadd-4-80613-thru20210324.fits", hdu="FIBERMAP")
        bricks = [Table.read(path, hdu=1) for path in sorted((folder / "legacysurvey").rglob("*tractor-*.fits"))]
    places = {"gaia": SkyCoord(np.asarray(target["TARGET_RA"]), np.asarray(target["TARGET_DEC"]), unit="deg")}
    columns = [{name.lower(): np.asarray(brick[name]) for name in brick.colnames} for brick in bricks]
    ra, dec, brick, row = (np.concatenate([part[name] for part in columns]) for name in ("ra", "dec", "brickid", "objid"))
    places["tmass"] = SkyCoord(ra, dec, unit="deg")
    (pair,) = pairs_of(match_table(build_of(tmp_path, places, "mutual"), "gaia"))
    found = int(pair[1].removeprefix("tmass"))
    assert (brick[found], row[found]) == (target["BRICKID"][0], target["BRICK_OBJID"][0])

"""What an index finds by cone, box and MOC is what brute force finds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mocpy import MOC

from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.regions import Box, Cone, read_moc
from mmu_pipeline.shards.search import box, cone, moc, search
from mmu_pipeline.sky import arcsec, healpix29, in_ranges, pixels_at, unit_vectors
from mmu_pipeline.storage import Root, shard_folder
from tests.small_set import CELLS, RECIPE, VERSION, make_small_set

FOLDER = shard_folder(RECIPE.name, VERSION)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Root:
    return Root(str(make_small_set(tmp_path_factory.mktemp("set")).path.parents[2]))


@pytest.mark.parametrize("radius", [0.05, 1.0, 4.0, 60.0])
@pytest.mark.parametrize("row", [0, 55, 120, 189])
def test_a_cone_finds_what_brute_force_finds(root, radius, row):
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    points = unit_vectors(table["ra"].to_numpy(), table["dec"].to_numpy())
    within = arcsec(np.linalg.norm(points - points[row], axis=1)) <= radius * 3600
    found = cone(root, FOLDER, table["ra"][row].as_py(), table["dec"][row].as_py(), radius)
    assert found["key"].to_pylist() == table.filter(pa.array(within))["key"].to_pylist()
    assert within[row]


def test_a_cone_gives_the_columns_asked_for(root):
    found = cone(root, FOLDER, 45.0, 60.0, 30.0, columns=["key", "imager_mag"])
    assert found.column_names == ["key", "imager_mag"]
    assert cone(root, FOLDER, 45.0, 60.0, 30.0).schema == root.read_table(f"{FOLDER}/{INDEX_PATH}").schema
    assert cone(root, FOLDER, 45.0, 60.0, 30.0, columns=["shard"])["shard"].type == pa.string()
    assert len(cone(root, FOLDER, 200.0, 10.0, 0.001)) == 0


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        ((40, 50), (0, 50)),
        ((350, 10), (-30, 30)),
        ((0, 360), (80, 90)),
        ((0, 360), (-90, 90)),
        ((300, 40), (-90, 20)),
        ((5, 5.1), (5, 6)),
    ],
)
def test_a_box_finds_what_brute_force_finds(root, ra, dec):
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    right, up = table["ra"].to_numpy(), table["dec"].to_numpy()
    across = (right >= ra[0]) & (right <= ra[1]) if ra[0] < ra[1] else (right >= ra[0]) | (right <= ra[1])
    expected = table.filter(pa.array(across & (up >= dec[0]) & (up <= dec[1])))
    assert box(root, FOLDER, ra, dec, ["key"])["key"].to_pylist() == expected["key"].to_pylist()


@pytest.mark.parametrize("seed", range(20))
def test_the_ranges_of_a_box_and_a_cone_hold_all_of_it(seed):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    width, height = 10 ** rng.uniform(-2, 2), 10 ** rng.uniform(-2, 1.5)
    area = Box(ra, (ra + width) % 360, max(dec - height, -90), min(dec + height, 90))
    right = np.mod(ra + np.append(rng.uniform(0, 1, 1998), [0, 1]) * width, 360)
    up = np.append(rng.uniform(area.dec_min, area.dec_max, 1998), [area.dec_min, area.dec_max])
    inside = area.holds(healpix29(right, up), right, up)
    assert inside.sum() > 1990
    assert in_ranges(healpix29(right, up), area.ranges)[inside].all()
    disc = Cone(ra, dec, min(width, 30))
    inside = disc.holds(healpix29(right, up), right, up)
    assert in_ranges(healpix29(right, up), disc.ranges)[inside].all()


@pytest.mark.parametrize(("first", "last"), [(350.0, 360.0), (350.0, 0.0), (0.0, 10.0), (355.0, 5.0)])
def test_right_ascension_0_is_360(first, last):
    ra, dec = np.array([0.0, 360.0, 180.0]), np.zeros(3)
    area = Box(first, last, -1.0, 1.0)
    assert area.holds(healpix29(ra, dec), ra, dec).tolist() == [True, True, False]
    assert in_ranges(healpix29(ra[:2], dec[:2]), area.ranges).all()


@pytest.mark.parametrize("form", ["fits", "json"])
def test_a_moc_file_finds_its_cells(root, tmp_path, form):
    path = tmp_path / f"some.{form}"
    MOC.from_str(f"4/{CELLS[1]} {CELLS[4]} 2/{CELLS[7] >> 4}").save(path, format=form)
    found = moc(root, FOLDER, str(path))
    table = root.read_table(f"{FOLDER}/{INDEX_PATH}")
    cells = pixels_at(table["_healpix_29"].to_numpy(), 4)
    expected = np.isin(cells, [CELLS[1], CELLS[4]]) | (cells >> 4 == CELLS[7] >> 4)
    assert 0 < len(found) < len(table)
    assert found["key"].to_pylist() == table.filter(pa.array(expected))["key"].to_pylist()


def test_what_is_no_region_is_told(root, tmp_path):
    Path(tmp_path, "no.json").write_text("{not a moc")
    with pytest.raises(BadInput, match="cannot be read as a MOC"):
        read_moc(str(tmp_path / "no.json"))
    with pytest.raises(BadInput, match="no such MOC"):
        read_moc(str(tmp_path / "nowhere.fits"))
    with pytest.raises(BadInput, match="a cone is"):
        search(root, FOLDER, Cone(10, 100, 1))
    with pytest.raises(BadInput, match="a box is"):
        search(root, FOLDER, Box(10, 20, 30, 20))

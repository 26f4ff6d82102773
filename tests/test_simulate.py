"""The simulated sky: what is in the files is what the truth says, and the planted places are where they should be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import aiohttp
import fsspec
import h5py
import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog_files import load_recipe, load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import reader
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.light_curves import light_curve
from mmu_pipeline.simulate.serve import Busy, CutShort, serving
from mmu_pipeline.simulate.sky import BROKEN_CELL, EMPTY_CELL, rows_of, sky_objects
from mmu_pipeline.simulate.snana import Supernova, Traps, snana_text
from mmu_pipeline.simulate.write import FOLDERS, LAYOUTS, Truth, write_sky

SURVEYS = load_surveys()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return write_sky(tmp_path_factory.mktemp("sky"), seed=0)


def paths_of(truth: Truth, survey: str) -> list[Path]:
    return sorted((truth.folder / FOLDERS[survey]).glob("healpix=*/*.hdf5"))


def test_the_sky_is_small_and_has_what_the_demo_promises(truth: Truth) -> None:
    planted = set(truth.objects["planted"].to_pylist())
    assert {
        "border",
        "corner",
        "pole",
        "meridian",
        "duplicate",
        "coincident",
        "unmatched",
        "nan",
        "fast",
        "broken_file",
    } <= planted
    assert sum(path.stat().st_size for path in truth.folder.rglob("*")) < 60e6
    assert (truth.folder / FOLDERS["hsc"] / f"healpix={EMPTY_CELL}" / "001-of-001.hdf5").exists()


def test_the_same_seed_gives_the_same_tables_and_files(truth: Truth, tmp_path: Path) -> None:
    pq.write_table(sky_objects(seed=0), tmp_path / "truth.parquet")
    assert (tmp_path / "truth.parquet").read_bytes() == (truth.folder / "truth.parquet").read_bytes()
    assert sky_objects(seed=1)["ra"] != truth.objects["ra"]
    rows = detect(truth.objects, INSTRUMENTS["sdss"], seed=0)
    rows = rows.append_column("object_id", pa.array(LAYOUTS["sdss"].object_ids(rows)))
    for file in set(LAYOUTS["sdss"].file_names(rows)) - {f"healpix={BROKEN_CELL}/001-of-001.hdf5"}:
        here = rows.filter(pa.array([name == file for name in LAYOUTS["sdss"].file_names(rows)]))
        LAYOUTS["sdss"].write_file(tmp_path / file, here, seed=0)
        assert (tmp_path / file).read_bytes() == (truth.folder / FOLDERS["sdss"] / file).read_bytes()


@pytest.mark.parametrize("planted", ["border", "corner"])
def test_the_surveys_see_planted_objects_in_different_cells(truth: Truth, planted: str) -> None:
    cells = {
        name: dict(zip(rows["true_id"].to_pylist(), rows["cell"].to_pylist(), strict=True))
        for name in ("hsc", "sdss")
        for rows in [truth.survey(name).filter(pc.equal(truth.survey(name)["planted"], planted))]
    }
    assert len(cells["hsc"]) >= 3
    assert all(cells["hsc"][true_id] != cell for true_id, cell in cells["sdss"].items())


def test_objects_at_the_meridian_are_seen_on_both_sides_of_it(truth: Truth) -> None:
    for name, inside in (("hsc", lambda ra: 0 < ra < 1e-3), ("sdss", lambda ra: 359.999 < ra < 360)):
        rows = truth.survey(name).filter(pc.equal(truth.survey(name)["planted"], "meridian"))
        assert rows.num_rows >= 6
        assert all(inside(ra) for ra in rows["ra"].to_pylist())


def test_one_object_is_within_an_arcsecond_of_the_pole(truth: Truth) -> None:
    assert truth.survey("hsc")["dec"].to_numpy().max() > 90 - 1 / 3600


@pytest.mark.parametrize("survey", list(FOLDERS))
def test_the_reader_gives_the_rows_that_were_written(truth: Truth, survey: str) -> None:
    read_objects = reader("mmu_v1").read_objects
    rows = 0
    for path in paths_of(truth, survey):
        file = path.relative_to(truth.folder / FOLDERS[survey]).as_posix()
        expected = truth.survey(survey).filter(pc.equal(truth.survey(survey)["source_file"], file))
        if "broken_file" in expected["fault"].to_pylist():
            with pytest.raises(BrokenSource):
                read_objects(SURVEYS[survey], "mmu_v1", path)
            continue
        table = read_objects(SURVEYS[survey], "mmu_v1", path).table
        assert table["object_id"].to_pylist() == expected["object_id"].to_pylist()
        tolerance = 2e-5 if survey == "ps1_sne_ia" else 0
        for axis in ("ra", "dec"):
            np.testing.assert_allclose(table[axis].to_numpy(), expected[axis].to_numpy(), rtol=0, atol=tolerance)
        rows += table.num_rows
    lost = truth.survey(survey).filter(pc.equal(truth.survey(survey)["fault"], "broken_file")).num_rows
    assert rows + lost == truth.survey(survey).num_rows


@pytest.mark.parametrize("survey", list(FOLDERS))
def test_every_declared_field_is_in_the_files(truth: Truth, survey: str) -> None:
    path = paths_of(truth, survey)[0]
    with h5py.File(path) as file:
        missing = [f.name for f in SURVEYS[survey].fields if (name := f.source_name("mmu_v1")) is not None and name not in file]
    assert missing == []


def test_rows_lie_in_the_cell_of_their_position(truth: Truth) -> None:
    rows = truth.detections.filter(pc.invert(pc.is_nan(truth.detections["ra"])))
    cells = hp.ang2pix(16, rows["ra"].to_numpy(), rows["dec"].to_numpy(), nest=True, lonlat=True)
    folders = [int(file.split("/")[0].removeprefix("healpix=")) for file in rows["source_file"].to_pylist()]
    assert cells.tolist() == folders == rows["cell"].to_pylist()


def test_hsc_stamps_hold_the_faults_of_the_real_ones(truth: Truth) -> None:
    zero_variance = no_data = 0
    for path in paths_of(truth, "hsc"):
        with h5py.File(path) as file:
            image, ivar, mask = (file[f"image_{name}"][:] for name in ("array", "ivar", "mask"))
            assert file["image_array"].dtype == ">f4"
            assert image.shape[1:] == ivar.shape[1:] == mask.shape[1:] == (5, 160, 160)
            assert mask.dtype == bool
        zero_variance += int((ivar > 3e38).sum())
        no_data += int(np.isnan(image).sum())
        assert not mask[np.isnan(image)].any()
        assert not ivar[np.isnan(image)].any()
    assert zero_variance > 0
    assert no_data > 0


def test_a_bright_star_is_a_point_at_the_declared_pixel(truth: Truth) -> None:
    star = min((row for row in rows_of(truth.objects) if row["kind"] == "star"), key=lambda row: abs(row["mag"] - 18))
    seen = truth.survey("hsc").filter(pc.equal(truth.survey("hsc")["true_id"], star["true_id"]))
    with h5py.File(truth.folder / FOLDERS["hsc"] / seen["source_file"][0].as_py()) as file:
        image = np.nan_to_num(file["image_array"][seen["source_row"][0].as_py(), 2])
        counts = image[64:94, 64:94].sum()
    assert np.unravel_index(image.argmax(), image.shape) in {(y, x) for y in (78, 79) for x in (78, 79)}
    assert counts == pytest.approx(10 ** (-0.4 * (star["mag"] - 27)), rel=0.1)


def test_sdss_spectra_are_padded_to_the_longest_of_the_cell(truth: Truth) -> None:
    lengths = set()
    for path in paths_of(truth, "sdss"):
        if f"healpix={BROKEN_CELL}/" in path.as_posix():
            continue
        with h5py.File(path) as file:
            wavelength, bad, ivar = (file[f"spectrum_{name}"][:] for name in ("lambda", "mask", "ivar"))
            ids = file["object_id"][:]
        padding = wavelength == -1
        lengths |= set((~padding).sum(axis=1).tolist())
        assert bad[padding].all()
        assert not ivar[padding].any()
        assert all(object_id.startswith(b"  ") for object_id in ids)
    assert lengths == {3849, 4620}


def test_light_curves_read_back_as_they_were_drawn(truth: Truth) -> None:
    seen = truth.survey("ps1_sne_ia").slice(0, 1)
    row = rows_of(truth.objects.filter(pc.equal(truth.objects["true_id"], seen["true_id"][0])))[0]
    drawn = light_curve(row, np.random.default_rng([0, 6, row["true_id"]]))
    survey = SURVEYS["ps1_sne_ia"]
    path = truth.folder / FOLDERS["ps1_sne_ia"] / seen["source_file"][0].as_py()
    members = [survey.field(name) for name in ("time", "band", "flux", "flux_err")]
    read = reader("mmu_v1").read_arrays(survey, "mmu_v1", path, np.array([0]), seen["object_id"].to_pylist(), members)
    for code, band in enumerate("griz"):
        here = read["band"][0] == code
        np.testing.assert_array_equal(np.asarray(read["time"][0])[here], drawn[band].mjd.astype(np.float32))
        np.testing.assert_array_equal(np.asarray(read["flux"][0])[here], drawn[band].flux.astype(np.float32))


def test_checksums_are_those_of_the_files(truth: Truth) -> None:
    for place in FOLDERS.values():
        folder = truth.folder / place
        lines = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
        assert set(lines) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.hdf5")}
        name = min(lines)
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == lines[name]


def test_the_shipped_recipes_are_valid() -> None:
    names = {"hsc-sdss-gaia", "csp-cfa3-swift", "ps1-sne-ia", "snls", "des-y3-sne-ia", "foundation"}
    assert {load_recipe(name, SURVEYS).name for name in names} == names


def test_the_server_lists_folders_and_serves_ranges(tmp_path: Path) -> None:
    (tmp_path / "healpix=0012").mkdir()
    (tmp_path / "healpix=0012" / "a file.bin").write_bytes(bytes(range(200)))
    fs = fsspec.filesystem("http")
    with serving(tmp_path) as server:
        (found,) = fs.glob(f"{server.url}/healpix=*/*")
        assert found == f"{server.url}/healpix=0012/a%20file.bin"
        assert fs.cat_file(found) == bytes(range(200))
        assert fs.cat_file(found, start=10, end=20) == bytes(range(10, 20))
        assert fs.cat_file(found, start=-5) == bytes(range(195, 200))
        assert fs.info(found)["size"] == 200
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{server.url}/missing")


def test_the_server_fails_as_asked_and_then_serves(tmp_path: Path) -> None:
    for name in ("busy", "cut"):
        (tmp_path / name).write_bytes(bytes(100_000))
    fs = fsspec.filesystem("http")
    with serving(tmp_path, {"busy": Busy(2), "cut": CutShort(1, keep=0.3)}) as server:
        for _ in range(2):
            with pytest.raises(aiohttp.ClientResponseError, match="503"):
                fs.cat_file(f"{server.url}/busy")
        with pytest.raises(aiohttp.ClientPayloadError):
            fs.cat_file(f"{server.url}/cut")
        assert fs.cat_file(f"{server.url}/busy") == fs.cat_file(f"{server.url}/cut") == bytes(100_000)
        assert server.requests["busy"] == 3


def test_snana_text_has_the_traps_asked_for(truth: Truth) -> None:
    host = next(row for row in rows_of(truth.objects) if row["kind"] == "sn_host")
    supernova = Supernova(
        "000010", 149.75, 3.16, light_curve(host, np.random.default_rng(0)), {"REDSHIFT_CMB": "0.2459 +- 0.001"}
    )
    plain = snana_text(supernova)
    observations = sum(len(curve.mjd) for curve in supernova.curves.values())
    assert plain.count("\nOBS: ") == observations
    assert "SNID:  000010\n" in plain
    assert plain.endswith("END:\n")
    traps = Traps(columns=("MJD", "MAG", "FLT", "FLUXCAL", "FLUXCALERR"), band_key="BAND", nvar_off=1, end=False, broken_row=2)
    text = snana_text(supernova, traps)
    assert "VARLIST:  MJD  MAG  BAND  FLUXCAL  FLUXCALERR\n" in text
    assert "NVAR:   6\n" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("OBS:")]
    assert [len(row) for row in rows[:4]] == [6, 6, 4, 6]
    assert len(snana_text(supernova, Traps(cut_at=0.5))) == len(plain) // 2

"""Surveys of spectra through the whole pipeline: HATS partitions of several orders over HTTP, and files with companions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.simulate import desi
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.hats import write_partition
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.simulate.sky import sky_objects
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.stages.receipts import stage_receipts
from tests.test_real_supernovae import array
from tests.tiny import recipe_yaml


@pytest.fixture(scope="module")
def seen() -> pa.Table:
    """What DESI sees: objects in five cells, three of which lie in one pixel of order 3."""
    rows = detect(sky_objects(0), INSTRUMENTS["desi"], 0)
    cells = rows["cell"].to_numpy()
    counts = {cell: int((cells == cell).sum()) for cell in np.unique(cells)}
    fullest = sorted(counts, key=lambda cell: -counts[cell])[:3]
    shared = [cell for cell in counts if cell >> 2 == 277]
    rows = rows.filter(pc.is_in(rows["cell"], pa.array([*fullest, *shared])))
    return rows.append_column("object_id", pa.array(desi.object_ids(rows)))


@pytest.fixture(scope="module")
def catalog(seen: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HATS catalog of them: partitions of order 3 and 4, and a margin in a folder of its own."""
    folder = tmp_path_factory.mktemp("hats")
    names = [(3, cell >> 2) if cell >> 2 == 277 else (4, cell) for cell in seen["cell"].to_pylist()]
    for order, pixel in set(names):
        rows = seen.filter(pa.array([name == (order, pixel) for name in names]))
        desi.write_file(folder / "cells" / f"{order}-{pixel}.hdf5", rows, 0)
        path = folder / f"desi/dataset/Norder={order}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
        write_partition("desi", folder / "cells" / f"{order}-{pixel}.hdf5", path, row_group_size=3)
        margin = folder / f"desi_margin/dataset/Norder={order}/Dir=0/Npix={pixel}.parquet"
        margin.parent.mkdir(parents=True, exist_ok=True)
        margin.write_bytes(path.read_bytes())
    (folder / "desi/hats.properties").write_text("obs_collection=desi\n")
    return folder / "desi"


def built(folder: Path, url: str, **options: Any) -> tuple[Build, list[dict[str, Any]], Path]:
    recipe = recipe_yaml(folder, "spectra", primary={"survey": "desi"}, shards={"samples_per_shard": 10})
    build = prepare(str(recipe), root=str(folder / "root"), sources={"desi": url}, cache=str(folder / "cache"), **options)
    for stage in STAGES:
        finish_stage(stage, build, [run_unit(unit, build) for unit in units_of(stage, build)])
    published = publish(build)
    assert published.set_aside == ()
    return build, pq.read_table(Path(published.url) / "index/samples.parquet").to_pylist(), Path(published.url)


def test_a_hats_catalog_becomes_samples_that_equal_the_truth(seen: pa.Table, catalog: Path, tmp_path: Path) -> None:
    with serving(catalog.parent) as server:
        build, index, folder = built(tmp_path, f"{server.url}/desi")
    assert build.sources["desi"].form == "hats"
    assert {unit.split("/")[1] for unit in (receipt.unit for receipt in stage_receipts(build, "scan"))} >= {"1108-1111"}
    truth = dict(zip(seen["object_id"].to_pylist(), desi.true_rows(seen, 0), strict=True))
    assert sorted(row["desi_object_id"] for row in index) == sorted(truth)
    members = [f"desi.{field.name}" for field in load_surveys()["desi"].members] + ["json"]
    for row in index:
        expected = truth[row["desi_object_id"]]
        assert row["desi_z"] == pytest.approx(expected["z"], rel=1e-12)
        assert row["desi_zwarn"] == bool(expected["zwarn"])
        assert (row["desi_flux_r"] is None) == (expected["flux_r"] is None)
        for name in ("wavelength", "flux", "ivar", "mask"):
            np.testing.assert_array_equal(array(folder, row, members, f"desi.{name}"), expected[name])


@pytest.mark.parametrize("in_shared", [True, False])
def test_only_partitions_that_touch_the_cells_are_fetched(in_shared: bool, seen: pa.Table, catalog: Path, tmp_path: Path) -> None:
    cells = seen["cell"].to_numpy()
    cell = next(int(cell) for cell in cells if (cell >> 2 == 277) == in_shared)
    with serving(catalog.parent) as server:
        _, index, _ = built(tmp_path, f"{server.url}/desi", cells=[cell])
        fetched = [path for path in server.requests if path.endswith(".parquet")]
    assert sorted(row["desi_object_id"] for row in index) == sorted(seen.filter(pa.array(cells == cell))["object_id"].to_pylist())
    wanted = f"Norder=3/Dir=0/Npix={cell >> 2}.parquet" if in_shared else f"Norder=4/Dir=0/Npix={cell}.parquet"
    assert all(wanted in path or not in_shared for path in fetched)
    assert 0 < len(fetched) <= 3


def test_coadds_and_their_redshifts_are_fetched_together(real_data: Path, tmp_path: Path) -> None:
    with serving(real_data / "raw/desi/fastspecfit") as server:
        build, index, folder = built(tmp_path, server.url)
    assert build.sources["desi"].form == "coadd"
    assert len(index) == 2
    assert all(row["desi_z"] is not None for row in index)
    members = [f"desi.{field.name}" for field in load_surveys()["desi"].members] + ["json"]
    assert {len(array(folder, row, members, "desi.flux")) for row in index} == {7781}


def test_a_changed_companion_is_noticed(real_data: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(real_data / "raw/desi/fastspecfit", place, copy_function=shutil.copyfile)
    build, _, _ = built(tmp_path / "build", str(place))
    assert all(run_unit(unit, build).status == "reused" for unit in units_of("scan", build))
    redrock = next(place.rglob("redrock-*"))
    os.utime(redrock, ns=(0, redrock.stat().st_mtime_ns + 1000))
    before = {unit.name: unit.fingerprint for unit in units_of("scan", build)}
    redrock.unlink()
    after = {unit.name: unit.fingerprint for unit in units_of("scan", build)}
    known = {receipt.unit: receipt.fingerprint for receipt in stage_receipts(build, "scan")}
    assert known.keys() == before.keys() == after.keys()
    assert len({known["desi/all-0000"], before["desi/all-0000"], after["desi/all-0000"]}) == 3

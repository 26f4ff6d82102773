"""Variable stars of ASAS-SN with LAMOST spectra and Gaia sources, joined by Gaia's ids, from files to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.readers import text_table
from mmu_pipeline.simulate import lamost
from mmu_pipeline.simulate.asassn import FOLDER, write_set
from mmu_pipeline.sky import healpix29, pixels_at
from tests.test_real_supernovae import array, build_of


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("asassn")
    return folder, write_set(folder)


@pytest.fixture(scope="module")
def built(stars: tuple[Path, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder, _ = stars
    sources = {"asassn_variables": folder / FOLDER, "lamost": folder / "lamost/lamost", "gaia": folder / "gaia/gaia"}
    _, published = build_of("asassn-lamost", tmp_path_factory.mktemp("built"), sources)
    return published, pq.read_table(published / "index/samples.parquet").to_pylist()


def test_the_catalogue_is_read_to_the_last_digit_of_its_gaia_ids(stars: tuple[Path, pa.Table]) -> None:
    folder, truth = stars
    (path,) = (folder / FOLDER).glob("*.csv")
    table = text_table.read_objects(load_surveys()["asassn_variables"], "csv", path).table
    assert table["object_id"].to_pylist() == truth["asassn_variables"].to_pylist()
    assert table["edr3_source_id"].to_pylist() == [None if name is None else int(name) for name in truth["gaia"].to_pylist()]
    irregular = [kind == "SR" for kind in table["variable_type"].to_pylist()]
    assert [period is None for period in table["period"].to_pylist()] == irregular


def test_every_star_with_a_spectrum_is_one_sample_with_its_best_spectrum(
    stars: tuple[Path, pa.Table], built: tuple[Path, list[dict[str, Any]]]
) -> None:
    truth = {row["asassn_variables"]: row for row in stars[1].to_pylist() if row["gaia"] and row["lamost"]}
    _, index = built
    assert sorted(row["asassn_variables_object_id"] for row in index) == sorted(truth)
    for row in index:
        star = truth[row["asassn_variables_object_id"]]
        assert (row["lamost_object_id"], row["gaia_object_id"]) == (star["lamost"][0], star["gaia"])
        assert (row["lamost_n_candidates"], row["lamost_rank"], row["has_gaia"]) == (1, 1, True)
        assert row["lamost_gaia_source_id"] == row["asassn_variables_edr3_source_id"] == int(star["gaia"])
    assert sum(row["lamost_separation_arcsec"] > 100 for row in index) > 3
    places = [
        [pixels_at(healpix29(np.array([row[f"{name}_ra"]]), np.array([row[f"{name}_dec"]])), 4)[0] for row in index]
        for name in ("asassn_variables", "lamost")
    ]
    assert any(a != b for a, b in zip(*places, strict=True)), "some spectra lie in another cell than their star"


def test_the_arrays_of_a_sample_are_those_of_the_joined_rows(built: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, index = built
    surveys = load_surveys()
    members = [f"lamost.{field.name}" for field in surveys["lamost"].members if field.is_carried("mmu_v1")]
    members += ["gaia.coeff", "gaia.coeff_error", "json"]
    for row in index:
        number = int(row["lamost_object_id"]) - 101_001
        length = min(lamost.LENGTH, lamost.LENGTHS[number // 3 % 3])
        assert len(array(folder, row, members, "lamost.wavelength")) == length
        assert array(folder, row, members, "gaia.coeff").shape == (110,)

"""Surveys of each kind through all stages: published layouts and real files to samples with the true arrays."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.ustar import read_array
from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import publish
from tests.test_survey_forms import CLOSE, SURVEYS, same, simulated


def samples_of(folder: Path, survey: str, source: str) -> dict[str, dict[str, Any]]:
    """Build a set of one survey: id -> its row of the index, and its members under `arrays`."""
    recipe = folder / "one.yaml"
    recipe.write_text(yaml.safe_dump({"name": "one", "primary": {"survey": survey}}))
    build = prepare(str(recipe), root=str(folder / "root"), sources={survey: source}, cache=str(folder / "cache"))
    claim_root(build)
    for stage in STAGES:
        outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
        assert [outcome.receipt.reason for outcome in outcomes if outcome.status == "set_aside"] == []
        finish_stage(stage, build, outcomes)
    published = Path(publish(build).url)
    members: dict[str, bytes] = {}
    for shard in published.glob("*.tar"):
        with tarfile.open(shard) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    found = {}
    for row in pq.read_table(published / "index/samples.parquet").to_pylist():
        stem = f"{row['key']}.{survey}."
        row["arrays"] = {
            name.removeprefix(stem).removesuffix(".npy"): read_array(memoryview(content), name)
            for name, content in members.items()
            if name.startswith(stem)
        }
        found[row[f"{survey}_object_id"]] = row
    return found


PUBLISHED = ("btsbot", "desi_provabgs", "jwst", "kepler", "legacysurvey", "manga", "plasticc", "tess", "twomass", "yse")
OTHERS = (
    ("chandra", "pha"), ("csp", "snana"), ("desi", "coadd"), ("gaia", "xp"), ("galah", "fits"), ("gz_hubble", "parquet"),
    ("legacysurvey", "bricks"), ("sdss", "hats"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "form"), [*((name, "mmu_v1") for name in PUBLISHED), *OTHERS])
def test_simulated_files_become_samples(name: str, form: str, tmp_path: Path) -> None:
    survey, written = SURVEYS[name], simulated(name, form, tmp_path / "source")
    below = {("gaia", "xp"): "Spectroscopy/xp_continuous_mean_spectrum", ("galah", "fits"): "spectra"}.get((name, form), "")
    if (name, form) == ("legacysurvey", "bricks"):
        below = "tractor"
    found = samples_of(tmp_path, name, str(tmp_path / "source" / below))
    truth = written.objects
    for at, object_id in enumerate(truth.object_ids):
        row = found[object_id]
        for column in truth.columns:
            same(row[f"{name}_{column}"], truth.columns[column][at], survey.field(column), 1e-7)
        assert set(row["arrays"]) == set(truth.members)
        for member, arrays in truth.members.items():
            dtype = "V1" if member == "jpg" else survey.field(member).numpy_dtype
            assert row["arrays"][member].dtype == dtype
            same(row["arrays"][member], arrays[at], survey.field(member), CLOSE.get((name, form), 0.0))


def test_the_quarters_of_a_real_star_are_one_sample(real_data: Path, tmp_path: Path) -> None:
    found = samples_of(tmp_path, "kepler", str(real_data / "raw/kepler"))
    assert list(found) == ["7660594"]
    arrays = found["7660594"]["arrays"]
    assert {len(array) for array in arrays.values()} == {len(arrays["time"])}
    assert set(np.unique(arrays["quarter"])) == set(range(11))
    assert (np.diff(arrays["time"]) > 0).all()


def test_objects_in_several_files_are_not_read_from_a_server(tmp_path: Path) -> None:
    recipe = tmp_path / "one.yaml"
    recipe.write_text(yaml.safe_dump({"name": "one", "primary": {"survey": "kepler"}}))
    memory = fsspec.filesystem("memory")
    memory.pipe("/kepler/kplr007660594-2009131105131_llc.fits", b"x")
    with pytest.raises(BadInput, match="local folder only"):
        prepare(str(recipe), root=str(tmp_path / "root"), sources={"kepler": "memory://kepler"})
    assert SURVEYS["kepler"].forms["llc"].parts

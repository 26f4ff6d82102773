"""Surveys of each kind through all stages: published layouts and real files to samples with the true arrays."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmu_pipeline.errors import BadInput
from mmu_pipeline.simulate.mmu_v1 import FILES
from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import publish
from tests.test_simulate_mmu_v1 import SURVEYS, written


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
            name.removeprefix(stem).removesuffix(".npy"): np.load(io.BytesIO(content), allow_pickle=False)
            for name, content in members.items()
            if name.startswith(stem) and name.endswith(".npy")
        }
        found[row[f"{survey}_object_id"]] = row
    return found


@pytest.mark.parametrize(
    "name", ["btsbot", "desi_provabgs", "jwst", "kepler", "legacysurvey", "manga", "plasticc", "tess", "twomass"]
)
def test_a_published_cell_becomes_samples(name: str, tmp_path: Path) -> None:
    survey, truth, path = written(name, tmp_path / "source", count=4)
    depth = FILES[name].count("/") + 1
    found = samples_of(tmp_path, name, str(path.parents[depth - 1]))
    assert set(found) == set(truth.object_ids)
    for at, object_id in enumerate(truth.object_ids):
        row = found[object_id]
        for column, values in truth.columns.items():
            assert row[f"{name}_{column}"] == values[at], column
        assert set(row["arrays"]) == set(truth.members)
        for member, arrays in truth.members.items():
            assert row["arrays"][member].dtype == survey.field(member).numpy_dtype
            np.testing.assert_array_equal(row["arrays"][member], arrays[at], member)


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

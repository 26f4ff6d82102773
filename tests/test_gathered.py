"""Observations in no order: gathered once by object, then read of chosen objects alone, with the values of the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

from mmu_pipeline.catalog import Recipe, Selection
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import gathered, plasticc_csv
from mmu_pipeline.readers.gathered import gather, rows_of
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.stages.access import Access
from mmu_pipeline.stages.build import Build, Source
from mmu_pipeline.stages.download import list_files
from mmu_pipeline.storage import Root

SURVEY = load_surveys()["plasticc"]
MEMBERS = [field for field in SURVEY.members if field.is_carried("csv")]
SCHEMA = pa.schema({"object_id": pa.string(), "value": pa.float64()})
PEAK = """
import resource, sys
from pathlib import Path
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.readers import gathered, plasticc_csv
gathered.BUCKET_BYTES = 2 * 1024**2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plasticc_csv.gather_arrays(load_surveys()["plasticc"], "csv", Path(sys.argv[1]), Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def observations(objects: int, each: int) -> pd.DataFrame:
    """Observations of all objects, shuffled."""
    rng, count = np.random.default_rng(1), objects * each
    frame = pd.DataFrame({
        "object_id": np.repeat(np.arange(objects) + 615, each), "mjd": rng.uniform(59580, 60675, count),
        "passband": rng.integers(0, 6, count), "flux": rng.normal(0, 50, count), "flux_err": rng.uniform(1, 9, count),
        "detected": rng.integers(0, 2, count)})  # fmt: skip
    return frame.iloc[rng.permutation(count)]


def written(folder: Path, objects: int, each: int, ending: str = ".csv") -> tuple[Path, pd.DataFrame]:
    """A table of objects, the last of which is not observed, and two tables of observations beside it."""
    folder.mkdir(exist_ok=True)
    frame = observations(objects, each)
    for number, part in enumerate((frame[: len(frame) // 2], frame[len(frame) // 2 :]), 1):
        path = folder / f"plasticc_test_lightcurves_{number:02d}{ending}"
        with pa.output_stream(str(path), compression="detect") as stream:
            csv.write_csv(pa.Table.from_pandas(part, preserve_index=False), stream)
    ids = np.arange(objects + 1) + 615
    names = ("ddf", "hostgal_specz", "hostgal_photoz", "hostgal_photoz_err", "distmod", "mwebv", "target", "true_z")
    table = pd.DataFrame({"object_id": ids, "ra": ids % 360, "decl": ids % 90, **dict.fromkeys(names, ids * 0)})
    table.to_csv(folder / f"plasticc_test_metadata{ending}", index=False)
    return folder / f"plasticc_test_metadata{ending}", frame


def check(frame: pd.DataFrame, ids: list[str], found: dict[str, Any]) -> None:
    """Arrays as pandas finds them in all observations."""
    for at, object_id in enumerate(ids):
        mine = frame[frame["object_id"] == int(object_id)].sort_values(["passband", "mjd"], kind="stable")
        np.testing.assert_array_equal(found["time"][at], mine["mjd"])
        np.testing.assert_array_equal(found["band"][at], mine["passband"])
        np.testing.assert_array_equal(found["flux"][at], mine["flux"].astype("f4"))
        np.testing.assert_array_equal(found["flux_err"][at], mine["flux_err"].astype("f4"))
        np.testing.assert_array_equal(found["detected"][at], mine["detected"] == 1)


def bytes_read() -> int:
    """By system calls of this process."""
    return next(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))


def accessing(place: str, cache: Path) -> Access:
    recipe = Recipe(name="one", primary=Selection(survey="plasticc"))
    return Access(Build(recipe, {"plasticc": SURVEY}, {"plasticc": Source("csv", place)}, Root("memory://x"), cache=str(cache)))


def curves(access: Access, place: str, rows: list[int]) -> dict[str, Any]:
    """The light curves of some rows, read as the samples of a build are."""
    (file,) = list_files(SURVEY.forms["csv"], place)
    chosen, ids = np.array(rows, np.int64), [str(615 + row) for row in rows]
    return access.read(
        SURVEY, file, lambda path: plasticc_csv.read_arrays(SURVEY, "csv", path, chosen, ids, MEMBERS), chosen, MEMBERS
    )


def test_real_objects_are_read_as_they_are_and_the_next_reading_takes_few_bytes(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "raw/plasticc/rygao"
    place = tmp_path / "place"
    place.mkdir()
    (place / "plasticc_train_lightcurves.csv").write_bytes((source / "training_set.csv").read_bytes())
    table = pd.read_csv(source / "training_set_metadata.csv")
    (place / "plasticc_train_metadata.csv").write_bytes((source / "training_set_metadata.csv").read_bytes())
    (file,) = list_files(SURVEY.forms["csv"], str(place))
    access = accessing(str(place), tmp_path / "cache")
    ids, rows = [str(one) for one in table["object_id"]], np.arange(len(table))

    def action(path: Any) -> Any:
        return plasticc_csv.read_arrays(SURVEY, "csv", path, rows, ids, MEMBERS)

    check(pd.read_csv(source / "training_set.csv"), ids, access.read(SURVEY, file, action, rows, MEMBERS))


def test_observations_are_read_through_once_for_each_version_of_the_files(tmp_path: Path) -> None:
    path, frame = written(tmp_path / "place", 4000, 80)
    place, size = str(path.parent), sum(file.stat().st_size for file in path.parent.iterdir())
    access, rows = accessing(place, tmp_path / "cache"), [3999, 17, 4000, 17]
    taken = []
    for _ in range(3):
        before = bytes_read()
        found = curves(access, place, rows)
        taken.append(bytes_read() - before)
        check(frame, [str(615 + row) for row in rows], found)
        assert len(found["time"][2]) == 0
    assert taken[0] > size
    assert max(taken[1:]) < 0.05 * size
    part = path.parent / "plasticc_test_lightcurves_02.csv"
    changed = pd.read_csv(part)
    changed["flux"] += 1
    changed.to_csv(part, index=False)
    now = pd.concat([pd.read_csv(path.parent / f"plasticc_test_lightcurves_{number:02d}.csv") for number in (1, 2)])
    check(now, [str(615 + row) for row in rows], curves(access, place, rows))


def test_remote_tables_are_fetched_and_gathered_once(tmp_path: Path) -> None:
    path, frame = written(tmp_path / "place", 50, 40, ".csv.gz")
    with serving(path.parent) as server:
        for rows in ([3, 1], [49, 50]):
            access = accessing(server.url, tmp_path / "cache")
            check(frame, [str(615 + row) for row in rows], curves(access, server.url, rows))
        for file in path.parent.iterdir():
            assert server.sent[file.name] == file.stat().st_size
        with pytest.raises(BrokenSource, match="another object") as caught:
            access.read(SURVEY, list_files(SURVEY.forms["csv"], server.url)[0], lambda folder: plasticc_csv.read_arrays(
                SURVEY, "csv", folder, np.array([1]), ["615"], MEMBERS), np.array([1]), MEMBERS)  # fmt: skip
        assert str(caught.value.where["file"]).endswith("plasticc_test_metadata.csv.gz")
        assert server.url in str(caught.value.where["file"])


def test_a_gathering_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    path, frame = written(tmp_path / "place", 20, 10)
    second = path.parent / "plasticc_test_lightcurves_02.csv"
    whole = second.read_text()
    second.write_text(whole.replace("\n6", "\nx,y\n6", 1))
    access = accessing(str(path.parent), tmp_path / "cache")
    with pytest.raises(BrokenSource) as caught:
        curves(access, str(path.parent), [1])
    assert caught.value.where["file"] == second
    status = second.stat()
    (folder,) = (tmp_path / "cache").iterdir()
    assert any(folder.glob("*.arrow"))
    second.write_text(whole)
    os.utime(second, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    check(frame, ["616"], curves(access, str(path.parent), [1]))


def test_memory_follows_the_bucket_and_not_the_tables(tmp_path: Path) -> None:
    peaks = []
    for objects in (8_000, 32_000):
        path, _ = written(tmp_path / str(objects), objects, 60)
        folder = tmp_path / f"of {objects}"
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", PEAK, path, folder], check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(int(done.stdout))
    assert len(list(folder.glob("*.parquet"))) > 40
    assert sum(file.stat().st_size for file in path.parent.iterdir()) > 100 * 1024**2
    assert peaks[1] < peaks[0] + 30, peaks


@given(
    st.lists(st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=2)), st.floats(allow_nan=False)), max_size=20), max_size=4),
    st.integers(1, 5),
)
def test_every_object_gets_its_rows_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str | None, float]]], buckets: int
) -> None:
    folder = tmp_path_factory.mktemp("gathered")
    columns = [[pa.array([row[at] for row in batch], SCHEMA.types[at]) for at in (0, 1)] for batch in batches]
    gather((pa.record_batch(column, schema=SCHEMA) for column in columns), SCHEMA, folder, buckets * gathered.BUCKET_BYTES)
    rows = [row for batch in batches for row in batch if row[0] is not None]
    asked = [*{name for name, _ in rows if name is not None}, "absent"]
    found = rows_of(folder, asked, ["value"])
    assert len(list(folder.iterdir())) == buckets
    assert len(found) == len(rows)
    for one in asked:
        mine = found.filter(pc.equal(found["object_id"], one))["value"].to_pylist()
        assert mine == [value for name, value in rows if name == one]

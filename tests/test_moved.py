"""How remote files will be read, and what reading them moved: in the plan and in the status of a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmu_pipeline import cli
from mmu_pipeline.catalog import Form
from mmu_pipeline.ranges import BLOCK
from mmu_pipeline.settings import Remote
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.stages.access import expected_way
from mmu_pipeline.stages.build import SourceFile
from tests.test_plan import asked, prepared, run, sky

HDF5 = Form(reader="mmu_v1", files=("*.hdf5",))
FAR = ("https://host/a.hdf5",)
LARGE, SMALL = 10**9, 10**5


@pytest.mark.parametrize(
    ("form", "file", "remote", "way"),
    [
        (HDF5, SourceFile("a", ("/data/a.hdf5",), LARGE), Remote(way="ranges"), "local"),
        (HDF5, SourceFile("a", FAR, LARGE), Remote(), "ranges"),
        (HDF5, SourceFile("a", FAR), Remote(), "ranges"),
        (HDF5, SourceFile("a", FAR, SMALL), Remote(), "whole"),
        (HDF5, SourceFile("a", FAR, SMALL), Remote(way="ranges"), "ranges"),
        (HDF5, SourceFile("a", FAR, BLOCK), Remote(way="ranges"), "whole"),
        (HDF5, SourceFile("a", FAR, LARGE), Remote(way="whole"), "whole"),
        (HDF5, SourceFile("a", FAR, LARGE, sha256="0" * 64), Remote(), "whole"),
        (HDF5, SourceFile("a", FAR, LARGE, sha256="0" * 64), Remote(way="ranges"), "ranges"),
        (Form(reader="snana", files=("*.dat",)), SourceFile("a", FAR, LARGE), Remote(way="ranges"), "whole"),
        (Form(reader="mmu_v1", files=("*",), companions={"more": ("a", "b")}), SourceFile("a", FAR, LARGE), Remote(), "whole"),
    ],
)
def test_what_a_listing_tells_of_the_way_of_reading(form: Form, file: SourceFile, remote: Remote, way: str) -> None:
    assert expected_way(form, file, remote) == way


@pytest.mark.parametrize("way", ["whole", "ranges"])
def test_plan_and_status_say_how_files_are_read_and_what_moved(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_REMOTE", json.dumps({"way": way}))
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data") as served:
        sky(tmp_path, served.url)
        plan = json.loads(CliRunner().invoke(cli.app, asked(tmp_path, "--json"), catch_exceptions=False).stdout)
        run(prepared(tmp_path), "samples")
        command = ["status", *asked(tmp_path)[1:]]
        found = json.loads(CliRunner().invoke(cli.app, [*command, "--json"], catch_exceptions=False).stdout)["moved"]
        shown = CliRunner().invoke(cli.app, command, catch_exceptions=False).stdout
    assert [one["survey"] for one in found] == ["one", "two"]
    for one, planned in zip(found, plan["surveys"], strict=True):
        files = sorted((tmp_path / "data" / one["survey"]).rglob("*.hdf5"))
        sent = sum(served.sent[str(file.relative_to(tmp_path / "data"))] for file in files)
        assert (one["files"], one["file_bytes"]) == (len(files), sum(file.stat().st_size for file in files))
        in_ranges = sum(file.stat().st_size > BLOCK for file in files) if way == "ranges" else 0
        assert (planned["ways"].get("ranges", 0), planned["ways"].get("whole", 0)) == (in_ranges, len(files) - in_ranges)
        assert one["readings"].get("whole", 0) == len(files) - in_ranges  # fetched once
        assert one["readings"].get("ranges", 0) >= in_ranges
        asked_for_version = sum(one["readings"].values())  # a byte of the file each time
        assert sent - asked_for_version <= one["bytes"] <= sent
        assert f"{one['requests']:,}" in shown
    assert "remote files" in shown


def test_local_files_move_nothing(tmp_path: Path) -> None:
    sky(tmp_path)
    run(prepared(tmp_path), "scan")
    shown = CliRunner().invoke(cli.app, ["status", *asked(tmp_path)[1:]], catch_exceptions=False).stdout
    assert "remote files" not in shown
    assert "local" in CliRunner().invoke(cli.app, asked(tmp_path), catch_exceptions=False).stdout

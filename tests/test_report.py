"""The demo and its page: a set built from the simulated sky agrees with the truth, and its page stands alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.report.gallery import choose
from mmu_pipeline.report.ink import svg
from mmu_pipeline.report.page import Checked, build_report, pairs_of
from mmu_pipeline.report.samples import Part, colour_image, image_field, is_light_curve, is_spectrum, parts_of, plain_arrays
from mmu_pipeline.report.shard_set import ShardSet, object_positions, open_set
from mmu_pipeline.report.show import show_sample
from mmu_pipeline.simulate.check import compare
from mmu_pipeline.simulate.demo import Demo, run_demo
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.simulate.write import FOLDERS, read_truth
from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import Published, publish


def build_here(
    recipe: str, *, cells: Sequence[int] | None = None, replace: bool = False, cluster: str = "", **places: Any
) -> Published:
    """A build in this process, without Dask and Prefect."""
    plan = prepare(recipe, cells=cells, **places)
    claim_root(plan, replace)
    for stage in STAGES:
        finish_stage(stage, plan, [run_unit(unit, plan) for unit in units_of(stage, plan)])
    return publish(plan)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), "", build_here)


@pytest.fixture(scope="module")
def shard_set(demo: Demo) -> ShardSet:
    return open_set(demo.shards)


def test_a_spectrum_or_light_curve_without_values_is_no_picture() -> None:
    empty = np.zeros(0, np.float32)
    assert not is_spectrum(Part({}, {"wavelength": empty, "flux": empty}, {}, {}))
    assert not is_light_curve(Part({}, {"time": empty, "band": empty, "flux": empty}, {}, {}))
    assert plain_arrays(Part({}, {"wavelength": empty, "flux": empty}, {}, {})) == []


def test_the_title_of_a_picture_is_text_and_nothing_else() -> None:
    title = "</title><script>alert(1)</script> A & B \\d"
    drawn = svg(Figure(), title)
    assert "<script" not in drawn
    assert unescape(drawn.split("<title>")[1].split("</title>")[0]) == title


def test_the_code_of_the_training_page_runs_on_the_set_of_the_demo(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.root.parents[1])
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    given: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("demo/root", str(demo.root)), given)
        assert len(next(iter(given.get("loader", [[1]]))))
    assert given["sample"]["hsc.image"].shape == (5, 160, 160)
    assert given["table"].num_rows == len(given["dataset"])
    assert given["images"].shape[1:] == (5, 96, 96)
    assert next(iter(given["data"]))["hsc.image.npy"].shape == (5, 160, 160)


REFERENCES = ("src", "href", "xlink:href", "data", "action", "srcset")


class Page(HTMLParser):
    """Collects what a page refers to, and how often each element stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if value and name in ("src", "href", "xlink:href", "data", "action", "srcset")
        ]


def test_the_demo_agrees_with_the_truth(demo: Demo) -> None:
    assert all(line.agrees for line in demo.checks), demo.checks
    found = {line.what: line.found for line in demo.checks}
    assert found["pairs with sdss"] > 100
    assert found["pairs with gaia"] > 40
    assert found["pairs with ps1_sne_ia"] > 15


def test_the_demo_sets_aside_just_the_broken_file(demo: Demo) -> None:
    (unit,) = demo.set_aside
    assert unit["stage"] == "scan"
    assert unit["unit"].startswith("sdss/")
    assert "HDF5" in unit["reason"]


def test_all_splits_have_samples_and_several_shards_are_made(shard_set: ShardSet) -> None:
    assert all(split["samples"] > 10 for split in shard_set.manifest["splits"].values())
    assert sum(len(split["shards"]) for split in shard_set.manifest["splits"].values()) > 5


def test_a_wrong_pair_in_the_set_is_noticed(demo: Demo, shard_set: ShardSet) -> None:
    ids = shard_set.index["sdss_object_id"].to_pylist()
    first, second = [row for row, object_id in enumerate(ids) if object_id][:2]
    ids[first], ids[second] = ids[second], ids[first]
    at = shard_set.index.schema.get_field_index("sdss_object_id")
    mixed = replace(shard_set, index=shard_set.index.set_column(at, "sdss_object_id", pa.array(ids)))
    line = next(line for line in compare(read_truth(demo.sky), mixed) if line.what == "pairs with sdss")
    assert not line.agrees
    assert line.found == line.expected - 2
    assert line.note == "2 wrong"


def test_the_demo_fails_where_the_set_differs_from_the_truth(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "sky").symlink_to(demo.sky)

    def some_cells(recipe: str, **options: Any) -> Published:
        return build_here(recipe, cells=[1087], **options)

    with pytest.raises(BrokenArtefact, match="differ from the simulated truth"):
        run_demo(tmp_path, "", some_cells)


def test_the_page_stands_alone(demo: Demo) -> None:
    page = Page(demo.page.read_text())
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "script" not in page.tags
    assert "link" not in page.tags
    style = re.findall(r"<style.*?</style>", demo.page.read_text(), flags=re.DOTALL)
    assert not any(("url(" in block and "url(#" not in block) or "@import" in block for block in style)


def test_the_page_shows_sky_gallery_and_what_was_left_out(demo: Demo, shard_set: ShardSet) -> None:
    text = demo.page.read_text()
    page = Page(text)
    assert page.tags.count("svg") >= 3 + 12
    assert page.tags.count("img") == 12
    for heading in ("On the sky", "Against the truth", "Left out", "Sources and licences", "Reading it"):
        assert f"<h2>{heading}</h2>" in text
    assert "sdss spectrum" in text
    assert "ps1_sne_ia light curve" in text
    for survey in shard_set.manifest["surveys"]:
        assert survey["title"] in text
    assert f"<b>{shard_set.index.num_rows}</b>" in text
    for reasons in shard_set.manifest["skipped"].values():
        assert all(reason in text for reason in reasons)
    assert "#123456" not in text, "a stand-in for the page's ink is left"
    assert demo.page.stat().st_size < 6e6


def test_the_same_set_gives_the_same_page(demo: Demo, tmp_path: Path) -> None:
    again = build_report(demo.shards, tmp_path / "again.html", truth=list(demo.checks))
    assert again.read_bytes() == demo.page.read_bytes()


def test_the_page_escapes_what_it_is_given(demo: Demo, tmp_path: Path) -> None:
    page = build_report(demo.shards, tmp_path / "page.html", truth=[Checked("<script>alert(1)</script>", 1, 2)])
    assert "<script" not in page.read_text()
    assert "differs" in page.read_text()


def test_the_gallery_begins_with_image_spectrum_and_light_curve(shard_set: ShardSet) -> None:
    rows = choose(shard_set, 12)
    assert len(set(rows.tolist())) == 12
    first = shard_set.sample(int(rows[0]))
    assert first.record["has_sdss"]
    assert first.record["has_ps1_sne_ia"]
    assert len(choose(shard_set, 10_000)) == shard_set.index.num_rows


def test_samples_are_read_at_their_offsets(shard_set: ShardSet) -> None:
    for row in range(0, shard_set.index.num_rows, 37):
        sample = shard_set.sample(row)
        assert sample.key == shard_set.index["key"][row].as_py()
        assert sample.record["hsc_object_id"] == shard_set.index["hsc_object_id"][row].as_py()
        assert shard_set.row_of(sample.key) == row


def test_colours_follow_the_bands(shard_set: ShardSet) -> None:
    part = parts_of(shard_set.sample(0), shard_set.manifest)[0]
    field = image_field(part)
    assert field == "image"
    bright = np.full((5, 8, 8), 0.0, np.float32)
    bright[part.members[field]["bands"].index("i")] += np.linspace(0, 5, 64, dtype=np.float32).reshape(8, 8)
    red = colour_image(Part(part.survey, {field: bright}, part.members, {}), field)
    assert red.shape == (8, 8, 3)
    assert red[-1, -1, 0] > red[-1, -1, 2]


def test_object_tables_are_found_beside_the_shards(demo: Demo, shard_set: ShardSet) -> None:
    positions = object_positions(shard_set)
    assert list(positions) == ["hsc", "sdss", "gaia", "ps1_sne_ia"]
    assert len(positions["hsc"][0]) >= shard_set.index.num_rows


def test_pairs_are_counted_as_the_index_says(shard_set: ShardSet) -> None:
    for line in pairs_of(shard_set):
        assert line.pairs == sum(shard_set.index[f"has_{line.survey}"].to_pylist())
        assert line.median_arcsec is not None
        assert line.median_arcsec < 4


def test_show_gives_text_and_a_picture(demo: Demo, shard_set: ShardSet, tmp_path: Path) -> None:
    key = shard_set.index["key"][5].as_py()
    text, png = show_sample(demo.shards, key, tmp_path / "sample.png")
    assert text.startswith(key)
    assert "hsc.image" in text
    assert "5 x 160 x 160" in text
    assert imread(png).shape[2] == 4
    assert show_sample(demo.shards, out=tmp_path / "any.png")[0].count("\n") > 20
    with pytest.raises(BadInput, match="no sample 'nothing'"):
        show_sample(demo.shards, "nothing")


def test_a_place_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no shard set"):
        open_set(tmp_path)


def test_a_set_of_one_survey_has_a_page_too(demo: Demo, tmp_path: Path) -> None:
    with serving(demo.sky) as server:
        sources = {"ps1_sne_ia": f"{server.url}/{FOLDERS['ps1_sne_ia']}"}
        built = build_here("ps1-sne-ia", root=str(tmp_path / "root"), sources=sources, cache=str(tmp_path / "cache"))
    text = build_report(tmp_path / "root" / "shards" / "ps1-sne-ia", tmp_path / "page.html").read_text()
    assert built.samples == 29
    assert "ps1_sne_ia light curve" in text
    assert "Pairs" not in text

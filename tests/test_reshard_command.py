"""`mmu reshard`: options as they are typed, the set that comes of them, on a cluster too."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.cli import app
from mmu_pipeline.errors import BadInput
from mmu_pipeline.options import rule_of
from mmu_pipeline.shards.reshape import ReshardRule
from tests.small_set import SmallSet, make_small_set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> SmallSet:
    return make_small_set(tmp_path_factory.mktemp("set"))


def contents(folder: str) -> dict[str, bytes]:
    place = Path(folder)
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_options_become_a_rule():
    rule = rule_of(
        {
            "where": "i_mag < 21", "cone": "150.1,2.2,1", "moc": None, "members": "hsc,sdss.flux", "target_bytes": "64MiB",
            "split": "train=0.9,validation=0.05,test=0.05,order=2,seed=1,guard_arcsec=30", "limit_per_class": "kind=100",
        }
    )  # fmt: skip
    assert rule == ReshardRule(
        where="i_mag < 21",
        cone=(150.1, 2.2, 1.0),
        members=("hsc", "sdss.flux"),
        target_bytes=64 * 1024**2,
        split=SplitRule(train=0.9, validation=0.05, test=0.05, order=2, seed=1, guard_arcsec=30),
        limit_per_class=("kind", 100),
    )


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("split", "train=0.9", "--split: train . validation . test must be 1"),
        ("split", "train:0.9", "--split wants KEY=VALUE"),
        ("split", "train=1,validation=0,test=0,colour=3", "--split: Extra inputs"),
        ("cone", "1,2", "--cone wants 3 numbers"),
        ("cone", "a,b,c", "--cone wants 3 numbers"),
        ("limit_per_class", "kind=some", "--limit-per-class: "),
        ("target_bytes", "big", "--target-bytes: "),
        ("samples_per_shard", 0, "--samples-per-shard: "),
    ],
)
def test_an_option_that_is_wrong_is_named(option, text, message):
    with pytest.raises(BadInput, match=message):
        rule_of({option: text})


def test_the_command_makes_a_set_and_says_which(small_set, tmp_path):
    asked = ["reshard", str(small_set.path), "--out", str(tmp_path / "out"), "--where", "imager_mag < 22", "--quiet"]
    found = CliRunner().invoke(app, [*asked, "--samples-per-shard", "12", "--members", "imager.image", "--json"])
    assert found.exit_code == 0, found.output
    made = json.loads(found.stdout)
    manifest = json.loads((Path(made["url"]) / "manifest.json").read_text())
    assert [member["name"] for member in manifest["members"]] == ["imager.image"]
    assert made["samples"] == manifest["samples"] == sum((s.record["imager_mag"] or 99) < 22 for s in small_set.samples.values())
    again = CliRunner().invoke(app, [*asked, "--samples-per-shard", "12", "--members", "imager.image"])
    assert "nothing to do, this version is there" in again.output
    assert CliRunner().invoke(app, ["verify", made["url"]]).exit_code == 0


def test_a_cluster_gives_the_same_bytes(small_set, tmp_path):
    from flows.reshard import reshard as flow
    from mmu_pipeline.stages.reshard import reshard

    rule = ReshardRule(samples_per_shard=9, balance="imager_kind")
    there = flow([str(small_set.path)], str(tmp_path / "there"), rule, cluster="local:2", quiet=True)
    here = reshard([str(small_set.path)], str(tmp_path / "here"), rule)
    assert there.shards.done == there.shards.units > 10
    assert contents(there.url) == contents(here.url)
    again = flow([str(small_set.path)], str(tmp_path / "there"), rule, quiet=True)
    assert again.reused
    assert again.shards.units == 0


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    make_small_set(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "resharding.md").read_text()
    commands = re.findall(r"^\$ mmu (.*)$", page, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        found = CliRunner().invoke(app, shlex.split(command))
        assert found.exit_code == 0, found.output
    assert all(f"`{option}" in page for option in ("--where", "--moc", "--split", "--members", "--balance", "--world-size"))

"""The command as a user runs it: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import recipe_yaml, survey_yaml, write_cells

MMU = [sys.executable, "-c", "from mmu_pipeline.cli import main; main()"]


def mmu(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mmu` in a process of its own."""
    command = [*MMU, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | environment, check=False)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey of five objects in a few cells, and the recipe `some` that builds it."""
    folder = tmp_path_factory.mktemp("sky")
    write_cells(folder / "data", [10.0, 10.1, 40.0, 40.1, 80.0], [1.0, 1.1, 2.0, 2.1, 3.0], [f"A{n}" for n in range(5)])
    survey_yaml(folder / "surveys", "tiny", folder / "data")
    recipe_yaml(folder, "some", primary={"survey": "tiny"})
    return folder


def files(sky: Path) -> int:
    return len(list((sky / "data").rglob("*.hdf5")))


def options(sky: Path, root: Path) -> list[object]:
    return [sky / "some.yaml", "--root", root, "--survey-dir", sky / "surveys"]


def test_help_and_lists_load_neither_prefect_nor_dask() -> None:
    check = (
        "import sys; sys.argv = ['mmu', *sys.argv[1:]]\n"
        "from mmu_pipeline.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('prefect', 'dask', 'distributed', 'torch') if m in sys.modules], file=sys.stderr)"
    )
    for word in ("--help", "surveys"):
        ran = subprocess.run([sys.executable, "-c", check, word], capture_output=True, text=True, timeout=60, check=True)
        assert ran.stderr.strip() == "[]"


def test_surveys_and_recipes_are_listed_for_people_and_machines() -> None:
    for word, known in (("surveys", "snls"), ("recipes", "hsc-sdss-gaia")):
        assert known in mmu(word).stdout
        listed = json.loads(mmu(word, "--json").stdout)
        assert known in {item["name"] for item in listed}
    page = mmu("survey", "snls").stdout
    assert "Supernova Legacy Survey" in page
    assert "flux_err" in page
    assert json.loads(mmu("survey", "snls", "--json").stdout)["name"] == "snls"
    padded = json.loads(mmu("survey", "kepler", "--json").stdout, parse_constant=pytest.fail)  # JSON has no word for NaN
    assert "NaN" in [(form["padding"] or {}).get("value") for form in padded["forms"].values()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["survey", "nope"], "unknown survey 'nope'"),
        (["build", "nope"], "no recipe 'nope'"),
        (["build", "snls", "--cells", "12,x"], "--cells wants whole numbers"),
        (["build", "snls", "--cone", "1,2"], "--cone wants 3 numbers"),
        (["build", "snls", "--source", "snls"], "--source wants SURVEY=URL"),
        (["build", "snls", "--cluster", "locl"], "no such cluster: 'locl'"),
        (["build", "snls", "--bogus"], "No such option"),
        (["bild"], "No such command"),
        (["plan"], "Missing argument"),
    ],
)
def test_bad_input_ends_with_2_and_one_block_on_stderr(words: list[str], said: str) -> None:
    ran = mmu(*words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr


def test_a_root_that_is_a_file_is_named(sky: Path, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("no folder")
    ran = mmu("build", *options(sky, tmp_path / "root"))
    assert ran.returncode == 2
    assert "cannot be used" in ran.stderr
    assert str(tmp_path / "root") in ran.stderr


def test_an_unknown_survey_or_field_in_a_recipe_names_file_and_key(sky: Path, tmp_path: Path) -> None:
    unknown = recipe_yaml(tmp_path, "unknown", primary={"survey": "atlantis"})
    ran = mmu("plan", unknown, "--survey-dir", sky / "surveys")
    assert ran.returncode == 2
    assert "unknown survey 'atlantis'" in ran.stderr
    assert str(unknown) in ran.stderr
    wrong = recipe_yaml(tmp_path, "wrong", primary={"survey": "tiny", "members": ["imaeg"]})
    ran = mmu("plan", wrong, "--survey-dir", sky / "surveys")
    assert ran.returncode == 2
    assert "imaeg" in ran.stderr
    assert "members" in ran.stderr
    assert "image" in ran.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    ran = mmu("build", "nope", "--debug")
    assert ran.returncode != 0
    assert "Traceback" in ran.stderr


def test_plan_says_what_would_be_read_and_writes_nothing(sky: Path, tmp_path: Path) -> None:
    planned = json.loads(mmu("plan", *options(sky, tmp_path / "root"), "--json").stdout)
    assert planned["surveys"][0]["files"] == planned["surveys"][0]["open_units"] == files(sky) > 1
    assert not (tmp_path / "root").exists()


def test_a_build_from_plan_to_show(sky: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    built = mmu("build", *options(sky, root), "--json")
    assert built.returncode == 0, built.stderr
    result = json.loads(built.stdout)
    assert (result["samples"], result["reused"], result["set_aside"]) == (5, False, [])
    assert f"{files(sky)}/{files(sky)} units" in built.stderr

    status = json.loads(mmu("status", *options(sky, root), "--json").stdout)
    assert status["version"] == result["version"]
    assert {stage["stage"]: stage["done"] for stage in status["stages"]}["scan"] == files(sky)

    verified = mmu("verify", result["url"], "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["ok"] is True

    shown = json.loads(mmu("show", result["url"], "A3", "--out", tmp_path / "a.png", "--json").stdout)
    assert "tiny.image" in shown["text"]
    assert Path(shown["picture"]).stat().st_size > 0

    shard = next(Path(result["url"]).glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    broken = mmu("verify", result["url"])
    assert broken.returncode == 1
    assert shard.name in broken.stdout


def test_a_broken_cell_ends_with_3_and_the_next_run_retries_it(sky: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = write_cells(data, [10.0, 40.0], [1.0, 2.0], ["A0", "A1"])
    whole = files[min(files)].read_bytes()
    files[min(files)].write_bytes(whole[: len(whole) // 2])
    asked = [*options(sky, tmp_path / "root"), "--source", f"tiny={data}"]

    first = mmu("build", *asked)
    assert first.returncode == 3, first.stderr
    assert "set aside: 1" in first.stdout
    assert f"tiny/{min(files)}" in first.stdout
    assert "Traceback" not in first.stderr

    files[min(files)].write_bytes(whole)
    second = mmu("build", *asked, "--json", "--quiet")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["samples"] == 2
    assert second.stderr == ""


def test_a_root_with_other_results_is_refused_unless_replaced(sky: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "receipts" / "recipes").mkdir(parents=True)
    (root / "receipts" / "recipes" / "some.json").write_text('{"name": "some", "primary": {"survey": "other"}}')
    ran = mmu("build", *options(sky, root))
    assert ran.returncode == 2
    assert "the root already holds" in ran.stderr
    assert "--replace" in ran.stderr
    assert "Traceback" not in ran.stderr

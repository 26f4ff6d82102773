"""Real supernova files through the whole pipeline: every source file in the output or counted, every value as the text has it."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import lsdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.stages.receipts import stage_receipts
from tests.tiny import recipe_yaml

SETS = {
    # survey: files there, samples, reasons of the others
    "ps1_sne_ia": (370, 369, {"not in the survey's list of members": 1}),
    "snls": (239, 239, {}),
    "des_y3_sne_ia": (251, 248, {"no observations": 3}),
    "swift_sne_ia": (120, 120, {}),
    "foundation": (180, 180, {}),
    "csp": (136, 136, {}),
    "cfa3": (186, 186, {}),
    "yse": (292, 292, {}),
}


def build_of(recipe: Path | str, folder: Path, sources: dict[str, Path]) -> tuple[Build, Path]:
    """Run all stages and publish; the build and the folder of its shard set."""
    build = prepare(str(recipe), root=str(folder / "root"), sources={name: str(path) for name, path in sources.items()})
    for stage in STAGES:
        finish_stage(stage, build, [run_unit(unit, build) for unit in units_of(stage, build)])
    published = publish(build)
    assert published.set_aside == ()
    return build, Path(published.url)


def array(folder: Path, row: dict[str, object], members: list[str], name: str) -> np.ndarray:
    """One array of one sample, by its byte range in the shard."""
    which = members.index(name)
    with (folder / str(row["shard"])).open("rb") as file:
        file.seek(row["offset"] + row["member_offset"][which])  # type: ignore[operator, index]
        return np.asarray(np.load(io.BytesIO(file.read(row["member_nbytes"][which])), allow_pickle=False))  # type: ignore[index]


def text_rows(path: Path) -> Counter[tuple[str, float, np.float32, np.float32]]:
    """Band, time, flux and error of every OBS row of an SNANA file, read independently of the package."""
    names: list[str] = []
    rows: Counter[tuple[str, float, np.float32, np.float32]] = Counter()
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("VARLIST:"):
            names = words[1:]
        elif line.startswith("OBS:"):
            value = dict(zip(names, words[1:], strict=True))
            band = value.get("FLT") or value["BAND"]
            rows[band, float(value["MJD"]), np.float32(value["FLUXCAL"]), np.float32(value["FLUXCALERR"])] += 1
    return rows


@pytest.mark.parametrize("name", SETS)
def test_every_file_is_in_the_output_or_counted_and_every_value_is_that_of_the_text(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    there, samples, reasons = SETS[name]
    survey = load_surveys()[name]
    raw = real_data / "raw" / name
    recipe = recipe_yaml(tmp_path, "whole", primary={"survey": name}, shards={"samples_per_shard": 100})
    build, folder = build_of(recipe, tmp_path, {name: raw})
    scanned = stage_receipts(build, "scan")
    assert sum(receipt.rows_in for receipt in scanned) == there
    assert sum((Counter(receipt.skipped) for receipt in scanned), Counter()) == reasons
    index = pq.read_table(folder / "index/samples.parquet")
    assert len(index) == samples
    catalog = lsdb.open_catalog(build.root.path(f"objects/{name}"))
    assert len(catalog.compute()) == samples

    tables = [build.root.read_table(path) for receipt in stage_receipts(build, "objects") for path in receipt.outputs]
    files: dict[str, list[str]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        files.setdefault(row["object_id"], []).append(row["source_file"])
    members = [f"{name}.{field.name}" for field in survey.members] + ["json"]
    bands = survey.field("band").bands
    aliases = survey.field("band").band_aliases
    found: Counter[str] = Counter()
    for row in index.to_pylist():
        band, time, flux, error = (
            array(folder, row, members, f"{name}.{field}") for field in ("band", "time", "flux", "flux_err")
        )
        assert time.dtype == np.float64
        assert flux.dtype == error.dtype == np.float32
        ours = Counter(zip((bands[code] for code in band), time.tolist(), flux, error, strict=True))
        for file in files[row[f"{name}_object_id"]]:  # 2007sr of CfA3 was observed with two cameras: two files, two samples
            text = Counter({(aliases.get(b, b), *rest): n for (b, *rest), n in text_rows(raw / file).items()})
            found[file] += ours == text
    assert sorted(found.elements()) == sorted(file for named in files.values() for file in named)


def supernova(name: str) -> str:
    """A supernova's name without the habits of each survey: 2005hk, SN2005hk and iPTF13ebh, PTF13ebh are two objects."""
    return re.sub(r"^(SN|SNANA_|i(?=PTF))", "", name)


def test_csp_cfa3_and_swift_find_the_same_supernovae_by_position_as_by_name(real_data: Path, tmp_path: Path) -> None:
    names = ("csp", "cfa3", "swift_sne_ia")
    build, folder = build_of("csp-cfa3-swift", tmp_path, {name: real_data / "raw" / name for name in names})
    index = pq.read_table(folder / "index/samples.parquet").to_pylist()
    known = {
        name: {row["object_id"] for receipt in stage_receipts(build, "objects") if receipt.unit.startswith(f"{name}/")
               for path in receipt.outputs for row in build.root.read_table(path).to_pylist()}
        for name in names
    }  # fmt: skip
    assert len(index) == len(known["csp"]) == 136
    for other in names[1:]:
        by_position = {(row["csp_object_id"], row[f"{other}_object_id"]) for row in index if row[f"has_{other}"]}
        same = {supernova(name): name for name in known[other]}
        by_name = {(name, same[supernova(name)]) for name in known["csp"] if supernova(name) in same}
        assert by_position == by_name, (
            f"{other}: by position alone {by_position - by_name}, by name alone {by_name - by_position}"
        )
        assert len(by_position) > 15

"""How many core-seconds do units of each stage take? The defaults by which `mmu plan --nodes` sizes a build.

    python -m bench.rates [--objects 1200] [--rows 200000] [--positions 2000000]

Three builds run unit by unit in one process, from sources on a local disk to a root there: HSC stamps with SDSS spectra and
Gaia rows (1.7 MB a sample), Gaia alone (rows that are nearly all table), and the match of two catalogs of positions. Units of
each stage are of many sizes. Their times are fitted together, as the units of earlier runs are for a plan.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from bench.builds import RECIPE, write_sources
from bench.skies import matched_build, two_skies
from mmu_pipeline.journal import Journal
from mmu_pipeline.stages.build import STAGES, Build, Deal, Outcome, Unit, in_turn
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import prepare
from mmu_pipeline.stages.publish import publish
from mmu_pipeline.stages.sizing import Rate, rates_of
from mmu_pipeline.storage import Root

ALONE = """
name: bench-alone
primary: {survey: gaia}
shards: {target_bytes: 4 MiB}
"""
MATCH_ROWS = (20_000, 200_000)
"""Rows that a match holds: two sizes of blocks."""


def ran(build: Build, stages: Sequence[str], journal: Journal) -> None:
    """Run stages of a build one unit after the other, each noted."""
    for stage in stages:
        outcomes = [run_unit(unit, build) for unit in units_of(stage, build)]
        for outcome in outcomes:
            journal.add(outcome)
        finish_stage(stage, build, outcomes)


def timed(journal: Journal) -> Deal:
    """Checks of single shards one after the other, each noted."""

    def deal(run: Callable[[Unit, Any], Outcome], job: Any, units: Sequence[Unit]) -> Iterator[Outcome]:
        for outcome in in_turn(run, job, units):
            journal.add(outcome)
            yield outcome

    return deal


def units_of_builds(folder: Path, objects: int, rows: int, positions: int) -> pa.Table:
    """The units of the three builds."""
    journal = Journal()
    for name, recipe, count, fields in (("stamps", RECIPE, objects, 40), ("table", ALONE, rows, 60)):
        place = folder / name
        surveys = ("hsc", "sdss", "gaia") if name == "stamps" else ("gaia",)
        sources = write_sources(place, count, fields, surveys)
        (place / "recipe.yaml").write_text(recipe.replace("64 MiB", "16 MiB"))
        build = prepare(str(place / "recipe.yaml"), root=str(place / "root"), sources=sources)
        ran(build, STAGES, journal)
        publish(build, deal=timed(journal))
    one, two = two_skies(positions, positions)
    for most in MATCH_ROWS:
        root = Root(str(folder / f"positions-{most}"))
        ran(replace(matched_build(root, {"one": one, "two": two}, order=3), match_rows=most), ("match",), journal)
    return journal.table()


def typical_error(units: pa.Table, stage: str, rate: Rate) -> float:
    """Median of how far off the fit is for a unit, as a factor above one."""
    here = units.filter(pc.equal(units["stage"].cast(pa.string()), stage))
    columns = (here[name].to_numpy() for name in ("seconds", "rows_in", "weight"))
    off = [np.log(rate.seconds(1, rows, nbytes) / max(seconds, 1e-4)) for seconds, rows, nbytes in zip(*columns, strict=True)]
    return float(np.exp(np.median(np.abs(off))))


def main(
    objects: Annotated[int, typer.Option(help="Objects with images and spectra.")] = 1200,
    rows: Annotated[int, typer.Option(help="Rows of a table alone.")] = 200_000,
    positions: Annotated[int, typer.Option(help="Rows of each of two catalogs that are matched.")] = 2_000_000,
) -> None:
    """Print the rates, as `mmu_pipeline.stages.sizing.MEASURED` holds them."""
    with tempfile.TemporaryDirectory() as folder:
        units = units_of_builds(Path(folder), objects, rows, positions)
    if failed := pc.sum(pc.equal(units["status"].cast(pa.string()), "set_aside")).as_py():
        raise RuntimeError(f"{failed} units were set aside")
    table = Table("stage", "units", "core-s", "s a unit", "s a row", "s a byte", "off by", title="rates of one core")
    for stage, rate in rates_of(units).items():
        here = units.filter(pc.equal(units["stage"].cast(pa.string()), stage))
        figures = (f"{value:.1e}" for value in (rate.per_unit, rate.per_row, rate.per_byte))
        spent = pc.sum(here["seconds"]).as_py()
        table.add_row(stage, f"{len(here)}", f"{spent:.1f}", *figures, f"{typical_error(units, stage, rate):.2f}x")
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)

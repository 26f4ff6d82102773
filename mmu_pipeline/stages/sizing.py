"""What a build has to do, and rates fitted to units that ran -> time, bytes, storage and memory of the same build on N nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import nnls

from mmu_pipeline.catalog import Counterpart
from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.schema import sample_members
from mmu_pipeline.stages.buckets import buckets
from mmu_pipeline.stages.build import STAGES, Build
from mmu_pipeline.stages.overview import Plan, SurveyPlan
from mmu_pipeline.stages.repeats import is_reduced
from mmu_pipeline.storage import Root

FEWEST_UNITS = 20
"""Units of a stage that a fit needs; with fewer the measured defaults stand."""
BALANCE = 0.85
"""Share of the workers' time that a stage keeps busy: the rest is its tail, when the last units run alone, and its planning."""
BYTES_OF_A_ROW = 150
"""Of an object or match table, compressed: positions, ids, pointers and a few scalars."""
DRIVER_BYTES = 400 * 1000**2
DRIVER_BYTES_PER_UNIT = 3200
"""The flow's process: what it needs at all, and for each unit of the stage that it is in."""
BASE_BYTES = 350 * 1000**2
"""A worker process with all libraries loaded."""
Bound = Literal["workers", "network", "source", "one unit"]


@dataclass(frozen=True)
class Rate:
    """Core-seconds that units of a stage take: so much each, per row in and per byte read."""

    per_unit: float
    per_row: float
    per_byte: float

    def seconds(self, units: float, rows: float, nbytes: float) -> float:
        return units * self.per_unit + rows * self.per_row + nbytes * self.per_byte


MEASURED: Mapping[str, Rate] = {
    "scan": Rate(1.2e-2, 2.1e-5, 7e-10),
    "objects": Rate(6e-3, 1.4e-5, 0.0),
    "keys": Rate(5e-3, 3.5e-6, 1.6e-9),
    "match": Rate(1e-2, 2.6e-6, 0.0),
    "samples": Rate(2.6e-2, 7.5e-5, 3.3e-9),
    "shards": Rate(1e-3, 5.7e-5, 2.1e-9),
    "check": Rate(6e-3, 6.8e-5, 3e-10),
}
"""One core of 2.5 GHz, sources and root on a local disk, as `python -m bench.rates` found them on a quiet machine."""


@dataclass(frozen=True)
class Load:
    """What one stage has to do."""

    stage: str
    units: int
    rows: int
    nbytes: int
    """Read by its units."""
    written: int
    fetched: int = 0
    """Of what is read, what comes from the servers of the surveys."""


@dataclass(frozen=True)
class Nodes:
    """Machines to size for. Rates in bytes a second."""

    count: int
    workers: int = 16
    """Worker threads of a node, one core each."""
    network: float = 1.25e9
    source: float = 1.25e9
    """What the servers of the surveys give in all."""

    def __post_init__(self) -> None:
        if min(self.count, self.workers, self.network, self.source) <= 0:
            raise BadInput("nodes, workers and rates must be above zero", nodes=self.count, workers=self.workers)


@dataclass(frozen=True)
class StageEstimate:
    """One stage on the nodes."""

    load: Load
    core_seconds: float
    seconds: float
    bound: Bound
    """What keeps it from being faster."""


@dataclass(frozen=True)
class Estimate:
    """A build on the nodes."""

    nodes: Nodes
    stages: tuple[StageEstimate, ...]
    stored: Mapping[str, int]
    """Bytes of what the build leaves or needs while it runs."""
    worker_memory: int
    driver_memory: int
    fitted: tuple[str, ...]
    """Stages whose rates were fitted to runs under this root; the others have measured defaults."""
    guessed: tuple[str, ...]
    """Surveys whose rows are not counted yet: taken from their declared number, or from their bytes."""

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def rates_of(units: pa.Table) -> dict[str, Rate]:
    """Rates of the stages of which enough units ran, from the table of a `Journal`: least squares without negative terms.

    Each unit counts by its relative error, so that thousands of small units do not drown the large ones nor the reverse.
    """
    ran = units.filter(pc.equal(units["status"].cast(pa.string()), "done"))
    rates = {}
    for stage in (*STAGES, "check"):
        here = ran.filter(pc.equal(ran["stage"].cast(pa.string()), stage))
        if len(here) < FEWEST_UNITS:
            continue
        seconds = np.maximum(here["seconds"].to_numpy(), 1e-4)
        terms = np.stack([np.ones(len(here)), here["rows_in"].to_numpy(), here["weight"].to_numpy()], axis=1)
        terms = terms / seconds[:, None]
        scale = np.maximum(terms.max(axis=0), 1e-300)
        found, _ = nnls(terms / scale, np.ones(len(here)))
        rates[stage] = Rate(*map(float, found / scale))
    return rates


def journals(root: Root, recipe: str) -> list[pa.Table]:
    """The units of all runs of a recipe under a root that left a page."""
    folder = root.path(f"reports/{recipe}")
    found = sorted(path for path in root.fs.find(folder) if path.endswith("/units.parquet")) if root.fs.exists(folder) else []
    return [root.read_table(path[len(root.path("")) :]) for path in found]


def rows_of(plan: SurveyPlan, declared: int | None, row_bytes: int) -> int:
    """Rows of a survey in a build: counted, or all that it declares, or as many as its bytes hold."""
    if plan.rows is not None:
        return plan.rows
    by_bytes = (plan.nbytes or 0) // max(row_bytes, 1)
    return min(declared, by_bytes) if declared and by_bytes else declared or by_bytes


def key_rows(build: Build, rows: Mapping[str, int]) -> list[int]:
    """Rows that each join by key and each choice among repeats of a build looks at; every one of its buckets reads them all."""
    found = []
    for selection in build.recipe.selections:
        name = selection.survey
        if is_reduced(selection, build.surveys[name]):
            found.append(rows[name])
        if isinstance(selection, Counterpart) and selection.on:
            found.append(rows[name] + rows[build.recipe.primary.survey])
    return found


def loads(build: Build, plan: Plan) -> list[Load]:
    """What each stage of a build has to do, from its listing. A counterpart is taken to match wherever it can."""
    recipe, of = build.recipe, {survey.survey: survey for survey in plan.surveys}
    row_bytes = {name: sum(field.nominal_bytes for field in survey.members) + 100 for name, survey in build.surveys.items()}
    rows = {name: rows_of(of[name], build.surveys[name].expected_rows, row_bytes[name]) for name in recipe.survey_names}
    total, primary = sum(rows.values()), rows[recipe.primary.survey]
    files = sum(survey.files for survey in plan.surveys)
    by_ranges = {name for name, survey in of.items() if "ranges" in survey.ways and "whole" not in survey.ways}
    source = {name: of[name].nbytes or rows[name] * row_bytes[name] for name in of}
    source |= {name: rows[name] * BYTES_OF_A_ROW for name in by_ranges}
    copied = sum(source[name] for name in of if "whole" in of[name].ways)
    listed = sum(source[name] for name in by_ranges)
    members: dict[str, int] = dict.fromkeys(recipe.survey_names, 0)
    for member in sample_members(recipe, build.surveys):
        members[member.survey] += member.field.nominal_bytes
    matched = {name: min(primary, rows[name]) * nbytes for name, nbytes in members.items()}
    arrays = sum(matched.values())
    cells = max(1, len(of[recipe.primary.survey].cells))
    tables = total * BYTES_OF_A_ROW
    shards = max(1, -(-arrays // int(recipe.shards.target_bytes)))
    joined = key_rows(build, rows)
    passes = [len(buckets(count, build.bucket_rows)) for count in joined]
    read = sum(100 * count * times for count, times in zip(joined, passes, strict=True))
    keys = Load("keys", sum(passes), sum(joined), read, 100 * sum(joined))
    return [
        Load("scan", files, total, sum(source.values()), tables, copied + listed),
        Load("objects", max(cells, len(of)), total, tables, tables),
        *([keys] if joined else []),
        Load("match", cells, primary, tables, primary * BYTES_OF_A_ROW),
        Load("samples", cells, primary, arrays, arrays, sum(matched[name] for name in by_ranges)),
        Load("shards", shards, primary, arrays, arrays),
        Load("check", shards, primary, arrays, 0),
    ]


def estimate(
    loads: Sequence[Load], nodes: Nodes, rates: Mapping[str, Rate], batch_bytes: int, guessed: Sequence[str]
) -> Estimate:
    """Size a build. Each stage takes the longest of: its core-seconds on all workers, its bytes over the nodes' network, what
    it fetches from the sources at their rate, and one unit on one worker."""
    stages = tuple(_stage(load, nodes, rates.get(load.stage, MEASURED.get(load.stage, Rate(5e-3, 1e-5, 1e-9)))) for load in loads)
    of = {load.stage: load for load in loads}
    stored = {
        "copies of source files, as far as they are fetched whole": of["scan"].fetched,
        "object tables": of["objects"].written,
        "match table": of["match"].written,
        "pieces, until a version is complete": of["samples"].written,
        "shards of one version": of["shards"].written,
    }
    most_units = max(load.units for load in loads)
    return Estimate(
        nodes=nodes,
        stages=stages,
        stored=stored,
        worker_memory=nodes.workers * (BASE_BYTES + 4 * batch_bytes),
        driver_memory=DRIVER_BYTES + DRIVER_BYTES_PER_UNIT * most_units,
        fitted=tuple(stage for stage in STAGES if stage in rates),
        guessed=tuple(guessed),
    )


def size_build(build: Build, plan: Plan, nodes: Nodes) -> Estimate:
    """Size a build from its plan, with rates of what ran under its root before."""
    runs = journals(build.root, build.recipe.name)
    rates = rates_of(pa.concat_tables(runs, promote_options="default")) if runs else {}
    guessed = [survey.survey for survey in plan.surveys if survey.rows is None]
    return estimate(loads(build, plan), nodes, rates, build.batch_bytes, guessed)


def _stage(load: Load, nodes: Nodes, rate: Rate) -> StageEstimate:
    cores = rate.seconds(load.units, load.rows, load.nbytes)
    limits: dict[Bound, float] = {
        "workers": cores / (nodes.count * nodes.workers * BALANCE),
        "network": (load.nbytes + load.written) / (nodes.count * nodes.network),
        "source": load.fetched / nodes.source,
        "one unit": cores / load.units if load.units else 0.0,
    }
    bound = max(limits, key=lambda name: limits[name])
    return StageEstimate(load, cores, limits[bound], bound)

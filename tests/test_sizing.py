"""Rates fitted to units that ran, and what a build takes on N nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmu_pipeline.catalog import Recipe
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BadInput
from mmu_pipeline.journal import SCHEMA
from mmu_pipeline.report.sizing_table import markdown
from mmu_pipeline.stages.build import Build, Source
from mmu_pipeline.stages.overview import Plan, SurveyPlan
from mmu_pipeline.stages.sizing import FEWEST_UNITS, Load, Nodes, Rate, estimate, loads, rates_of, rows_of
from mmu_pipeline.storage import Root

LOADS = [
    Load("scan", 1000, 10**6, 10**12, 10**8, 10**12),
    Load("objects", 1000, 10**6, 10**8, 10**8),
    Load("match", 1000, 10**6, 10**8, 10**8),
    Load("samples", 1000, 10**6, 10**12, 10**12),
    Load("shards", 2000, 10**6, 10**12, 10**12),
]
RATES = dict.fromkeys(("scan", "objects", "match", "samples", "shards"), Rate(1e-2, 1e-5, 1e-9))


def units(count: int, rate: Rate, noise: float = 0.0, stage: str = "samples", status: str = "done") -> pa.Table:
    rng = np.random.default_rng(7)
    rows, weight = rng.integers(1, 10_000, count), rng.integers(1, 10**9, count)
    seconds = (rate.per_unit + rows * rate.per_row + weight * rate.per_byte) * np.exp(noise * rng.normal(size=count))
    columns = {
        "stage": [stage] * count, "unit": [f"u/{n}" for n in range(count)], "cell": [None] * count, "cells": [1] * count,
        "status": [status] * count,
        "started": [1.0] * count, "seconds": seconds, "worker": ["w"] * count, "attempts": [1] * count, "weight": weight,
        "rows_in": rows, "rows_out": rows, "nbytes": weight, "reason": [None] * count,
    }  # fmt: skip
    return pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}, schema=SCHEMA)


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 1e-6), (0.2, 0.25)])
def test_the_fit_finds_the_rates_that_made_the_units(noise: float, tolerance: float) -> None:
    true = Rate(0.05, 3e-5, 2e-9)
    found = rates_of(units(500, true, noise))["samples"]
    for load in ((1, 0, 0), (10, 50_000, 0), (10, 50_000, 10**10)):
        assert found.seconds(*load) == pytest.approx(true.seconds(*load), rel=max(tolerance, 1e-6) * (1 if noise == 0 else 2))


def test_too_few_units_or_none_that_ran_give_no_rate() -> None:
    assert rates_of(units(FEWEST_UNITS - 1, RATES["scan"])) == {}
    assert rates_of(units(100, RATES["scan"], status="reused")) == {}


def test_more_nodes_take_less_time_until_something_else_is_the_limit() -> None:
    one, ten = (estimate(LOADS, Nodes(count, source=1e12), RATES, 64 * 1024**2, ()) for count in (1, 10))
    assert [stage.bound for stage in one.stages] == ["network", "workers", "workers", "network", "network"]
    assert ten.seconds == pytest.approx(one.seconds / 10, rel=1e-9)
    slow = estimate(LOADS, Nodes(10_000, source=1e9), RATES, 64 * 1024**2, ())
    assert slow.stages[0].bound == "source"
    assert slow.stages[0].seconds == pytest.approx(1000.0)
    assert {stage.bound for stage in slow.stages[1:]} == {"one unit"}
    assert slow.stages[3].seconds == pytest.approx(RATES["samples"].seconds(1000, 10**6, 10**12) / 1000)
    assert one.stored["shards of one version"] == 10**12
    assert one.driver_memory < 10**9


def test_rows_are_counted_declared_or_told_from_bytes() -> None:
    plan = SurveyPlan("hsc", "v1", "u", 3, 10**6, (1, 2), None, 3, 10**6)
    assert rows_of(replace(plan, rows=7), 10**9, 100) == 7
    assert rows_of(plan, 10**9, 100) == 10**4, "a part of a survey is listed"
    assert rows_of(plan, 50, 100) == 50
    assert rows_of(replace(plan, nbytes=None), 50, 100) == 50


def test_a_join_by_key_reads_both_surveys_once_a_bucket() -> None:
    recipe = Recipe.model_validate(
        {"name": "r", "primary": {"survey": "asassn_variables"},
         "counterparts": [{"survey": "lamost", "on": {"gaia_source_id": "edr3_source_id"}},
                          {"survey": "gaia", "radius_arcsec": 1}]}
    )  # fmt: skip
    surveys = {name: survey for name, survey in load_surveys().items() if name in recipe.survey_names}
    sources = {name: Source(next(iter(surveys[name].forms)), "memory://x") for name in surveys}
    build = Build(recipe, surveys, sources, Root("memory://r"), bucket_rows=10**6)
    plans = tuple(SurveyPlan(name, "v1", "u", 1, 10**6, (1,), rows, 1, 10**6) for name, rows in
                  zip(recipe.survey_names, (10**6, 3 * 10**6, 10**6), strict=True))  # fmt: skip
    (keys,) = (load for load in loads(build, Plan("r", "root", plans)) if load.stage == "keys")
    assert keys.units == 3 + 4, "the best spectrum of each star, and the pairs"
    assert keys.rows == 7 * 10**6
    assert keys.nbytes == 100 * 10**6 * (3 * 3 + 4 * 4)


def test_the_table_of_the_page_is_what_the_model_gives() -> None:
    page = Path(__file__).parents[1] / "docs/sizing.md"
    assert markdown() in page.read_text(), "run: python -m mmu_pipeline.report.sizing_table"


def test_no_nodes_are_bad_input() -> None:
    with pytest.raises(BadInput, match="above zero"):
        Nodes(0)

"""A recipe -> a published shard set: each stage dealt out in groups of neighbouring cells, a Prefect task run per group.

The tasks run in a few threads of the flow's process and drive one Dask client between them; the units themselves run on Dask.
Prefect's records are for people: what is finished is told by the receipts under the root alone. A build that had to set
cells aside ends Completed under the name `Cells set aside` and publishes what is whole; the next run retries just those.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from dataclasses import replace as with_changes
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from distributed import Client
from prefect import State, flow, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote

from flows.artifacts import key, linked_client, progress
from flows.one_at_a_time import one_at_a_time
from flows.parameters import BatchUnits, Cells, ClusterName, Cone, Seconds, Text
from flows.run_log import run_log
from mmu_pipeline.client import patience_at
from mmu_pipeline.cluster import BATCH_UNITS, ClusterLost, Patience, run_units
from mmu_pipeline.journal import Journal
from mmu_pipeline.leases import writer, writing_alone
from mmu_pipeline.outcome_log import log_stage
from mmu_pipeline.progress import Tally, counted
from mmu_pipeline.receipt import valid_receipt
from mmu_pipeline.report.run import write_run_page
from mmu_pipeline.stages.build import STAGES, Build, Outcome, Unit
from mmu_pipeline.stages.pipeline import finish_stage, run_unit, units_of
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.publish import Published, publish
from mmu_pipeline.storage import each, writers_folder
from mmu_pipeline.tables import size
from mmu_pipeline.watch import Watch, all_of, watching

GROUPS_AT_ONCE = 4
"""Prefect task runs at a time: enough that the tail of one group leaves no worker idle."""
MOST_GROUPS = 16
"""Of one stage. A task run costs about 0.1 s, so a stage of a thousand cells does not get a thousand."""
UNITS_PER_GROUP = 32
"""Below this a stage gets fewer groups."""
SHOW_EVERY_S = 0.5


@dataclass(frozen=True)
class BuildResult:
    """What a build made, small enough to print."""

    recipe: str
    version: str
    url: str
    samples: int
    reused: bool
    """Whether this version was there already."""
    set_aside: tuple[dict[str, str], ...]
    """stage, unit and reason of each unit that is not whole."""
    page: str
    """URL of the page of the run that made it."""
    stages: tuple[Tally, ...]
    seconds: float


def neighbours(units: Sequence[Unit], most: int = MOST_GROUPS) -> list[list[Unit]]:
    """Units in runs along the sky, at most `most` of them, of about equal weight. Every unit is in one, none is empty."""
    ordered = sorted(units, key=lambda unit: (-1 if unit.cell is None else unit.cell, unit.name))
    weight = np.array([max(unit.weight, 1) for unit in ordered], np.float64)
    groups = min(most, -(-len(units) // UNITS_PER_GROUP))
    which = (np.cumsum(weight) - weight / 2) * groups // max(weight.sum(), 1)
    return [[ordered[row] for row in np.flatnonzero(which == group)] for group in np.unique(which)]


def reusable(build: Build, units: Sequence[Unit]) -> dict[str, Outcome]:
    """Outcomes of the units that a valid receipt vouches for, by name."""

    def look(unit: Unit) -> Outcome | None:
        receipt = valid_receipt(build.root, unit.stage, unit.name, unit.fingerprint)
        return Outcome(unit, "reused", receipt) if receipt else None

    return {outcome.unit.name: outcome for outcome in each(build.root, look, units) if outcome}


def _lost_cluster(task: Any, task_run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), ClusterLost)


@task(
    name="cells",
    task_run_name="{stage} {cells}",
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=1,
    retry_condition_fn=_lost_cluster,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_group(stage: str, cells: str, work: Any) -> int:
    """Run one group's units on Dask, each outcome handed over as it comes. Gives their number."""
    client, build, units, arrived, batch, patience, running = work
    count = 0
    for outcome in run_units(client, run_unit, build, units, batch_units=batch, patience=patience, running=running):
        arrived.put(outcome)
        count += 1
    return count


def run_stage(stage: str, build: Build, open_once: Callable[[], Client], batch: int, patience: Patience, watch: Watch) -> Tally:
    """Run what is open of one stage, a Prefect task run per group, and finish the stage."""
    start = time.monotonic()
    units = units_of(stage, build)
    planned = {unit.name: unit for unit in units}
    tally, outcomes = Tally(stage, len(units)), reusable(build, units)
    for outcome in outcomes.values():
        tally = tally.plus(outcome)
        watch.note(outcome)
    groups = neighbours([unit for unit in units if unit.name not in outcomes])
    report = progress(build.recipe.name) if groups else lambda tally: None
    if units:
        watch.show(tally)
        report(tally)
    arrived: SimpleQueue[Any] = SimpleQueue()
    running: dict[int, int] = {}
    for number, group in enumerate(groups):
        cells = f"{group[0].name} to {group[-1].name}" if group[1:] else group[0].name
        work = quote((open_once(), build, group, arrived, batch, patience, partial(running.__setitem__, number)))
        run_group.submit(stage, cells, work).add_done_callback(arrived.put)
    open_groups = len(groups)
    while open_groups:
        try:
            item = arrived.get(timeout=SHOW_EVERY_S)
        except Empty:
            item = None
        if isinstance(item, PrefectFuture):
            item.result()
            open_groups -= 1
        elif item is not None and item.unit.name not in outcomes:  # a group that is tried again meets units that it finished
            # What a worker found finished, one that died since finished in this run. The unit is not the copy that came back.
            status = "done" if item.status == "reused" else item.status
            outcome = with_changes(item, unit=planned[item.unit.name], status=status)
            outcomes[outcome.unit.name] = outcome
            tally = tally.plus(outcome)
            watch.note(outcome)
        tally = with_changes(tally, running=sum(list(running.values())) if tally.finished < tally.units else 0)
        watch.show(tally)
        report(tally)
    finish_stage(stage, build, [outcomes[unit.name] for unit in units])
    tally = with_changes(tally, seconds=round(time.monotonic() - start, 3), running=0)
    log_stage(build.recipe.name, tally)
    return tally


def _artifacts(result: BuildResult) -> None:
    """What was done, what was set aside and why, and where the page of the run lies."""
    rows = [
        {
            "stage": tally.stage,
            "units": tally.units,
            "done": tally.done,
            "reused": tally.reused,
            "set aside": tally.set_aside,
            "rows": tally.rows,
            "bytes": size(tally.bytes),
            "seconds": round(tally.seconds, 1),
        }
        for tally in result.stages
    ]
    of = partial(key, result.recipe)
    create_table_artifact(rows, of("done"), f"Version {result.version}, {result.samples:,} samples: {result.url}")
    create_link_artifact(result.page, "page of the run", of("page"), f"Page of the run that made version {result.version}")
    if result.set_aside:
        create_table_artifact(list(result.set_aside), of("set-aside"), "Missing; the next run tries these again")


@task(name="verify and publish", cache_policy=NO_CACHE, persist_result=False)
def verify_and_publish(work: Any, keep_samples: bool) -> tuple[Published, Tally]:
    """Check the new version from the outside, its shards on Dask, and make it visible. Raises BrokenArtefact.

    Gives what was checked too: nothing, where the version was there already.
    """
    plan, open_once, patience, watch = work
    start, last = time.monotonic(), deque([Tally("check", 0)], maxlen=1)

    def deal(*checks: Any) -> Iterator[Outcome]:
        for outcome in run_units(open_once(), *checks, patience=patience):
            watch.note(outcome)
            yield outcome

    told = all_of(watch.show, progress(plan.recipe.name), last.append)
    published = publish(plan, keep_samples, counted(deal, "check", told))
    checked = with_changes(last[0], seconds=round(time.monotonic() - start, 3))
    if checked.units:
        log_stage(plan.recipe.name, checked)
    return published, checked


@flow(
    name="build",
    flow_run_name="build {recipe}",
    task_runner=ThreadPoolTaskRunner(max_workers=GROUPS_AT_ONCE),  # type: ignore[arg-type]
    persist_result=False,
)
def build(
    recipe: Text,
    root: Text = "./runs",
    cluster: ClusterName = "local",
    cells: Cells | None = None,
    cone: Cone | None = None,
    sources: dict[str, str] | None = None,
    survey_dirs: list[str] | None = None,
    cache: str | None = None,
    replace: bool = False,
    keep_samples: bool = False,
    batch_units: BatchUnits = BATCH_UNITS,
    patience_s: Seconds = 3600.0,
    metrics: str | None = None,
    quiet: bool = False,
) -> BuildResult | State[BuildResult]:
    """Build a recipe's shards under a root and publish them as a new version. Run it again at any time: it goes on.

    Where nothing has changed since the last version it ends at once, under the name `Nothing new`. Raises BadInput, also while
    another run writes this recipe; ClusterLost, and PipelineError for a full disk: then nothing is published.

    Args:
        recipe: A recipe that is shipped, such as hsc-sdss-gaia, or the path of a YAML file.
        root: Where all outputs go: a folder that every worker sees, or s3://...
        cluster: Where it runs: local, local:N, tcp://host:port, tls://host:port, slurm:profile.yaml, kubernetes:profile.yaml.
        cells: Only these cells of the primary, HEALPix order 4, NESTED. None: all.
        cone: Only the cells that a cone touches: right ascension, declination, radius in degrees.
        sources: Survey -> URL to read it from, instead of where its file in catalogs/ says.
        survey_dirs: Folders of further survey files, seen by the flow's process.
        cache: Folder on each worker where downloads are kept. None: the usual cache folder.
        replace: Build over what the root holds of another recipe of this name.
        keep_samples: Keep the encoded samples, as large as the shards: the next build then encodes changed cells only.
        batch_units: Most units of one Dask task.
        patience_s: Seconds without any finished unit after which the run gives up.
        metrics: HOST:PORT where Prometheus metrics are served while it runs.
        quiet: Show no progress on the terminal.
    """
    start = time.monotonic()
    folders = [Path(folder) for folder in survey_dirs or ()]
    plan = prepare(recipe, root=root, sources=sources, survey_dirs=folders, cells=cells, cone=cone, cache=cache)
    name, journal = plan.recipe.name, Journal()
    with ExitStack() as stack:
        stack.enter_context(run_log())
        writers = writers_folder(name)
        waiting = time.monotonic()
        stack.enter_context(one_at_a_time(f"{name} in {plan.root.url}", lambda: writer(plan.root, writers) is not None))
        start += time.monotonic() - waiting  # the time of another run is not of this one
        still_ours = stack.enter_context(writing_alone(plan.root, writers, f"the recipe {name!r}"))
        claim_root(plan, replace)
        watch = stack.enter_context(watching(name, journal, quiet=quiet, metrics=metrics))
        open_once = lru_cache(lambda: stack.enter_context(linked_client(cluster, name)))
        patience = patience_at(cluster, patience_s)
        stages: tuple[Tally, ...] = ()
        for stage in STAGES:
            still_ours()
            stages += (run_stage(stage, plan, open_once, batch_units, patience, watch),)
        still_ours()
        published, checked = verify_and_publish(quote((plan, open_once, patience, watch)), keep_samples)
        stages += (checked,)
        seconds = round(time.monotonic() - start, 2)
        page = write_run_page(plan.root, name, published, journal.table(), stages, seconds)
    result = BuildResult(**asdict(published), recipe=name, page=page, stages=stages, seconds=seconds)
    if not published.reused or published.set_aside:
        _artifacts(result)
    say = f"nothing new in the sources: version {published.version} is up to date, seen in {seconds:.1f} s"
    if published.set_aside:
        missing = f"units that are missing: {len(published.set_aside)}"
        return Completed(name="Cells set aside", message=f"{missing}; {say}" if published.reused else missing, data=result)
    if published.reused:
        return Completed(name="Nothing new", message=say, data=result)
    return result

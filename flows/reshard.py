"""Sets of shards and a rule -> a new set, its shards copied on a Dask cluster; parameters as the options of `mmu reshard`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from dataclasses import replace as with_changes
from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.utilities.annotations import quote

from flows.artifacts import key, linked_client, progress
from flows.one_at_a_time import one_at_a_time
from flows.parameters import ClusterName, Seconds, Text, Urls
from flows.run_log import run_log
from mmu_pipeline.client import patience_at
from mmu_pipeline.cluster import ClusterLost, run_units
from mmu_pipeline.leases import writer, writing_alone
from mmu_pipeline.outcome_log import log_stage
from mmu_pipeline.progress import Tally, counted, shown
from mmu_pipeline.shards.opened import reading_version
from mmu_pipeline.shards.reshape import ReshardRule
from mmu_pipeline.stages.build import Outcome
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.stages.reshard import Reshard, prepare_reshard, publish_reshard, run_unit, units
from mmu_pipeline.storage import WRITERS
from mmu_pipeline.tables import size
from mmu_pipeline.watch import all_of


@dataclass(frozen=True)
class ReshardResult:
    """What was made, small enough to print."""

    version: str
    url: str
    samples: int
    reused: bool
    """Whether this version was there already."""
    set_aside: tuple[dict[str, str], ...]
    """Always none: a set is published whole or not at all."""
    shards: Tally
    seconds: float


@task(name="copy shards", retries=2, retry_delay_seconds=10, cache_policy=NO_CACHE, persist_result=False,
      retry_condition_fn=lambda task, run, state: isinstance(state.result(raise_on_failure=False), ClusterLost))  # fmt: skip
def copy_shards(work: Any) -> Tally:
    """Plan the shards and copy them on Dask. What was planned or copied before is not done again."""
    job, cluster, patience, show = work
    start = time.monotonic()
    todo = units(job)
    tally = Tally("reshard", len(todo))
    if not todo:
        return tally
    with linked_client(cluster, job.name) as client:
        show(tally)
        for outcome in run_units(client, run_unit, job, todo, patience=patience):  # type: ignore[arg-type]
            tally = tally.plus(outcome)
            show(tally)
    tally = with_changes(tally, seconds=round(time.monotonic() - start, 3))
    log_stage(job.name, tally)
    return tally


@task(name="verify and publish", cache_policy=NO_CACHE, persist_result=False)
def verify_and_publish(work: Any) -> Published:
    """Check the new version from the outside, its shards on Dask, and make it visible. Raises BrokenArtefact."""
    job, cluster, patience, show = work
    with ExitStack() as stack:

        def deal(*checks: Any) -> Iterator[Outcome]:
            return run_units(stack.enter_context(linked_client(cluster, job.name)), *checks, patience=patience)

        return publish_reshard(job, counted(deal, "check", show))


@flow(name="reshard", flow_run_name="reshard to {out}", persist_result=False)
def reshard(
    inputs: Urls,
    out: Text,
    rule: ReshardRule = ReshardRule(),  # noqa: B008  frozen
    cluster: ClusterName = "local",
    patience_s: Seconds = 3600.0,
    quiet: bool = False,
) -> ReshardResult | State[ReshardResult]:
    """Make a new version in the folder `out` from the sets at some URLs. A new run goes on where one was broken off.

    Where this version is there already it ends at once, under the name `Nothing new`. Raises BadInput for what the user must
    correct, also while another run writes there; BrokenArtefact if an input or the new set is not as its index says.

    Args:
        inputs: URLs of sets: of one version each, or of a recipe, then its latest. Several become one.
        out: Folder or URL where the new version goes.
        rule: What of the sets goes into the new one, and how it is dealt out. What is not said stays as it is.
        cluster: Where it runs: local, local:N, tcp://host:port, tls://host:port, slurm:profile.yaml, kubernetes:profile.yaml.
        patience_s: Seconds without any finished shard after which the run gives up.
        quiet: Show no progress on the terminal.
    """
    start = time.monotonic()
    job: Reshard = prepare_reshard(inputs, out, rule)
    with ExitStack() as stack:
        stack.enter_context(run_log())
        stack.enter_context(one_at_a_time(job.out.url, lambda: writer(job.out, WRITERS) is not None))
        still_ours = stack.enter_context(writing_alone(job.out, WRITERS, "versions of this set"))
        for parent in job.parents:
            stack.enter_context(reading_version(parent.folder))
        show = all_of(stack.enter_context(shown(quiet)), progress(job.name))
        work = quote((job, cluster, patience_at(cluster, patience_s), show))
        tally = copy_shards(work)
        still_ours()
        published = verify_and_publish(work)
    result = ReshardResult(**asdict(published), shards=tally, seconds=round(time.monotonic() - start, 2))
    if result.reused:
        return Completed(name="Nothing new", message=f"version {result.version} is there: {result.url}", data=result)
    row = {"shards": tally.units, "samples": result.samples, "bytes": size(tally.bytes), "seconds": round(result.seconds, 1)}
    create_table_artifact([row], key(job.name, "resharded"), f"Version {result.version}: {result.url}")
    return result

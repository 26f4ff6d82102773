"""A published set -> what is wrong with it; a root -> what is too old in it, gone: flows that keep a store in order."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_dir
from prefect import State, flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.artifacts import linked_client, progress
from flows.parameters import ClusterName, Seconds, Text
from flows.run_log import run_log
from mmu_pipeline.client import patience_at
from mmu_pipeline.cluster import run_units
from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.progress import counted, shown
from mmu_pipeline.shards.opened import reading_version, set_folder
from mmu_pipeline.stages.clean import CleanPolicy, Found, clean_cache, clean_root
from mmu_pipeline.stages.verify import VALUES_COMPARED, Verification
from mmu_pipeline.stages.verify import verify as check
from mmu_pipeline.storage import Root
from mmu_pipeline.tables import size
from mmu_pipeline.watch import all_of


@flow(name="verify", flow_run_name="verify {shards}", persist_result=False)
def verify(
    shards: Text,
    values: Literal["sampled", "all"] = "sampled",
    cluster: ClusterName = "local",
    patience_s: Seconds = 3600.0,
    quiet: bool = False,
) -> Verification | State[Verification]:
    """Check a published set from the outside: every byte, offset, digest, name, type and split. Raises BrokenArtefact.

    Args:
        shards: Folder or URL of a version, or of a recipe: then the latest one.
        values: Compare the index with the JSON of about 200 samples, or of all of them.
        cluster: Where shards are checked: local, local:N, tcp://host:port, tls://host:port, slurm:profile.yaml.
        patience_s: Seconds without any checked shard after which the run gives up.
        quiet: Show no progress on the terminal.
    """
    version = set_folder(shards)
    with run_log(), reading_version(version), shown(quiet) as bars, linked_client(cluster, "verify") as client:
        on_dask = partial(run_units, client, patience=patience_at(cluster, patience_s))
        deal = counted(on_dask, "check", all_of(bars, progress("verify")))
        found = check(version.url, None if values == "all" else VALUES_COMPARED, deal)
    if found.problems:
        create_table_artifact([{"problem": problem} for problem in found.problems], "verify-problems", found.url)
        raise BrokenArtefact(f"{len(found.problems)} problems", folder=found.url, first=found.problems[0],
                             hint="build or re-shard it again; the artifact verify-problems lists them")  # fmt: skip
    said = f"{found.samples:,} samples in {found.shards:,} shards: all is as the manifest of {found.url} says"
    return Completed(message=said, data=found)


@flow(name="clean", flow_run_name="clean {root}", persist_result=False)
def clean(
    root: Text,
    policy: CleanPolicy = CleanPolicy(),  # noqa: B008  frozen
    recipes: list[str] | None = None,
    cache: str | None = None,
    dry_run: bool = True,
) -> list[Found] | State[list[Found]]:
    """Remove versions, broken-off work, kept samples and cached downloads that are too old by a policy.

    Never the version that LATEST names, one that is being read, or anything of a recipe that is being written. The cache is that
    of the machine where this flow runs. Raises BadInput for a recipe that the root does not hold.

    Args:
        root: The root of the builds.
        policy: What is old enough to go.
        recipes: Clean only what belongs to these recipes. None: to all of the root.
        cache: The folder of cached downloads. None: the usual cache folder.
        dry_run: Say what would be removed, and remove nothing.
    """
    with run_log():
        found = clean_root(Root(root), policy, recipes, dry_run)
        found += clean_cache(Path(cache or user_cache_dir("mmu_pipeline")), policy, dry_run)
    gone = [item for item in found if not item.kept]
    said = f"{'would remove' if dry_run else 'removed'} {len(gone)} of {len(found)}: {size(sum(item.nbytes for item in gone))}"
    if found:
        create_table_artifact([asdict(item) for item in found], "clean", said)
    return Completed(message=said, data=found)

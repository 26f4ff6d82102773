"""A published set -> what is wrong with it; a root -> what is too old in it, gone: flows that keep a store in order."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from platformdirs import user_cache_dir
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.parameters import Cache, DryRun, Recipes, RootUrl, SetUrl, Values
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.opened import reading_version, set_folder
from mmu_pipeline.stages.clean import CleanPolicy, Found, clean_cache, clean_samples, clean_sets, recipes_of
from mmu_pipeline.stages.verify import VALUES_COMPARED, Verification
from mmu_pipeline.stages.verify import verify as check
from mmu_pipeline.storage import Root
from mmu_pipeline.tables import size


@flow(name="verify", flow_run_name="verify {shards}", persist_result=False)
def verify(shards: SetUrl, values: Values = "sampled") -> Verification:
    """Check a published set from the outside: every byte, offset, digest, name, type and split. Raises BrokenArtefact."""
    version = set_folder(shards)
    with reading_version(version):
        found = check(version.url, values=None if values == "all" else VALUES_COMPARED)
    if found.problems:
        create_table_artifact([{"problem": problem} for problem in found.problems], "verify-problems", found.url)
        raise BrokenArtefact(f"{len(found.problems)} problems", folder=found.url, first=found.problems[0],
                             hint="build or re-shard it again; the artifact verify-problems lists them")  # fmt: skip
    get_run_logger().info("%s samples in %s shards: all is as the manifest of %s says", found.samples, found.shards, found.url)
    return found


@flow(name="clean", flow_run_name="clean {root}", persist_result=False)
def clean(
    root: RootUrl,
    policy: CleanPolicy = CleanPolicy(),  # noqa: B008  frozen
    recipes: Recipes = None,
    cache: Cache = None,
    dry_run: DryRun = True,
) -> list[Found]:
    """Remove versions, broken-off work, kept samples and cached downloads that are too old by a policy.

    Never the version that LATEST names, one that is being read, or anything of a recipe that is being written. The cache is that
    of the machine where this flow runs.
    """
    place = Root(root)
    there = recipes_of(place)
    if unknown := sorted(set(recipes or ()) - set(there)):
        raise BadInput(f"the root holds no recipe {', '.join(unknown)}", root=root, hint=f"it holds: {', '.join(there)}")
    found: list[Found] = []
    for recipe in recipes or there:
        found += clean_sets(place.at(f"shards/{recipe}"), policy, dry_run)
        found += clean_samples(place, recipe, policy, dry_run)
    found += clean_cache(Path(cache or user_cache_dir("mmu_pipeline")), policy, dry_run)
    gone = [item for item in found if not item.kept]
    said = f"{'would remove' if dry_run else 'removed'} {len(gone)} of {len(found)}: {size(sum(item.nbytes for item in gone))}"
    get_run_logger().info(said)
    if found:
        create_table_artifact([asdict(item) for item in found], "clean", said)
    return found

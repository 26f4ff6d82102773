"""A run as it goes on -> what Prefect's web page shows of it: the progress of a stage, a link to the Dask dashboard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import cast
from uuid import UUID

from distributed import Client
from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact

from mmu_pipeline.client import open_client
from mmu_pipeline.progress import Tally, sentence

EVERY_S = 5.0


def key(*words: str) -> str:
    """Key of an artifact: a name with dashes for what Prefect does not take."""
    return "-".join(words).replace("_", "-")


def progress(name: str) -> Callable[[Tally], None]:
    """A function that shows the tally of a stage, every few seconds and at its end; call it as often as you like.

    `name` is what the stages are of; one without units is not shown.
    """
    artifacts: dict[str, UUID] = {}
    last: dict[str, float] = {}

    def show(tally: Tally) -> None:
        now, whole = time.monotonic(), tally.finished == tally.units
        if not tally.units or now - last.get(tally.stage, -inf) < (0.0 if whole else EVERY_S):
            return
        last[tally.stage] = inf if whole else now
        percent, said = 100.0 * tally.finished / tally.units, sentence(tally)
        if tally.stage in artifacts:
            update_progress_artifact(artifacts[tally.stage], percent, said)
        else:
            artifacts[tally.stage] = cast(UUID, create_progress_artifact(percent, key(name, tally.stage), said))

    return show


@contextmanager
def linked_client(cluster: str, name: str) -> Iterator[Client]:
    """A client of a cluster, its dashboard linked from the flow run where it has one."""
    with open_client(cluster) as client:
        if "dashboard" in client.scheduler_info(n_workers=0)["services"]:
            create_link_artifact(client.dashboard_link, "Dask dashboard", key(name, "dask"), f"Dask dashboard of {name}")
        yield client

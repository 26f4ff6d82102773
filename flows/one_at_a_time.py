"""A name -> a slot of its own on the Prefect server: of several runs that write the same thing, the others wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from mmu_pipeline.storage import digest


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Wait until no other run of this server writes `what`, and hold a concurrency limit of its name meanwhile.

    The slot of a run that died comes free by itself after some minutes. A server of the run's own knows no other run: nothing
    is done there. The lease beside the data guards against what no server knows of.
    """
    if get_current_settings().api.url is None:
        yield
        return
    limit = f"{re.sub('[^A-Za-z0-9]+', '-', what).strip('-')[:80]}-{digest(what.encode())[:8]}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(limit, 1)
    with concurrency(limit, occupy=1):
        yield

"""A name -> a slot of its own on the Prefect server: of several runs that write the same thing, the others wait."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from mmu_pipeline.log import LOGGER
from mmu_pipeline.storage import digest

LOOK_EVERY_S = 30.0


@contextmanager
def one_at_a_time(what: str, is_written: Callable[[], bool], look_every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Wait until no other run of this server writes `what`, and hold a concurrency limit of its name meanwhile.

    The slot of a run that died comes free by itself after some minutes, unless the server was restarted since: one that keeps its
    leases in memory, as it does by default, knows then that a slot is taken and not by whom. So a run that waits also looks at
    the data. Where `is_written` denies it twice in a row (a run that just got the slot may not write yet), the slot is freed.

    A server of the run's own knows no other run: nothing is done there. The lease beside the data guards against what no server
    knows of.
    """
    if get_current_settings().api.url is None:
        yield
        return
    limit = f"{re.sub('[^A-Za-z0-9]+', '-', what).strip('-')[:80]}-{digest(what.encode())[:8]}"
    with ExitStack() as held:
        with get_client(sync_client=True) as client:
            with suppress(ObjectAlreadyExists):
                client.upsert_global_concurrency_limit_by_name(limit, 1)
            denied = 0
            while True:
                try:
                    held.enter_context(concurrency(limit, occupy=1, timeout_seconds=look_every_s))
                    break
                except TimeoutError:
                    LOGGER.info("waiting for the end of another run: %s", what)
                    denied = 0 if is_written() else denied + 1
                if denied > 1:
                    client.update_global_concurrency_limit(limit, GlobalConcurrencyLimitUpdate(active_slots=0))
        yield

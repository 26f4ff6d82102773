"""Units -> their outcomes on a Dask client: batches in a bounded window, a worker's death put down to the guilty unit."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any
from uuid import uuid4

from cachetools import TTLCache, cached
from distributed import Client, Future, KilledWorker
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError

from mmu_pipeline.errors import PipelineError
from mmu_pipeline.receipt import Receipt, write_receipt
from mmu_pipeline.stages.build import Build, Outcome, Unit

BATCH_UNITS = 64
"""Units of one Dask task where they are tiny: a task costs the scheduler about 1 ms, whatever is in it."""
BATCH_BYTES = 64 * 1024**2
"""Weight past which a Dask task takes no further unit."""
TASKS_PER_THREAD = 2
"""Dask tasks submitted and not finished, per worker thread. It bounds the memory of scheduler and driver."""
RESOURCES = {"scan": "download", "samples": "download", "shards": "write", "reshard": "write"}
"""By stage, the resource of which a batch takes one from its worker, where workers offer it (`dask worker --resources`)."""
HEAVY = "heavy"
"""The resource that a batch above BATCH_BYTES takes besides."""
OFFERS_FOR_S = 10.0
"""How long the resources that workers offer are taken for known."""
_ALONE = Lock()
"""Held while a suspect runs with no other suspect on the cluster."""


class ClusterLost(PipelineError):
    """The scheduler or all workers are gone, or nothing moves: what is finished stays, and the rest can be run again."""


@dataclass(frozen=True)
class Patience:
    """Seconds to wait before a build gives up."""

    without_worker: float = 120.0
    without_outcome: float = 3600.0


def threads(client: Client) -> int:
    """Worker threads at this moment. Raises ClusterLost if the client was closed or the scheduler does not answer."""
    if client.status not in ("running", "connecting"):
        raise ClusterLost("the client is closed", status=client.status, hint="run again: it resumes")
    try:
        return sum(client.nthreads().values())
    except (OSError, TimeoutError) as error:
        raise ClusterLost("the scheduler does not answer", reason=str(error), hint="run again: it resumes") from error


def batches(units: Iterable[Unit], most_units: int, most_bytes: int = BATCH_BYTES) -> Iterator[tuple[Unit, ...]]:
    """Consecutive units together: at most `most_units` of them and, unless it is a single one, `most_bytes` of weight."""
    batch: list[Unit] = []
    weight = 0
    for unit in units:
        if batch and (len(batch) == most_units or weight + unit.weight > most_bytes):
            yield tuple(batch)
            batch, weight = [], 0
        batch.append(unit)
        weight += unit.weight
    if batch:
        yield tuple(batch)


@cached(TTLCache(maxsize=8, ttl=OFFERS_FOR_S), key=lambda client: client.id, lock=Lock())
def offers(client: Client) -> frozenset[frozenset[str]]:
    """Names of the resources that workers offer, of each kind of worker there is."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return frozenset(frozenset(worker["resources"]) for worker in workers)


def required(batch: Sequence[Unit], offered: Collection[frozenset[str]]) -> dict[str, int]:
    """What a batch takes from its worker while it runs: of the resources that fit it, the most that one kind of worker offers."""
    fitting = {RESOURCES.get(batch[0].stage, "")} | ({HEAVY} if sum(unit.weight for unit in batch) > BATCH_BYTES else set())
    found: list[set[str]] = [fitting & names for names in offered]
    best = max(found, key=lambda names: (len(names), sorted(names)), default=set())
    return dict.fromkeys(sorted(best), 1)


def run_units(
    client: Client,
    run: Callable[[Unit, Build], Outcome],
    build: Build,
    units: Sequence[Unit],
    *,
    batch_units: int = BATCH_UNITS,
    patience: Patience = Patience(),
    running: Callable[[int], None] = lambda count: None,
) -> Iterator[Outcome]:
    """The outcome `run(unit, build)` of every unit, as they come; the window in flight is bounded, whatever their number.

    Units of a batch whose worker died run again one by one; those that died again, with no other suspect on the cluster. What
    dies there too is set aside, and nothing else is. `running` is told how many units are out on workers.

    Raises ClusterLost, and what `run` raises; what was submitted is cancelled.
    """
    even_share = len(units) // (2 * TASKS_PER_THREAD * max(1, threads(client)))
    waiting = batches(units, min(batch_units, max(1, even_share)))
    for attempt, per_thread in enumerate((TASKS_PER_THREAD, 1, 0), start=1):
        killed: list[Unit] = []
        with nullcontext() if per_thread else _ALONE:
            for outcome in _drive(client, partial(_run_batch, run, build), waiting, per_thread, patience, killed, running):
                yield outcome if attempt == 1 else replace(outcome, attempts=attempt)
        waiting = batches(killed, 1)
    for unit in killed:
        yield _died(build, unit)


def _run_batch(run: Callable[[Unit, Build], Outcome], build: Build, batch: Sequence[Unit]) -> list[Outcome]:
    return [run(unit, build) for unit in batch]


def _died(build: Build, unit: Unit) -> Outcome:
    reason = "its worker process died each time it ran, at last with nothing beside it: out of memory, or a crash in a library"
    receipt = Receipt(stage=unit.stage, unit=unit.name, fingerprint="", status="set_aside", reason=reason)
    return Outcome(unit=unit, status="set_aside", receipt=write_receipt(build.root, receipt), attempts=3)


def _drive(
    client: Client,
    call: Callable[[Sequence[Unit]], list[Outcome]],
    waiting: Iterator[tuple[Unit, ...]],
    per_thread: int,
    patience: Patience,
    killed: list[Unit],
    tell: Callable[[int], None],
) -> Iterator[Outcome]:
    finished: SimpleQueue[Any] = SimpleQueue()
    running: dict[str, tuple[Any, tuple[Unit, ...]]] = {}
    try:
        while True:
            window = max(1, per_thread * threads(client))
            for batch in islice(waiting, max(0, window - len(running))):
                takes = required(batch, offers(client))
                future = client.submit(call, batch, key=f"{batch[0].stage}-{uuid4()}", resources=takes or None)
                running[future.key] = future, batch
                future.add_done_callback(finished.put)
            tell(sum(len(batch) for _, batch in running.values()))
            if not running:
                return
            future = _next(client, finished, running, patience)
            _, batch = running.pop(future.key)
            try:
                outcomes = future.result()
            except KilledWorker:
                killed.extend(batch)
                continue
            except (FutureCancelledError, CommClosedError) as error:
                raise ClusterLost("the scheduler forgot its work", reason=str(error), hint="run again: it resumes") from error
            finally:
                future.release()
            yield from outcomes
    finally:
        if client.status == "running" and running:
            client.cancel([future for future, _ in running.values()], force=True)


def _next(client: Client, finished: SimpleQueue[Any], running: dict[str, Any], patience: Patience) -> Future:
    """The next finished future. Raises ClusterLost when patience ends."""
    start = seen_worker = time.monotonic()
    while True:
        try:
            return finished.get(timeout=min(2.0, patience.without_worker, patience.without_outcome))
        except Empty:
            now = time.monotonic()
        seen_worker = now if threads(client) else seen_worker
        if now - seen_worker >= patience.without_worker:
            raise ClusterLost(f"no worker for {patience.without_worker:g} s", hint="start workers and run again: it resumes")
        if now - start >= patience.without_outcome:
            names = [unit.name for _, batch in running.values() for unit in batch]
            raise ClusterLost(
                f"nothing has finished for {patience.without_outcome:g} s",
                stage=next(batch[0].stage for _, batch in running.values()),
                units=", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else ""),
                hint="look at these units and their workers, then run again: it resumes",
            )

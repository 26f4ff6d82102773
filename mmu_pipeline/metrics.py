"""Outcomes of a run, as they come -> Prometheus metrics on an HTTP port of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from mmu_pipeline.errors import BadInput
from mmu_pipeline.progress import Tally
from mmu_pipeline.stages.build import Outcome

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Upper edges of the histogram of a unit's seconds."""


@dataclass(frozen=True)
class Metrics:
    """What one run has done, under the labels recipe and stage."""

    recipe: str
    registry: CollectorRegistry
    planned: Gauge
    running: Gauge
    units: Counter
    rows: Counter
    nbytes: Counter
    seconds: Histogram

    def note(self, outcome: Outcome) -> None:
        """Count one unit."""
        labels = (self.recipe, outcome.unit.stage)
        self.units.labels(*labels, outcome.status).inc()
        if outcome.status != "set_aside":
            self.rows.labels(*labels).inc(outcome.receipt.rows_out)
            self.nbytes.labels(*labels).inc(sum(outcome.receipt.outputs.values()))
        if outcome.status != "reused":
            self.seconds.labels(*labels).observe(outcome.receipt.seconds)

    def show(self, tally: Tally) -> None:
        """Say how many units a stage has, and how many of them are on workers."""
        self.planned.labels(self.recipe, tally.stage).set(tally.units)
        self.running.labels(self.recipe, tally.stage).set(tally.running)


def metrics_of(recipe: str) -> Metrics:
    """Metrics of a run that begins, all at zero."""
    registry, labels = CollectorRegistry(), ("recipe", "stage")
    return Metrics(
        recipe,
        registry,
        Gauge("mmu_units_planned", "Units of a stage.", labels, registry=registry),
        Gauge("mmu_units_running", "Units that are on workers.", labels, registry=registry),
        Counter("mmu_units", "Units by what became of them.", (*labels, "status"), registry=registry),
        Counter("mmu_rows", "Rows out of units done or reused.", labels, registry=registry),
        Counter("mmu_bytes", "Bytes of their outputs.", labels, registry=registry),
        Histogram("mmu_unit_seconds", "How long units took that ran.", labels, buckets=SECONDS, registry=registry),
    )


@contextmanager
def served(recipe: str, address: str | None) -> Iterator[tuple[Callable[[Outcome], None], Callable[[Tally], None]]]:
    """Serve the metrics of a run at `host:port` (or `port`, of loopback) while the block runs; nowhere if it is None.

    Gives what to call with each outcome and with each tally. Raises BadInput for an address that cannot be taken.
    """
    metrics = metrics_of(recipe)
    if address is None:
        yield metrics.note, metrics.show
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise BadInput(f"no address for metrics: {address!r}", hint="host:port or port, for example 9464")
    try:
        server, thread = start_http_server(int(port), addr=host or "127.0.0.1", registry=metrics.registry)
    except (OSError, OverflowError) as error:
        raise BadInput("the address for metrics cannot be taken", address=address, reason=str(error)) from error
    try:
        yield metrics.note, metrics.show
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A URL -> leave to use its host: so many connections at a time, so many bytes a second, for this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import BoundedSemaphore, Lock
from urllib.parse import urlsplit

from mmu_pipeline.settings import HostLimits, settings


@dataclass
class Pace:
    """Bytes that may pass: each part waits until those before it are paid for at the given rate."""

    bytes_per_second: float | None
    _free_at: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def wait_s(self, nbytes: int) -> float:
        """Seconds to pause after `nbytes` that just came, whoever else is downloading."""
        if self.bytes_per_second is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + nbytes / self.bytes_per_second
            return self._free_at - now


@dataclass(frozen=True)
class Host:
    """One host as this process uses it."""

    connections: BoundedSemaphore
    pace: Pace


@contextmanager
def using_host(url: str) -> Iterator[Pace]:
    """Wait for a connection to the host of a URL to be free and hold it in the block; gives the pace of its downloads."""
    host = _host(_host_name(url))
    with host.connections:
        yield host.pace


def _host_name(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _host(name: str) -> Host:
    known = settings()
    return _host_within(name, known.hosts.get(name.partition(":")[0], known.host))


@cache
def _host_within(name: str, limits: HostLimits) -> Host:
    return Host(BoundedSemaphore(limits.connections), Pace(limits.bytes_per_second))

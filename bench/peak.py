"""An action -> how long it took and how much memory all processes of this program held at most meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

EVERY = 0.05


@dataclass(frozen=True)
class Took:
    """What an action took."""

    seconds: float
    cpu: float
    """Of this process and its children, user and system, seconds, without what watching the memory took."""
    peak: int
    """Bytes by which the memory of this process and its children (unique set size) rose above what it was before."""
    found: int
    """What the action gave."""


def _processes() -> list[psutil.Process]:
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def _sums() -> tuple[int, float]:
    memory, cpu = 0, 0.0
    for process in _processes():
        try:
            times = process.cpu_times()
            memory += process.memory_full_info().uss
            cpu += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:  # it ended between being listed and being asked
            continue
    return memory, cpu


def measured(action: Callable[[], int]) -> Took:
    """Run an action."""
    before, cpu = _sums()
    peak, watching, over = before, 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak, watching
        while not over.wait(EVERY):
            peak = max(peak, _sums()[0])
        watching = time.thread_time()

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        found = action()
        seconds = time.perf_counter() - start
    finally:
        over.set()
        watcher.join()
    return Took(seconds, _sums()[1] - cpu - watching, peak - before, found)

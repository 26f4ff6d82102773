"""One build: what is asked for, the units of each stage, and how a unit is run, reused or set aside."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmu_pipeline.catalog import Recipe, Survey
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.storage import Root

STAGES = ("scan", "objects", "keys", "match", "samples", "shards")


@dataclass(frozen=True)
class Source:
    """Where one survey is read from in this build."""

    form: str
    url: str
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceFile:
    """One file of a survey as it was listed."""

    relative: str
    """Path below the survey's URL: what object tables call source_file."""
    urls: tuple[str, ...]
    """Where it can be had: the source itself, then its mirrors."""
    size: int | None = None
    tag: str = ""
    """What changes with its content: ETag, or time of last change."""
    cells: range | None = None
    """Order-4 cells that it covers, where the survey is cut by cell."""
    sha256: str | None = None
    state: Literal["listed", "unlisted", "missing"] = "listed"
    """Against the survey's list of members, where it has one."""

    @property
    def name(self) -> str:
        return self.relative.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Build:
    """Everything a stage needs to know, checked before work starts. Small and picklable: it travels with each task."""

    recipe: Recipe
    surveys: dict[str, Survey]
    """The surveys of the recipe by name."""
    sources: dict[str, Source]
    root: Root
    cells: frozenset[int] | None = None
    """Order-4 cells of the primary to build; None for all."""
    cache: str = ""
    """Local folder where remote source files are kept."""
    batch_bytes: int = 64 * 1024**2
    """Arrays held in memory at a time by one unit."""
    match_rows: int = 1_000_000
    """Rows of all surveys that a match holds at a time. Where the sky holds fewer, a match unit is coarser than a cell."""
    bucket_rows: int = 2_000_000
    """Rows of object tables, some 220 bytes each, held in memory by a unit of the stage `keys`."""


@dataclass(frozen=True)
class Unit:
    """What one call of a stage works on."""

    stage: str
    name: str
    """Unique in its stage: the receipt's name, for example `hsc/1104`."""
    cell: int | None = None
    """Order-4 cell, or the first of them; orders units along the sky."""
    weight: int = 1
    """Estimated bytes that it reads."""
    inputs: tuple[object, ...] = ()
    fingerprint: str = ""
    """Of everything that its result depends on."""
    cells: int = 1
    """How many order-4 cells it covers, `cell` and those that follow."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit."""

    unit: Unit
    status: Literal["done", "reused", "set_aside"]
    receipt: Receipt
    attempts: int = 1


def clocked(work: Callable[[], Receipt]) -> Receipt:
    """What a unit's work gives, with the time that it began, the seconds that it took and the worker: host/process/thread."""
    started, start = time.time(), time.monotonic()
    receipt = work()
    worker = f"{socket.gethostname()}/{os.getpid()}/{threading.get_native_id()}"
    return replace(receipt, started=round(started, 3), seconds=round(time.monotonic() - start, 4), worker=worker)


Deal = Callable[[Callable[[Unit, Any], Outcome], Any, Sequence[Unit]], Iterable[Outcome]]
"""Runs a function of a unit and of what all units have in common (which has a `root`) for each unit: here, or on a cluster."""


def in_turn(run: Callable[[Unit, Any], Outcome], job: Any, units: Sequence[Unit]) -> Iterator[Outcome]:
    """One unit after the other, in this process."""
    return (run(unit, job) for unit in units)

"""Who writes a place and who reads it: small files beside the data, renewed by their holders, aged by the store's own clock.

A place has one writer at a time. The writers of a place are numbered: who takes it creates the file with the next number, which
only one can do, and holds it while no higher one is there. A file that its holder has not renewed for a while is stale. How old
it is, is told by the times that the store gives it and a file written just now: no clock of any machine matters.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Thread
from typing import Any, cast

from mmu_pipeline.errors import BadInput, BrokenArtefact, PipelineError, Unreachable
from mmu_pipeline.storage import Root, is_running, this_host


@dataclass(frozen=True)
class Pace:
    """Seconds between two renewals of a lease, and after which one that was not renewed is stale."""

    beat_s: float = 20.0
    stale_s: float = 120.0


class Superseded(PipelineError):
    """A run that did not renew its lease for long was taken for dead, and another one writes now."""


@contextmanager
def writing_alone(root: Root, folder: str, what: str, pace: Pace = Pace()) -> Iterator[Callable[[], None]]:
    """Hold the right to write something, told by the files in a folder of the root. The lease of a dead holder is taken over.

    Gives a function that raises Superseded once another run holds it: to be called before what cannot be undone. Raises BadInput
    at once where another run holds it now.
    """
    mine = _holder()
    number = _take(root, folder, mine, what, pace)
    path, lost = _lease_path(folder, number), Event()

    def renew() -> None:
        if _holds(root, folder, number, mine):
            root.write_json(path, mine)
        else:
            lost.set()

    def check() -> None:
        if lost.is_set() or not _holds(root, folder, number, mine):
            raise Superseded(f"another run writes {what} now", root=root.url,
                             hint="this one did not renew its lease for long; what it finished is kept")  # fmt: skip

    try:
        with _renewing(renew, pace):
            yield check
    finally:
        if not lost.is_set():
            root.write_json(path, mine | {"released": True})


@contextmanager
def reading(root: Root, folder: str, pace: Pace = Pace()) -> Iterator[None]:
    """Say in a folder of the root that something is being read, so that no cleaning removes it meanwhile.

    Where this process may not write there, nothing is said: then only the age of what is read protects it.
    """
    mine, path = _holder(), f"{folder}/{uuid.uuid4().hex}.json"
    try:
        root.write_json(path, mine)
    except (OSError, NotImplementedError, Unreachable):
        yield
        return
    try:
        with _renewing(lambda: root.write_json(path, mine), pace):
            yield
    finally:
        root.remove(path)


def writer(root: Root, folder: str, pace: Pace = Pace()) -> dict[str, Any] | None:
    """Who writes something now: machine, process; None where nobody does, or its last writer is dead."""
    number = max(_numbers(root, folder), default=0)
    return _live(root, _lease_path(folder, number), pace) if number else None


def readers(root: Root, folder: str, pace: Pace = Pace()) -> list[dict[str, Any]]:
    """Who reads something now. What dead readers left is removed."""
    found = []
    for name in _names(root, folder):
        holder = _live(root, f"{folder}/{name}", pace)
        if holder is None:
            root.remove(f"{folder}/{name}")
        else:
            found.append(holder)
    return found


def store_clock(root: Root, folder: str) -> datetime:
    """What the clock of a root's store says now: the time that it gives a file written into a folder, and removed again."""
    probe = f"{folder}/{uuid.uuid4().hex}.now"
    root.write_bytes(probe, b"")
    root.fs.invalidate_cache()
    try:
        return cast(datetime, root.fs.modified(root.path(probe)))
    finally:
        root.remove(probe)


def _take(root: Root, folder: str, mine: dict[str, Any], what: str, pace: Pace) -> int:
    newest = max(_numbers(root, folder), default=0)
    holder = _live(root, _lease_path(folder, newest), pace) if newest else None
    if holder is None:
        with suppress(FileExistsError):
            root.create_json(_lease_path(folder, newest + 1), mine)
            if _holds(root, folder, newest + 1, mine):
                for number in _numbers(root, folder):
                    if number <= newest:
                        root.remove(_lease_path(folder, number))
                return newest + 1
    raise BadInput(f"another run writes {what}", root=root.url, by=(holder or {}).get("who"),
                   hint="wait for its end; if it is dead, its lease ends by itself in minutes")  # fmt: skip


def _holds(root: Root, folder: str, number: int, mine: dict[str, Any]) -> bool:
    """Whether a lease is still ours: no higher number is there, and no other wrote it over, as a store may let it."""
    try:
        written = root.read_json(_lease_path(folder, number))
    except (FileNotFoundError, BrokenArtefact):
        return False
    return bool(written == mine and max(_numbers(root, folder)) == number)


def _live(root: Root, path: str, pace: Pace) -> dict[str, Any] | None:
    """What a lease says, None where it was released, is stale, or its holder is known to be dead."""
    try:
        holder: dict[str, Any] = root.read_json(path)
    except FileNotFoundError:
        return None
    except BrokenArtefact:  # its holder is just writing it
        holder = {}
    if holder.get("released") or (holder.get("host") == this_host() and not is_running(holder["pid"])):
        return None
    now = store_clock(root, path.rsplit("/", 1)[0])
    try:
        age = now - root.fs.modified(root.path(path))
    except FileNotFoundError:  # released just now
        return None
    return None if age.total_seconds() > pace.stale_s else holder


def _holder() -> dict[str, Any]:
    pid, host = os.getpid(), this_host()
    return {"token": uuid.uuid4().hex, "host": host, "pid": pid, "who": f"process {pid} of machine {host}"}


@contextmanager
def _renewing(renew: Callable[[], None], pace: Pace) -> Iterator[None]:
    done = Event()

    def beat() -> None:
        while not done.wait(pace.beat_s):
            with suppress(OSError, Unreachable):  # a store that is away for a while: the next beat tries again
                renew()

    thread = Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _numbers(root: Root, folder: str) -> list[int]:
    return sorted(int(name.removesuffix(".json")) for name in _names(root, folder))


def _names(root: Root, folder: str) -> list[str]:
    root.fs.invalidate_cache()
    try:
        paths = root.fs.ls(root.path(folder), detail=False)
    except FileNotFoundError:
        return []
    return [name for name in (path.rsplit("/", 1)[-1] for path in paths) if name.endswith(".json")]


def _lease_path(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"

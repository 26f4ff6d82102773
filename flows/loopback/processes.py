"""Commands -> processes that go on when this one ends, each told by a file with its number; and their end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from mmu_pipeline.errors import PipelineError

READY_S = 180.0
STOP_S = 20.0


@dataclass(frozen=True)
class Service:
    """A process of its own that runs until it is told to stop."""

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    """Whether it answers."""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """Who it runs as, None: who starts it."""
    stop_by: signal.Signals = signal.SIGTERM


def answers(url: str, says: Callable[[httpx.Response], bool] = lambda response: response.is_success) -> Callable[[], bool]:
    """A look at a URL: whether it is answered, and as it should be."""

    def look() -> bool:
        with suppress(httpx.TransportError, ValueError):
            return says(httpx.get(url, timeout=2.0))
        return False

    return look


def listens(port: int) -> Callable[[], bool]:
    """A look at a port of this machine: whether something takes connections there."""

    def look() -> bool:
        with closing(socket.socket()) as found:
            return found.connect_ex(("127.0.0.1", port)) == 0

    return look


def start(service: Service, folder: Path) -> None:
    """Start a service unless it runs, and wait until it answers. Its log and its number lie in the folder.

    Raises PipelineError if it ends at once or never answers.
    """
    if _running(folder, service.name) is None:
        with (folder / f"{service.name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                service.command, env=os.environ | service.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, user=service.user, cwd="/" if service.user else None,
            )  # fmt: skip
        note = {"pid": process.pid, "born": psutil.Process(process.pid).create_time(), "stop_by": int(service.stop_by)}
        _note(folder, service.name).write_text(json.dumps(note))
    end = time.monotonic() + READY_S
    while not service.ready():
        if _running(folder, service.name) is None or time.monotonic() > end:
            log_file = folder / f"{service.name}.log"
            raise PipelineError(
                f"{service.name} does not answer", log=log_file, last=log_file.read_text("utf-8", "replace")[-1500:]
            )
        time.sleep(0.3)


def stop_all(folder: Path) -> list[str]:
    """End the services that were started from a folder, the last first, and nothing else. Gives their names."""
    stopped = []
    for note in sorted(folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        process = _running(folder, note.stem)
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.send_signal(json.loads(note.read_text())["stop_by"])
            alive = _left(family)
            for other in alive:
                with suppress(psutil.NoSuchProcess):
                    other.kill()
            _left(alive)
            stopped.append(note.stem)
        note.unlink()
    return stopped


def _left(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that did not end within STOP_S; one that ended and that its parent has not asked after did."""
    end = time.monotonic() + STOP_S
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.pid"


def _running(folder: Path, name: str) -> psutil.Process | None:
    """The process of a service; None if it ended, even if its number is that of another process now."""
    try:
        note = json.loads(_note(folder, name).read_text())
        process = psutil.Process(note["pid"])
        same = abs(process.create_time() - note["born"]) < 1.0 and _is_alive(process)
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if same else None

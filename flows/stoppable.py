"""A flow -> the same flow, which Ctrl-C and SIGTERM end in seconds; what it started ends with it, however it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from prefect.server.api.server import SubprocessASGIServer


def stoppable(flow: Callable[..., Any], say: Callable[[], None]) -> Callable[..., Any]:
    """`flow` for a command of its own. When it is told to stop its cluster is closed, `say` is called, the process ends.

    Prefect alone would go on for a minute, telling its embedded server of the end: a server that heard the same Ctrl-C and is
    gone. Nothing is lost by it, as what is finished is told by receipts.
    """
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        logging.raiseExceptions = False  # records of the end find no server: that is not told on the terminal
        sys.exit(128 + number)

    def run(*words: Any, **options: Any) -> Any:
        _watch_server()
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return flow(*words, **options)
        except BaseException:
            if not stopped:
                raise
            say()
            SubprocessASGIServer().stop()
            os._exit(128 + stopped[0])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run


def _watch_server() -> None:
    """Let Prefect's embedded server, where one will be started, end with this process even when that is killed."""
    server = SubprocessASGIServer()
    start = server._run_uvicorn_command
    server._run_uvicorn_command = lambda: _watched(start())  # type: ignore[method-assign]


def _watched(server: subprocess.Popen[Any]) -> subprocess.Popen[Any]:
    """A shell waits for the end of its input, which comes with the end of this process, and then ends the server."""
    command = ["/bin/sh", "-c", 'read -r line; kill "$0" 2>/dev/null', str(server.pid)]
    null = subprocess.DEVNULL
    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)  # noqa: S603  our own words
    return server

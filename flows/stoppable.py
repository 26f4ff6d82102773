"""A flow -> the same flow, which Ctrl-C and SIGTERM end in seconds, together with all that it started."""

from __future__ import annotations

import os
import signal
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
        sys.exit(128 + number)

    def run(*words: Any, **options: Any) -> Any:
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

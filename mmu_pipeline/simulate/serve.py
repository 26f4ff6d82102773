"""A folder to a local HTTP server: directory listings, byte ranges, and on request the faults that real servers have."""

from __future__ import annotations

import html
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True)
class Busy:
    """Answer 503 to the first requests of a path, then serve it."""

    times: int = 1


@dataclass(frozen=True)
class CutShort:
    """Promise the whole body, send a part of it and hang up, for the first requests of a path; then serve it whole."""

    times: int = 1
    keep: float = 0.5


@dataclass(frozen=True)
class Hangs:
    """Promise the whole body, send a part of it and then nothing for a while, for the first requests of a path."""

    times: int = 1
    keep: float = 0.5
    seconds: float = 30.0


@dataclass(frozen=True)
class NoRanges:
    """Send the whole file whatever range is asked for, as some servers do."""

    times: int = 1 << 30


@dataclass(frozen=True)
class Changes:
    """Tell another version, with other bytes, after so many requests."""

    times: int = 1


Fault = Busy | CutShort | Hangs | NoRanges | Changes


@dataclass(frozen=True)
class Served:
    """What a server was asked for; grows while it runs."""

    url: str
    requests: Counter[str] = field(default_factory=Counter)
    """GET requests by path, without the leading slash."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes sent in answer to them."""
    stopped: threading.Event = field(default_factory=threading.Event)


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder over HTTP/1.1, quietly."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, faults: Mapping[str, Fault], served: Served, directory: str) -> None:
        self.faults, self.served = faults, served
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.served.requests[name] += 1
        fault = self.faults.get(name)
        due = fault is not None and self.served.requests[name] <= fault.times
        if due and isinstance(fault, Busy):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        body = self.send_head()
        if body is None:
            return
        with body:
            content = body.read()
        if due and isinstance(fault, CutShort | Hangs):
            content = content[: int(len(content) * fault.keep)]
            self.close_connection = True
        if self._has_changed():
            content = bytes(len(content))
        try:
            self.wfile.write(content)
            self.wfile.flush()
            self.served.sent[name] += len(content)
            if due and isinstance(fault, Hangs):
                self.served.stopped.wait(fault.seconds)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Headers of the whole file or of the range asked for; the body still to be sent."""
        asked = RANGE.match(self.headers.get("Range", "")) if self._knows_ranges() else None
        path = Path(self.translate_path(self.path))
        if self.headers.get("If-Match", self._etag()) != self._etag():
            self.send_error(HTTPStatus.PRECONDITION_FAILED)
            return None
        if asked is None or not path.is_file() or not any(asked.groups()):
            return super().send_head()
        size = path.stat().st_size
        start, stop = _bounds(asked.group(1), asked.group(2), size)
        if start >= size:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return BytesIO(content)

    def _etag(self) -> str:
        """A strong ETag of a file that changes whenever it is written; none of a folder or of what is not there."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return ""
        status = path.stat()
        return f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}{"-changed" * self._has_changed()}"'

    def _fault(self) -> Fault | None:
        return self.faults.get(self.path.lstrip("/"))

    def _knows_ranges(self) -> bool:
        return not isinstance(self._fault(), NoRanges)

    def _has_changed(self) -> bool:
        fault = self._fault()
        return isinstance(fault, Changes) and self.served.requests[self.path.lstrip("/")] > fault.times

    def end_headers(self) -> None:
        if self._knows_ranges():
            self.send_header("Accept-Ranges", "bytes")
        if etag := self._etag():
            self.send_header("ETag", etag)
        super().end_headers()

    def list_directory(self, path: str | os.PathLike[str]) -> BytesIO:
        """A listing as Apache writes it: plain relative links, `=` not escaped."""
        names = sorted(entry.name + "/" * entry.is_dir() for entry in Path(path).iterdir())
        links = "\n".join(f'<li><a href="{quote(name, safe="/=")}">{html.escape(name)}</a></li>' for name in names)
        content = f"<!DOCTYPE html>\n<title>Index</title>\n<ul>\n{links}\n</ul>\n".encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return BytesIO(content)

    def log_message(self, format: str, *args: object) -> None:
        """The server is part of a demo or a test: it does not write to the terminal."""


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Half-open byte range that a Range header means (RFC 9110, section 14.1.2)."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


@contextmanager
def serving(folder: Path, faults: Mapping[str, Fault] | None = None) -> Iterator[Served]:
    """Serve a folder on a free port of the loopback interface while the block runs.

    `faults` maps paths relative to the folder to what goes wrong with their first requests.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        served = Served(f"http://127.0.0.1:{server.server_address[1]}")
        server.RequestHandlerClass = partial(_Handler, faults=faults or {}, served=served, directory=str(folder))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.stopped.set()
            server.shutdown()
            thread.join()

"""A folder to a server that answers as the Hugging Face Hub does for one data set: what `hf://` asks, and nothing else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "owner/name"
API, FILES = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/main/"


@dataclass
class Hub:
    """A server and what it was asked for."""

    endpoint: str = ""
    busy: int = 0
    """Answers 503 to so many requests more."""
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, folder: Path, hub: Hub) -> None:
        self.folder, self.hub = folder, hub
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        if self.hub.busy > 0:
            self.hub.busy -= 1
            self._send(503, b"")
        elif path in (API, f"{API}/revision/main"):
            self._tell({"id": REPOSITORY, "sha": "0" * 40, "siblings": []})
        elif path.startswith(f"{API}/tree/main"):
            place = self.folder / path.removeprefix(f"{API}/tree/main").lstrip("/")
            if place.is_dir():
                self._tell([self._entry(found) for found in sorted(place.iterdir())])
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif path.startswith(FILES) and (self.folder / path.removeprefix(FILES)).is_file():
            self._file((self.folder / path.removeprefix(FILES)).read_bytes())
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = parse_qs(body)["paths"]
        self._tell([self._entry(self.folder / path) for path in paths if (self.folder / path).exists()])

    def _entry(self, path: Path) -> dict[str, object]:
        relative = str(path.relative_to(self.folder))
        if path.is_dir():
            return {"type": "directory", "path": relative, "oid": "0" * 40, "size": 0}
        content = path.read_bytes()
        return {"type": "file", "path": relative, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def _file(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, content)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self._send(206, part, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"})

    def _tell(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """Serve a folder as the data set `owner/name` on loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder=folder, hub=hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

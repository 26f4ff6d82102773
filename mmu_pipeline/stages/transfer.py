"""A remote file to a local one: streamed at its host's pace, continued where it broke off, checked by length and checksum."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from mmu_pipeline.errors import SourceChanged, Unreachable
from mmu_pipeline.limits import Pace, using_host
from mmu_pipeline.redaction import public_url
from mmu_pipeline.remote import FAULTS, filesystem, may_pass, retried

CHUNK_BYTES = 1024**2
TAGS = ("ETag", "etag", "Last-Modified", "LastModified", "blob_id", "sha", "mtime", "created")


def tag_of(info: Mapping[str, Any]) -> str:
    """What changes with a file's content, from its listing or its HTTP headers: ETag, else time of last change, else nothing."""
    return next((str(info[key]) for key in TAGS if info.get(key)), "")


def transfer(url: str, target: Path, size: int | None, tag: str, sha256: str | None) -> int:
    """Bring the file at a URL to `target`, which is its own: a part that is there is continued. Gives its size.

    The part that is there must be of the same `tag`; where there is neither tag nor sha256 it is not trusted, and fetched anew.
    Raises SourceChanged if the file has another tag or size than was listed, Unreachable if it cannot be had whole and right.
    """
    fs, path = filesystem(url)
    if size is None or not tag:
        info = retried(lambda: fs.info(path), url)
        size, tag = info.get("size") if size is None else size, tag or tag_of(info)
    retried(lambda: _continued(fs, path, url, target, size, tag, bool(tag or sha256)), url)
    found = target.stat().st_size
    if size is not None and found != size:
        target.unlink()
        raise SourceChanged(f"the file is of {found} bytes, listed were {size}", file=public_url(url))
    if sha256 is not None and (wrong := _sha256(target)) != sha256:
        target.unlink()
        raise Unreachable(f"sha256 is {wrong}, published is {sha256}", file=public_url(url))
    return found


def _continued(
    fs: fsspec.AbstractFileSystem, path: str, url: str, target: Path, size: int | None, tag: str, trusted: bool
) -> None:
    """Fetch what is missing of a file; a connection that breaks after it gave something is opened again at once."""
    while True:
        with using_host(url) as pace, target.open("ab" if trusted else "wb") as file:
            start = file.seek(0, 2)
            if start == size:
                return
            try:
                if isinstance(fs, HTTPFileSystem):
                    sync(fs.loop, _append_http, fs, path, file, tag, pace)
                else:
                    _append(fs, path, file, tag, pace)
            except FAULTS as error:
                if not (trusted and may_pass(error) and file.tell() - start >= CHUNK_BYTES):
                    raise
                continue
            if size is not None and file.tell() < size:
                raise Unreachable(f"the download was cut short: {file.tell()} of {size} bytes", file=public_url(url))
            return


async def _append_http(fs: HTTPFileSystem, url: str, file: BinaryIO, tag: str, pace: Pace) -> None:
    """Append the rest of a file to what is there (RFC 9110, sections 13.1.1 and 14). Raises SourceChanged, aiohttp's errors."""
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    if tag.startswith('"'):  # a strong ETag; weak ones are never equal to anything in If-Match
        headers["If-Match"] = tag
    async with session.get(fs.encode_url(url), headers=headers) as response:
        if response.status == 404:
            raise FileNotFoundError(url)
        kind = "ETag" if '"' in tag else "Last-Modified"
        if response.status == 412 or (response.ok and tag and response.headers.get(kind, tag) != tag):
            raise SourceChanged("the file changed since it was listed", file=public_url(url), hint="run again: it is read anew")
        response.raise_for_status()
        if response.status != 206:
            file.truncate(0)
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            file.write(chunk)
            await asyncio.sleep(pace.wait_s(len(chunk)))


def _append(fs: fsspec.AbstractFileSystem, path: str, file: BinaryIO, tag: str, pace: Pace) -> None:
    """The same from any other kind of store. On `s3://` the reads of one file are tied to its ETag (If-Match)."""
    with fs.open(path, "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead") as source:
        if tag and tag_of(getattr(source, "details", {})) not in ("", tag):
            raise SourceChanged("the file changed since it was listed", file=path, hint="run again: it is read anew")
        source.seek(file.tell())
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
            time.sleep(pace.wait_s(len(chunk)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

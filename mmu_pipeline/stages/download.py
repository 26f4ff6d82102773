"""A survey's place to its list of files, and each file to a local path: retried, checked by length and checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec
import fsspec.implementations.local
from aiohttp import ClientError
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BadInput, BrokenSource, Unreachable
from mmu_pipeline.readers.companions import companion_name
from mmu_pipeline.sky import CELL_ORDER, Cell, cells_touching
from mmu_pipeline.storage import digest, public_url

CELL_FOLDER = re.compile(r"healpix=0*(\d+)")
HATS_PARTITION = re.compile(r"(?:.*/)?Norder=(\d+)/(?:.*/)?Npix=(\d+)(?:[./].*)?")
USUAL_CHECKSUMS = "SHA256SUMS"
ATTEMPTS = 4
LISTING_THREADS = 16
T = TypeVar("T")


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


def _passing(error: BaseException) -> bool:
    """Whether a failed transfer may succeed when tried again."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return False
    return isinstance(error, OSError | ClientError | TimeoutError | Unreachable)


def retried(action: Callable[[], T], url: str) -> T:
    """The result of a transfer, tried a few times with growing, random pauses. Raises Unreachable."""
    try:
        for attempt in Retrying(
            retry=retry_if_exception(_passing),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(0.2, max=20),
            reraise=True,
        ):
            with attempt:
                return action()
    except Unreachable:
        raise
    except (OSError, ClientError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = "not found" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise Unreachable(f"cannot be read: {what}".replace(url, public_url(url)), file=public_url(url)) from error
    raise AssertionError("unreachable")


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL, and the path there. Some ask their server for it. Raises Unreachable."""
    fs, path = retried(lambda: url_to_fs(url), url)
    return fs, path


def list_files(form: Form, url: str, mirrors: Collection[str] = (), cells: Collection[int] | None = None) -> list[SourceFile]:
    """Files of one form at a URL, sorted by path; of `cells` only, where the form is cut by cell.

    Raises Unreachable if the place cannot be listed, BadInput if it holds no file of this form.
    """
    fs, base = _opened(url)
    base = base.rstrip("/")
    sums = _checksums(form, url, {_base_name(entry) for entry in _ls(fs, base)})
    found = [
        SourceFile(relative, tuple(f"{place.rstrip('/')}/{relative}" for place in (url, *mirrors)),
                   info.get("size"), _tag(info), _cells_of(relative) if form.cut_by_cell else None, sums.get(relative))
        for relative, info in _walk(fs, base, form, cells)
    ]  # fmt: skip
    if not found and cells is None:
        raise BadInput("no file of this survey is there", url=public_url(url), looked_for=", ".join(form.files))
    return sorted(found, key=lambda file: file.relative)


def detect_form(forms: dict[str, Form], url: str) -> str | None:
    """Name of the first form that has a file at a URL; None if none has. Raises Unreachable."""
    fs, base = _opened(url)
    base = base.rstrip("/")
    if is_local(url) and not fs.isdir(base):
        return None
    for name, form in forms.items():
        for pattern in form.files:
            if _matches(fs, base, pattern):
                return name
    return None


def _matches(fs: fsspec.AbstractFileSystem, base: str, pattern: str) -> bool:
    folders = [base]
    for part in pattern.split("/")[:-1]:
        below = [entry["name"] for folder in folders for entry in _ls(fs, folder) if _is_folder(entry, part)]
        folders = below[:8]
    last = pattern.split("/")[-1]
    return any(fnmatchcase(_base_name(entry), last) for folder in folders for entry in _ls(fs, folder))


def _is_folder(entry: dict[str, Any], pattern: str) -> bool:
    return (entry["type"] == "directory" or entry["name"].endswith("/")) and fnmatchcase(_base_name(entry), pattern)


def _base_name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]


def _ls(fs: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    fs.invalidate_cache()
    return retried(lambda: list(fs.ls(folder, detail=True)), folder)


def _walk(
    fs: fsspec.AbstractFileSystem, base: str, form: Form, cells: Collection[int] | None
) -> list[tuple[str, dict[str, Any]]]:
    """(path below base, details) of every file that a glob of the form names, level by level, folders in parallel."""
    wanted = None if cells is None else set(cells)
    found: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        for pattern in form.files:
            *levels, last = pattern.split("/")
            folders = [base]
            for level in levels:
                entries = [entry for listed in pool.map(lambda folder: _ls(fs, folder), folders) for entry in listed]
                folders = [entry["name"].rstrip("/") for entry in entries if _is_folder(entry, level)]
                if form.cut_by_cell and wanted is not None and CELL_FOLDER.match(level.replace("*", "0")):
                    folders = [folder for folder in folders if _touches(folder, wanted)]
            entries = [entry for listed in pool.map(lambda folder: _ls(fs, folder), folders) for entry in listed]
            files = [entry for entry in entries if entry["type"] == "file" and fnmatchcase(_base_name(entry), last)]
            if form.cut_by_cell and wanted is not None:
                files = [entry for entry in files if _touches(entry["name"].removeprefix(base), wanted)]
            if any(entry.get("size") is None for entry in files):
                files = list(pool.map(lambda entry: _details(fs, entry), files))
            found.update({entry["name"].removeprefix(base).lstrip("/"): entry for entry in files})
    return list(found.items())


def _details(fs: fsspec.AbstractFileSystem, entry: dict[str, Any]) -> dict[str, Any]:
    """What a server says of one file; as it was listed where it does not answer: fetching it will say why."""
    try:
        return {**entry, **retried(lambda: fs.info(entry["name"]), entry["name"]), "name": entry["name"]}
    except Unreachable:
        return entry


def _tag(info: dict[str, Any]) -> str:
    tag = next((info[key] for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "created") if info.get(key)), "")
    return str(tag)


def _cells_of(path: str) -> range | None:
    """Order-4 cells named by an exact path component `healpix=N`, zero-padded or not, or by a HATS partition, of any order."""
    for part in path.split("/"):
        if found := CELL_FOLDER.fullmatch(part):
            return range(int(found[1]), int(found[1]) + 1)
    if found := HATS_PARTITION.fullmatch(path):
        ranges = Cell(int(found[1]), int(found[2])).range
        cells = cells_touching([ranges], CELL_ORDER)
        return range(cells[0].pixel, cells[-1].pixel + 1)
    return None


def _touches(path: str, wanted: Collection[int]) -> bool:
    """Whether a file or folder may hold rows of one of some order-4 cells."""
    cells = _cells_of(path)
    return cells is None or any(cell in wanted for cell in cells)


def read_text_beside(url: str, name: str) -> str:
    """A small text file of a survey, such as its list of members. Raises Unreachable."""
    fs, base = _opened(url)
    path = f"{base.rstrip('/')}/{name}"
    return bytes(retried(lambda: fs.cat_file(path), path)).decode("utf-8", "replace")


def _checksums(form: Form, url: str, there: Collection[str]) -> dict[str, str]:
    """sha256 by path, from the form's file of checksums, or from one under the usual name where there is one."""
    name = form.checksums or USUAL_CHECKSUMS
    if name not in there and form.checksums is None:
        return {}
    lines = (line.split(maxsplit=1) for line in read_text_beside(url, name).splitlines() if line.strip())
    return {path.lstrip("*./").strip(): value.lower() for value, path in lines}


def is_local(url: str) -> bool:
    return get_protocol(url) in ("file", "local")


def fetch(file: SourceFile, cache: str) -> Path:
    """A local path with the content of a source file: the file itself, or its checked copy in the cache.

    Raises Unreachable when no place gives it whole and with its published checksum.
    """
    if is_local(file.urls[0]):
        path = Path(fsspec.implementations.local.LocalFileSystem._strip_protocol(file.urls[0]))
        if not path.is_file():
            raise Unreachable("the file is gone since it was listed", file=path)
        return path
    target = Path(cache) / digest(file.urls[0].encode())[:16] / file.relative.rsplit("/", 1)[-1]
    note = target.with_name(target.name + ".json")
    if _is_cached(file, target, note):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for url in file.urls:
        try:
            size = retried(lambda url=url: _transfer(url, target, file), url)  # type: ignore[misc]
            note.write_text(json.dumps({"size": size, "tag": file.tag}))
            return target
        except Unreachable as error:
            failures.append(str(error))
    raise Unreachable("no place gave this file whole", file=public_url(file.urls[0]), tried="; ".join(failures),
                      hint="check the URL and the network, then run again: only what is missing is fetched")  # fmt: skip


@contextmanager
def reading(file: SourceFile, form: Form, cache: str) -> Iterator[Path]:
    """A local path with the content of a source file, its companions beside it where the form names them.

    What a reader finds wrong with it is told by the file's own place.
    """
    path = fetch(file, cache)
    for role in form.companions:
        _fetch_companion(file, form, role, cache)
    try:
        yield path
    except BrokenSource as error:
        if str(error.where.get("file")) == str(path):
            error.where["file"] = public_url(file.urls[0])
        raise


def _fetch_companion(file: SourceFile, form: Form, role: str, cache: str) -> None:
    """Copy a companion of a remote file into the same folder of the cache; one that is not there is left out."""
    if is_local(file.urls[0]):
        return
    beside = companion_name(form, role, file.relative.rsplit("/", 1)[-1])
    target = Path(cache) / digest(file.urls[0].encode())[:16] / beside.rsplit("/", 1)[-1]
    if target.exists():
        return
    folder = file.urls[0].rsplit("/", 1)[0]
    while beside.startswith("../"):
        folder, beside = folder.rsplit("/", 1)[0], beside.removeprefix("../")
    url = f"{folder}/{beside}"
    fs, path = _opened(url)
    if retried(lambda: fs.exists(path), url):
        with suppress(FileExistsError):
            os.link(fetch(SourceFile(beside, (url,)), cache), target)


def _is_cached(file: SourceFile, target: Path, note: Path) -> bool:
    try:
        known = json.loads(note.read_text())
        whole = target.stat().st_size == known["size"]
    except (OSError, ValueError, KeyError):
        return False
    return whole and (not file.tag or known["tag"] == file.tag) and (file.size is None or known["size"] == file.size)


def _transfer(url: str, target: Path, file: SourceFile) -> int:
    """Copy one remote file, check its length and checksum, put it under its name. Returns its size."""
    fs, path = _opened(url)
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        expected = file.size if url == file.urls[0] and file.size is not None else fs.info(path).get("size")
        fs.get_file(path, str(aside))
        size = aside.stat().st_size
        if expected is not None and size != expected:
            raise Unreachable(f"the download was cut short: {size} of {expected} bytes", file=public_url(url))
        if file.sha256 is not None:
            with aside.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.sha256:
                raise Unreachable(f"sha256 is {found}, published is {file.sha256}", file=public_url(url))
        os.replace(aside, target)
        return size
    finally:
        aside.unlink(missing_ok=True)

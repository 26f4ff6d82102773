"""A survey's place to its list of files, and each file to a local path, with its companions beside it."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fsspec
from fsspec.utils import get_protocol

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BadInput, BrokenSource, SourceChanged, Unreachable
from mmu_pipeline.readers.companions import companion_name
from mmu_pipeline.redaction import public_url
from mmu_pipeline.remote import filesystem, retried
from mmu_pipeline.sky import CELL_ORDER, Cell, cells_touching
from mmu_pipeline.stages.build import SourceFile
from mmu_pipeline.stages.cache import kept
from mmu_pipeline.stages.transfer import tag_of

CELL_FOLDER = re.compile(r"healpix=0*(\d+)")
HATS_PARTITION = re.compile(r"(?:.*/)?Norder=(\d+)/(?:.*/)?Npix=(\d+)(?:[./].*)?")
USUAL_CHECKSUMS = "SHA256SUMS"
LISTING_THREADS = 16


def list_files(form: Form, url: str, mirrors: Collection[str] = (), cells: Collection[int] | None = None) -> list[SourceFile]:
    """Files of one form at a URL, sorted by path; of `cells` only, where the form is cut by cell.

    Raises Unreachable if the place cannot be listed, BadInput if it holds no file of this form.
    """
    fs, base = filesystem(url)
    base = base.rstrip("/")
    sums = _checksums(form, url, {_base_name(entry) for entry in _ls(fs, base)})
    found = [
        SourceFile(relative, tuple(f"{place.rstrip('/')}/{relative}" for place in (url, *mirrors)),
                   info.get("size"), tag_of(info), _cells_of(relative) if form.cut_by_cell else None, sums.get(relative))
        for relative, info in _walk(fs, base, form, cells)
    ]  # fmt: skip
    if not found and cells is None:
        raise BadInput("no file of this survey is there", url=public_url(url), looked_for=", ".join(form.files))
    return sorted(found, key=lambda file: file.relative)


def detect_form(forms: dict[str, Form], url: str) -> str | None:
    """Name of the first form that has a file at a URL; None if none has. Raises Unreachable."""
    fs, base = filesystem(url)
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
    fs, base = filesystem(url)
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


@contextmanager
def fetched(file: SourceFile, cache: str) -> Iterator[Path]:
    """A local path with the content of a source file for the time of the block: the file itself, or its copy in the cache.

    Raises Unreachable when no place gives it whole and with its published checksum, SourceChanged if it is not what was listed.
    """
    if not is_local(file.urls[0]):
        with kept(file, cache) as path:
            yield path
        return
    fs, place = filesystem(file.urls[0])
    path = Path(place)
    if not path.is_file():
        raise Unreachable("the file is gone since it was listed", file=path)
    _check_unchanged(fs, file, path)
    yield path
    _check_unchanged(fs, file, path)


def _check_unchanged(fs: fsspec.AbstractFileSystem, file: SourceFile, path: Path) -> None:
    info = fs.info(str(path))
    if (file.size is not None and info["size"] != file.size) or (file.tag and tag_of(info) != file.tag):
        raise SourceChanged("the file changed since it was listed", file=path, hint="run again: it is read anew")


@contextmanager
def reading(file: SourceFile, form: Form, cache: str) -> Iterator[Path]:
    """A local path with the content of a source file, its companions beside it where the form names them.

    What a reader finds wrong with it is told by the file's own place.
    """
    with ExitStack() as held:
        path = held.enter_context(fetched(file, cache))
        for role in form.companions if not is_local(file.urls[0]) else ():
            _bring_companion(file, form, role, path.parent, cache, held)
        try:
            yield path
        except BrokenSource as error:
            if str(error.where.get("file")) == str(path):
                error.where["file"] = public_url(file.urls[0])
            raise


def companion_versions(form: Form, files: Sequence[SourceFile]) -> dict[str, list[tuple[str, int | None, str]]]:
    """Path of each file -> role, size and tag of those of its companions that are there. Raises Unreachable."""
    urls = {
        (file.relative, role): _companion_url(file, form, role)
        for file in files
        for role in form.companions
        if file.state == "listed"
    }
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        folders = sorted({url.rpartition("/")[0] for url in urls.values()})
        there = {name for found in pool.map(_names_in, folders) for name in found}
        wanted = sorted({url for url in urls.values() if url in there})
        known = dict(zip(wanted, pool.map(_version, wanted), strict=True))
    found: dict[str, list[tuple[str, int | None, str]]] = {}
    for (relative, role), url in urls.items():
        if url in known:
            found.setdefault(relative, []).append((role, *known[url]))
    return found


def _names_in(folder: str) -> list[str]:
    """URLs of what a folder holds; none where it is not there."""
    fs, path = filesystem(folder)
    fs.invalidate_cache()
    try:
        entries = retried(lambda: fs.ls(path, detail=True), folder, answers=(FileNotFoundError,))
        return [f"{folder}/{_base_name(entry)}" for entry in entries]
    except FileNotFoundError:
        return []


def _version(url: str) -> tuple[int | None, str]:
    fs, path = filesystem(url)
    info = retried(lambda: fs.info(path), url)
    return info.get("size"), tag_of(info)


def _companion_url(file: SourceFile, form: Form, role: str) -> str:
    """Its place; a path cannot leave the host or bucket."""
    beside = companion_name(form, role, file.name)
    scheme, mark, place = file.urls[0].rsplit("/", 1)[0].rpartition("://")
    while beside.startswith("../"):
        place, beside = place.rsplit("/", 1)[0], beside.removeprefix("../")
    return f"{scheme}{mark}{place}/{beside}"


def _bring_companion(file: SourceFile, form: Form, role: str, folder: Path, cache: str, held: ExitStack) -> None:
    """Put a companion of a remote file beside its copy; one that is not there is left out."""
    url = _companion_url(file, form, role)
    fs, path = filesystem(url)
    try:
        info = retried(lambda: fs.info(path), url, answers=(FileNotFoundError,))
    except FileNotFoundError:
        return
    companion = SourceFile(url.rsplit("/", 1)[1], (url,), info.get("size"), tag_of(info))
    copy = held.enter_context(kept(companion, cache))
    aside = folder / f"{companion.name}.{uuid.uuid4().hex[:8]}"
    os.link(copy, aside)
    os.replace(aside, folder / companion.name)

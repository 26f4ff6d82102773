"""Remote source files -> checked copies in a folder of this machine, bounded in size, safe to share between processes.

Each file has a folder of its own, with the copy, the part of a broken download, and a note of size, tag and digest. Readers
hold a shared lock of the kernel on it, who fills or removes it an exclusive one: a process that is killed lets go of its
locks, and no clock is asked. The file system of the cache must know flock: local disks do, NFS since version 4.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import xxhash

from mmu_pipeline.errors import SourceChanged, Unreachable
from mmu_pipeline.redaction import public_url
from mmu_pipeline.settings import settings
from mmu_pipeline.stages.build import SourceFile
from mmu_pipeline.stages.transfer import transfer
from mmu_pipeline.storage import digest

NOTE, LOCK = "note.json", ".lock"
ROUNDS = 3
"""Times that a file is looked for: another process may remove it just when it has come."""


@contextmanager
def kept(file: SourceFile, cache: str) -> Iterator[Path]:
    """The local copy of a remote file, which nobody removes in the block. One process fetches it, the others wait for that.

    Raises Unreachable when no place gives it whole and with its published checksum, SourceChanged when its own place has
    another version than was listed.
    """
    folder = Path(cache) / digest(file.urls[0].encode())[:16]
    for _ in range(ROUNDS):
        with _held(folder, fcntl.LOCK_SH):
            if _is_whole(folder, file):
                os.utime(folder / NOTE)
                yield folder / file.name
                return
        with _held(folder, fcntl.LOCK_EX):
            if not _is_whole(folder, file):
                _make_room(Path(cache), file.size or 0, folder)
                _fill(folder, file)
    raise Unreachable("the copy is gone from the cache as soon as it was fetched", file=public_url(file.urls[0]),
                      hint="give the cache more room: MMU_CACHE_BYTES")  # fmt: skip


@contextmanager
def derived(key: str, cache: str, nbytes: int, make: Callable[[Path], None]) -> Iterator[Path]:
    """A folder that `make` fills, unless one was filled for this key before; nobody removes it in the block.

    `key` names all that the content follows from, `nbytes` is about what it takes. One process makes it, the others wait.
    """
    folder = Path(cache) / digest(key.encode())[:16]
    for _ in range(ROUNDS):
        with _held(folder, fcntl.LOCK_SH):
            if (folder / NOTE).is_file():
                os.utime(folder / NOTE)
                yield folder
                return
        with _held(folder, fcntl.LOCK_EX):
            if not (folder / NOTE).is_file():
                for left in folder.iterdir():  # by a process that was killed
                    if left.name != LOCK:
                        left.unlink()
                _make_room(Path(cache), nbytes, folder)
                make(folder)
                _write_note(folder, {"of": key})
    raise Unreachable("what was made of a file is gone from the cache as soon as it was there", folder=folder,
                      hint="give the cache more room: MMU_CACHE_BYTES")  # fmt: skip


def is_kept(file: SourceFile, cache: str) -> bool:
    """Whether a whole copy of this version of a remote file is there now."""
    return _is_whole(Path(cache) / digest(file.urls[0].encode())[:16], file)


def _fill(folder: Path, file: SourceFile) -> None:
    """Fetch a file from the first place that gives it."""
    failures: list[str] = []
    for number, url in enumerate(file.urls):
        tag = "" if number else file.tag
        part = folder / f"{digest(f'{url} {tag}'.encode())[:16]}.part"
        for old in folder.glob("*.part"):
            if old != part:
                old.unlink()
        try:
            size = transfer(url, part, file.size, tag, file.sha256)
        except SourceChanged as error:
            if not number:
                raise
            failures.append(str(error))
        except Unreachable as error:
            failures.append(str(error))
        else:
            (folder / NOTE).unlink(missing_ok=True)
            os.replace(part, folder / file.name)
            _write_note(folder, {"size": size, "tag": file.tag, "digest": _digest_of(folder / file.name)})
            return
    raise Unreachable("no place gave this file whole", file=public_url(file.urls[0]), tried="; ".join(failures),
                      hint="check the URL and the network, then run again: only what is missing is fetched")  # fmt: skip


def _is_whole(folder: Path, file: SourceFile) -> bool:
    """Whether the copy is there, of the version that was listed, and with the bytes that were written."""
    path = folder / file.name
    try:
        note = json.loads((folder / NOTE).read_text())
        same = (not file.tag or note["tag"] == file.tag) and (file.size is None or note["size"] == file.size)
        return bool(same and path.stat().st_size == note["size"] and _digest_of(path) == note["digest"])
    except (OSError, ValueError, KeyError):
        return False


def _write_note(folder: Path, note: dict[str, object]) -> None:
    aside = folder / f"{NOTE}.new"
    aside.write_text(json.dumps(note))
    os.replace(aside, folder / NOTE)


def _digest_of(path: Path) -> str:
    """xxh3-128 of a file, read once by each process as long as the file is not touched."""
    status = path.stat()
    return _digest_then(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_then(path: str, inode: int, size: int, mtime_ns: int) -> str:
    state = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(4 * 1024**2):
            state.update(chunk)
    return state.hexdigest()


@contextmanager
def _held(folder: Path, how: int) -> Iterator[None]:
    """A lock of the kernel on a folder of the cache, which is made if need be. Raises BlockingIOError with LOCK_NB."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed by another process since
            continue
        try:
            fcntl.flock(lock, how)
            if _is_still(lock, folder / LOCK):
                yield
                return
        finally:
            os.close(lock)


def _is_still(opened: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


_arrived: dict[Path, int] = {}
"""Bytes that this process put into each cache since it was last looked over."""


def _make_room(cache: Path, nbytes: int, filling: Path) -> None:
    """Remove the copies that were not used for the longest, and are not in use, until `nbytes` more are within the limit.

    Looking over a large cache takes its time: it is done for every twentieth part of the limit that a process fetches.
    """
    limit = settings().cache_bytes
    _arrived[cache] = _arrived.get(cache, limit) + nbytes
    if _arrived[cache] < limit // 20:
        return
    _arrived[cache] = 0
    found = [(size, folder) for _, size, folder in copies(cache) if folder != filling]
    excess = sum(size for size, _ in found) + nbytes - limit
    for size, folder in found:
        if excess <= 0:
            return
        excess -= size * remove_unused(folder)


def copies(cache: Path) -> list[tuple[int, int, Path]]:
    """When each copy in a cache was last used, in ns, its bytes and its folder; the longest unused first."""
    return sorted((*_last_used(folder), folder) for folder in cache.iterdir() if folder.is_dir()) if cache.is_dir() else []


def remove_unused(folder: Path) -> bool:
    """Remove a copy and its folder, unless somebody holds it now. Gives whether it went."""
    try:
        with _held(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder)
    except BlockingIOError:
        return False
    return True


def _last_used(folder: Path) -> tuple[int, int]:
    """When something in a folder of the cache was last written or used, in ns, and its bytes; what goes meanwhile counts as 0."""
    last = nbytes = 0
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            status = entry.stat()
            last, nbytes = max(last, status.st_mtime_ns), nbytes + status.st_size // max(1, status.st_nlink)
    return last, nbytes

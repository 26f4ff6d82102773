"""Where artefacts lie under a root (any fsspec URL), and how they are written in one step."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
import fsspec.implementations.local
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.parquet_file import ROW_GROUP, RowWriter, parquet_options
from mmu_pipeline.remote import filesystem, retried
from mmu_pipeline.sky import Cell

Item = TypeVar("Item")
Found = TypeVar("Found")
ASIDE = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial$")
"""End of the name of a file that is being written: who writes it, by machine and process."""
WRITERS, READERS = ".writers", ".readers"
"""Folders beside the versions of a set: who writes one now, and, in a folder for each version, who reads it."""
READ_AHEAD = 1024**2
"""Bytes fetched beyond what is asked for of a remote artefact."""
REQUESTS_AT_ONCE = 16
"""Small files of an object store that are read at a time."""


@dataclass(frozen=True)
class Root:
    """The place where all outputs of a build go. Paths given to its methods are relative and use `/`."""

    url: str

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return _place(self.url, os.getcwd())[0]

    def path(self, relative: str) -> str:
        """Absolute path of an artefact, as this root's filesystem understands it."""
        return f"{_place(self.url, os.getcwd())[1]}/{relative}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)

    def _ask(self, action: Callable[[], Found]) -> Found:
        """What a call of the filesystem gives; tried again where there is a network between. Raises Unreachable."""
        return action() if self.is_local else retried(action, self.url, answers=(FileNotFoundError,))

    def exists(self, relative: str) -> bool:
        return self._ask(lambda: bool(self.fs.exists(self.path(relative))))

    def names(self, relative: str) -> list[str]:
        """Names of what lies in a folder; none if it is not there."""
        folder = self.path(relative)
        try:
            return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in self._ask(lambda: self.fs.ls(folder, detail=False)))
        except FileNotFoundError:
            return []

    def size(self, relative: str) -> int | None:
        """Size in bytes, None where there is no such file."""
        try:
            return self._ask(lambda: int(self.fs.size(self.path(relative))))
        except FileNotFoundError:
            return None

    def digest_of(self, relative: str) -> str:
        """xxh3-128 of a file, in hexadecimal. Raises FileNotFoundError."""
        with self.fs.open(self.path(relative), "rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()

    def read_bytes(self, relative: str) -> bytes:
        """Content of a small file, in one request."""
        one = {"max_concurrency": 1} if "s3" in self.fs.protocol else {}  # else s3fs asks for its size first, to fetch parts
        return self._ask(lambda: bytes(self.fs.cat_file(self.path(relative), **one)))

    def read_json(self, relative: str) -> Any:
        """Content of a JSON file. Raises BrokenArtefact if it is not JSON, FileNotFoundError if it is not there."""
        try:
            return json.loads(self.read_bytes(relative))
        except ValueError as error:
            raise BrokenArtefact("not valid JSON", file=self.path(relative), hint="delete it and run again") from error

    def read_table(self, relative: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """A Parquet artefact, or its rows and columns that are asked for. Cells run side by side, so one thread reads it."""
        path = self.path(relative)
        options = {"columns": columns, "filters": filters, "partitioning": None, "use_threads": False}
        if self.is_local:
            return pq.read_table(path, filesystem=self.fs, **options)

        def read() -> pa.Table:
            with self._opened(path) as source:  # by its name pyarrow would ask for its details five times
                return pq.read_table(source, **options)

        return self._ask(read)

    def read_footer(self, relative: str) -> pq.FileMetaData:
        """The footer of a Parquet artefact, for those who choose its row groups."""
        return self._ask(lambda: self._parquet(relative, None, lambda file: file.metadata))

    def read_row_group(self, relative: str, footer: pq.FileMetaData | None, number: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one row group of a Parquet artefact; its footer is read if it is not given."""
        return self._ask(
            lambda: self._parquet(relative, footer, lambda file: file.read_row_group(number, list(columns), use_threads=False))
        )

    def _parquet(self, relative: str, footer: pq.FileMetaData | None, look: Callable[[pq.ParquetFile], Found]) -> Found:
        path = self.path(relative)
        if self.is_local:
            with pq.ParquetFile(path, metadata=footer, memory_map=True) as file:
                return look(file)
        with self._opened(path) as source, pq.ParquetFile(source, metadata=footer, pre_buffer=True) as file:
            return look(file)

    def _opened(self, path: str) -> BinaryIO:
        """A remote file for those who read parts of it."""
        return cast(BinaryIO, self.fs.open(path, "rb", block_size=READ_AHEAD))

    @contextmanager
    def writing(self, relative: str) -> Iterator[BinaryIO]:
        """A binary file that appears under its name, whole, only when the block ends without an error.

        On a local disk it is written aside and renamed; an object store makes an upload visible at its close.
        """
        target = self.path(relative)
        if not self.is_local:
            with self.fs.open(target, "wb") as file:
                try:
                    yield file
                except BaseException:
                    getattr(file, "discard", lambda: None)()
                    file.closed = True
                    raise
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        aside = f"{target}.{this_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
        try:
            with open(aside, "wb") as file:
                yield file
            os.replace(aside, target)
        except BaseException:
            if os.path.exists(aside):
                os.remove(aside)
            raise

    def sweep(self) -> None:
        """Remove what processes of this machine that were killed left half written. An object store has no such files."""
        for path in Path(self.path("")).rglob("*.partial") if self.is_local else ():
            found = ASIDE.search(path.name)
            if found and found[1] == this_host() and not is_running(int(found[2])):
                path.unlink(missing_ok=True)

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Write a small file in one step. Raises Unreachable if its server does not take it."""
        if not self.is_local:
            self._ask(lambda: self.fs.pipe_file(self.path(relative), content))
            return
        with self.writing(relative) as file:
            file.write(content)

    def create_json(self, relative: str, content: Any) -> None:
        """Write JSON under a name that nothing has yet. Raises FileExistsError where something has, even if it came just now."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(relative)), exist_ok=True)
        try:
            with self.fs.open(self.path(relative), "xb") as file:
                file.write(json.dumps(content).encode())
        except OSError as error:  # object stores have words of their own for it
            if self.exists(relative):
                raise FileExistsError(self.path(relative)) from error
            raise

    def write_json(self, relative: str, content: Any) -> None:
        """Write JSON with sorted keys: the same content gives the same bytes."""
        self.write_bytes(relative, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def write_table(self, relative: str, table: pa.Table, row_group_size: int = ROW_GROUP) -> None:
        """Write Parquet, zstd, without the clock: the same table gives the same bytes."""
        with self.writing(relative) as file:
            pq.write_table(table, file, row_group_size=row_group_size, **parquet_options(table))

    @contextmanager
    def writing_rows(self, relative: str, schema: pa.Schema) -> Iterator[RowWriter]:
        """A Parquet file to which tables are given as they come. The same rows give the same bytes, however they are cut."""
        with self.writing(relative) as file:
            writer = RowWriter(file, schema)
            try:
                yield writer
            finally:
                writer.close()

    def move(self, source: str, target: str, last: str = "") -> None:
        """Give a folder its final name: one rename on a local disk; file by file on an object store, the file `last` at the end.

        A move of an object store that was broken off goes on where it stopped.
        """
        if self.is_local:
            os.rename(self.path(source), self.path(target))
            return
        folder = self.path(source)
        files = [file for file in self._ask(lambda: self.fs.find(folder)) if file != f"{folder}/{last}"]
        for group in (files, [f"{folder}/{last}"] if last else []):
            targets = [self.path(f"{target}/{file[len(folder) + 1 :]}") for file in group]
            if group:
                self._ask(partial(self.fs.copy, group, targets))
        self._ask(lambda: self.fs.rm(folder, recursive=True))

    def at(self, relative: str) -> Root:
        """A folder below as a root of its own."""
        return Root(f"{self.url.rstrip('/')}/{relative}")

    def remove(self, relative: str, recursive: bool = False) -> None:
        """Remove an artefact; nothing happens if it is not there."""
        if self.exists(relative):
            self._ask(lambda: self.fs.rm(self.path(relative), recursive=recursive))


@cache
def this_host() -> str:
    return digest(socket.gethostname().encode())[:8]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@lru_cache(maxsize=64)
def _place(url: str, working_folder: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Filesystem and absolute path of a URL; kept, since every small file asks. A relative path hangs on the working folder."""
    fs, path = filesystem(url)
    return fs, path.rstrip("/")


def object_folder(survey: str) -> str:
    return f"objects/{survey}"


def match_folder(recipe: str) -> str:
    return f"matches/{recipe}"


def latest_path(recipe: str) -> str:
    """The file that holds the name of the version which readers should take."""
    return f"shards/{recipe}/LATEST"


def writers_folder(recipe: str) -> str:
    """Where the run that writes versions of a recipe says so."""
    return f"shards/{recipe}/{WRITERS}"


def shard_folder(recipe: str, version: str) -> str:
    return f"shards/{recipe}/{version}"


def partition_path(folder: str, cell: Cell) -> str:
    """HATS path of one partition: dataset/Norder=k/Dir=d/Npix=n.parquet (IVOA Note HATS, section 3)."""
    return f"{folder}/dataset/Norder={cell.order}/Dir={cell.pixel // 10_000 * 10_000}/Npix={cell.pixel}.parquet"


def digest(content: bytes | memoryview) -> str:
    """xxh3-128 of bytes, as 32 hexadecimal digits."""
    return str(xxhash.xxh3_128_hexdigest(content))


def each(root: Root, look: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """`look` at many small files of a root, in order: in threads where each costs a round trip, one by one on a local disk."""
    if root.is_local:
        return [look(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(look, items))


def claim(root: Root, path: str, identity: dict[str, Any], replace: bool, what: str) -> None:
    """Record under `path` what a place in the root is for. Raises BadInput if it already is for something else."""
    try:
        known = root.read_json(path)
    except FileNotFoundError:
        known = None
    if known is not None and known != identity and not replace:
        differs = sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key))
        raise BadInput(
            f"the root already holds {what} made otherwise",
            root=root.url,
            record=path,
            differs_in=", ".join(differs),
            hint="choose another --root, give the recipe another name, or pass --replace to build over it",
        )
    if known != identity:
        root.write_json(path, identity)

"""A source file to what its reader takes: the file itself, its copy in the cache, or byte ranges of it, whichever costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import SourceChanged, Unreachable
from mmu_pipeline.fields import Field
from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.ranges import BLOCK, RangedFile, merged, request_count
from mmu_pipeline.readers import GATHERED, RANGED, GatheringReader, RangedReader, reader
from mmu_pipeline.readers.companions import companions_there
from mmu_pipeline.redaction import public_url
from mmu_pipeline.settings import Remote, settings
from mmu_pipeline.sky import Int
from mmu_pipeline.stages.build import Build, SourceFile
from mmu_pipeline.stages.cache import derived, is_kept
from mmu_pipeline.stages.download import is_local, reading
from mmu_pipeline.stages.requests import Described, described, range_fetcher

LEAST_ROUND_TRIPS = 6
"""What a reading by ranges waits for at least: the file's length, its directory, the headers of its datasets, their content."""
WORTH = 0.5
"""A whole copy can be checked, and serves later units and builds: ranges are taken where they cost less than this part of it."""
Way = Literal["local", "whole", "ranges"]
T = TypeVar("T")


def whole_seconds(remote: Remote, size: int) -> float:
    """Estimated time of fetching a file in one request."""
    return remote.latency_s + size / remote.bytes_per_second


def ranged_seconds(remote: Remote, at_once: int, requests: int, nbytes: int) -> float:
    """Estimated time of fetching ranges, some of them at a time."""
    return remote.latency_s * -(-requests // at_once) + nbytes / remote.bytes_per_second


@contextmanager
def gathered(survey: Survey, form_name: str, path: Path, cache: str) -> Iterator[Path]:
    """A folder of the cache with the arrays of a local file of a format of `GATHERED`, made once for each version of it."""
    form = survey.forms[form_name]
    files = [path, *companions_there(form, path)]
    found = [(str(file.absolute()), status.st_size, status.st_mtime_ns) for file in files for status in (file.stat(),)]
    module = cast(GatheringReader, reader(form.reader))
    key = fingerprint("gathered", survey, form_name, found)
    nbytes = 2 * sum(size for _, size, _ in found)  # 1.6 times a table that is compressed, and less of a plain one
    with derived(key, cache, nbytes, lambda folder: module.gather_arrays(survey, form_name, path, folder)) as folder:
        yield folder


def expected_way(form: Form, file: SourceFile, remote: Remote) -> Way:
    """How a file will be read, as far as its listing tells: by `ranges` only if what is wanted of it costs less than a copy."""
    if is_local(file.urls[0]):
        return "local"
    if remote.way == "whole" or form.reader not in RANGED or form.companions:
        return "whole"
    if file.size is not None and file.size <= BLOCK:
        return "whole"
    if remote.way == "auto" and (file.sha256 is not None or _is_small(remote, file.size)):
        return "whole"  # only a whole file can be compared with its published checksum
    return "ranges"


def _is_small(remote: Remote, size: int | None) -> bool:
    """Whether a file comes whole before ranges of it could."""
    return size is not None and whole_seconds(remote, size) <= LEAST_ROUND_TRIPS * remote.latency_s


@dataclass
class Access:
    """How one unit reaches its source files. Each remote file is judged once, by all that the unit will read of it."""

    build: Build
    moved: dict[str, dict[str, int | str]] = field(default_factory=dict)
    """Survey and path of a remote file -> how it was read (whole, ranges, cache), bytes and requests moved, its size."""
    _open: dict[str, RangedFile | None] = field(default_factory=dict)
    """Files that are read by ranges; None for one that is not."""
    _seen: dict[str, Described] = field(default_factory=dict)

    def read(
        self,
        survey: Survey,
        file: SourceFile,
        action: Callable[[Path | RangedFile], T],
        rows: Int | None = None,
        members: Sequence[Field] = (),
    ) -> T:
        """What `action` reads of a file. `rows` are all that the unit will read of it, with those members; None for its columns.

        Raises Unreachable where no place gives the file, and where it changes while it is read.
        """
        key = f"{survey.name}/{file.relative}"
        if key not in self._open:
            self._open[key] = self._ranged(survey, file, key, rows, members)
        ranged = self._open[key]
        if ranged is not None:
            try:
                return self._in_ranges(key, file, ranged, action)
            except _Failed:
                self._open[key] = None
        return self._whole(survey, file, key, rows, action)

    def _whole(self, survey: Survey, file: SourceFile, key: str, rows: Int | None, action: Callable[[Path | RangedFile], T]) -> T:
        build, form_name = self.build, self.build.sources[survey.name].form
        known = is_local(file.urls[0]) or is_kept(file, build.cache)
        with reading(file, survey.forms[form_name], build.cache) as path:
            if not is_local(file.urls[0]):
                size = path.stat().st_size
                before = self.moved.get(key, {"bytes": 0, "requests": 0})
                if not known:
                    now = {"bytes": int(before["bytes"]) + size, "requests": int(before["requests"]) + 1}
                    self.moved[key] = {"read": "whole", **now, "of": size}
                elif key not in self.moved:
                    self.moved[key] = {"read": "cache", **before, "of": size}
            if rows is None or survey.forms[form_name].reader not in GATHERED:
                return action(path)
            with gathered(survey, form_name, path, build.cache) as folder:
                return action(folder)

    def _ranged(
        self, survey: Survey, file: SourceFile, key: str, rows: Int | None, members: Sequence[Field]
    ) -> RangedFile | None:
        """The file opened for ranges, if that costs less than a copy of it and its server can."""
        remote, form_name = settings().remote, self.build.sources[survey.name].form
        form = survey.forms[form_name]
        if expected_way(form, file, remote) != "ranges" or is_kept(file, self.build.cache):
            return None
        at_once = settings().host.connections
        try:
            found = described(file.urls[0])
            fetch = range_fetcher(file.urls[0], found) if found.tag and found.size and found.size > BLOCK else None
        except Unreachable:
            return None  # a mirror may have it
        if file.tag and found.tag != file.tag:
            raise SourceChanged("the file changed since it was listed", file=public_url(file.urls[0]), listed=file.tag,
                              found=found.tag, hint="run again: it will be listed anew")  # fmt: skip
        if fetch is None or found.size is None or (remote.way == "auto" and _is_small(remote, found.size)):
            return None
        self._seen[key] = found
        ranged = RangedFile(public_url(file.urls[0]), found.size, fetch, at_once)
        module = cast(RangedReader, reader(form.reader))
        try:
            wanted = merged(self._in_ranges(key, file, ranged, lambda _: module.ranges(survey, form_name, ranged, rows, members)))
        except _Failed:
            return None
        seconds = ranged_seconds(remote, at_once, request_count(wanted), int((wanted[:, 1] - wanted[:, 0]).sum()))
        return ranged if remote.way == "ranges" or seconds < WORTH * whole_seconds(remote, found.size) else None

    def _in_ranges(self, key: str, file: SourceFile, ranged: RangedFile, action: Callable[[Path | RangedFile], T]) -> T:
        """What `action` reads, if all of it came from one version of the file. Raises _Failed if a transfer failed."""
        ranged.failure = None
        try:
            result = action(ranged)
        except Exception as error:
            self._same_version(key, file)
            if ranged.failure is not None:
                raise _Failed from error
            raise
        finally:
            self.moved[key] = {"read": "ranges", "bytes": ranged.moved, "requests": ranged.requests, "of": ranged.size}
        self._same_version(key, file)
        if ranged.failure is not None:
            raise _Failed
        return result

    def _same_version(self, key: str, file: SourceFile) -> None:
        before, now = self._seen[key], described(file.urls[0])
        if (before.tag, before.size) != (now.tag, now.size):
            raise SourceChanged("the file changed while it was read", file=public_url(file.urls[0]), was=before.tag,
                              found=now.tag, hint="run again: it will be listed anew")  # fmt: skip


class _Failed(Exception):
    """A range could not be had: the file may still be had whole, or from a mirror."""

"""A remote file to a seekable one: ranges that are announced are fetched together, side by side; the rest block by block."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.sky import Int

GAP = 32 * 1024
"""Ranges that lie closer are fetched as one. Time alone would bear ten times as much; bytes are what a busy archive counts."""
PIECE = 8 * 1024**2
"""Longer ranges are fetched in pieces, side by side."""
BLOCK = 64 * 1024
"""Bytes fetched at a time of what nobody announced: a file's directory."""
KEPT_BLOCKS = 256
MOST_AHEAD = 64 * 1024**2
"""Announced bytes that are held; what goes beyond is fetched when it is read."""


def merged(ranges: Int, gap: int = GAP) -> Int:
    """Half-open ranges (n, 2), in any order, as disjoint ones in order; those closer than `gap` become one."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    if not len(ranges):
        return ranges.reshape(0, 2)
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    first = np.concatenate([[True], ranges[1:, 0] > ends[:-1] + gap])
    return np.stack([ranges[first, 0], ends[np.concatenate([first[1:], [True]])]], axis=1)


def request_count(ranges: Int) -> int:
    """Requests that disjoint ranges (n, 2) take."""
    return int(np.sum(-((ranges[:, 0] - ranges[:, 1]) // PIECE)))


class RangedFile(io.RawIOBase):
    """One version of a remote file, for readers that seek. What was moved is counted; memory is bounded by the constants here.

    `fetch(start, stop)` gives the bytes of a range or raises; it is called from several threads. Readers that swallow its
    error leave it in `failure`. Printed, a file is its `name`.
    """

    def __init__(self, name: str, size: int, fetch: Callable[[int, int], bytes], at_once: int = 8) -> None:
        self.name, self.size, self.at_once = name, size, at_once
        self.requests = self.moved = 0
        self.failure: Exception | None = None
        self.learned: dict[str, Any] = {}
        """What a reader found out about the file, such as where its chunks lie: kept for its next call."""
        self.seen: Callable[[int, memoryview], None] | None = None
        """Told of every short piece that was read, and where: a reader may announce what that piece points to."""
        self._fetch, self._position = fetch, 0
        self._starts: list[int] = []
        self._ahead: dict[int, bytes] = {}
        self._kept: dict[int, bytes] = {}
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._run = -1, 1

    def __str__(self) -> str:
        return self.name

    def announce(self, ranges: Int, keep: bool = False) -> None:
        """Fetch ranges (n, 2) that will be read next, up to MOST_AHEAD bytes; they take the place of those announced before.

        With `keep` they stay: for small parts that are read again and again.
        """
        if not keep:
            self._ahead = {}
        wanted, total = [], 0
        for start, stop in merged(np.clip(ranges, 0, self.size)).tolist():
            if total + stop - start <= MOST_AHEAD and self._held(start, stop) is None:
                wanted.append((start, stop))
                total += stop - start
        found = dict(zip([start for start, _ in wanted], self._get(wanted), strict=True))
        (self._kept if keep else self._ahead).update(found)
        self._starts = sorted({*self._ahead, *self._kept})

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position; fewer bytes at the end of the file only."""
        view = memoryview(buffer).cast("B")
        start = self._position
        stop = max(start, min(start + len(view), self.size))
        self._position = stop
        part = view[: stop - start]
        self._fill(start, part)
        if self.seen is not None and len(part) <= BLOCK:
            self.seen(start, part)
        return stop - start

    def _fill(self, start: int, view: memoryview) -> None:
        stop = start + len(view)
        ahead = self._held(start, stop)
        if ahead is not None:
            view[:] = ahead
        elif len(view) > BLOCK:
            (view[:],) = self._get([(start, stop)])
        else:
            first, last = start // BLOCK, (stop - 1) // BLOCK
            content = b"".join(self._block(number) for number in range(first, last + 1)) if len(view) else b""
            view[:] = content[start - first * BLOCK : stop - first * BLOCK]

    def _held(self, start: int, stop: int) -> memoryview | None:
        """A range of bytes that one announced range holds as a whole."""
        at = bisect_right(self._starts, start) - 1
        if at < 0:
            return None
        first = self._starts[at]
        return next(
            (
                memoryview(content)[start - first : stop - first]
                for content in (self._ahead.get(first), self._kept.get(first))
                if content is not None and stop <= first + len(content)
            ),
            None,
        )

    def _block(self, number: int) -> bytes:
        """A block of the file; as they are read in a row, more of them come at a time."""
        if number not in self._blocks:
            self._run = min(2 * self._run, 16) if number == self._next_block else 1
            self._next_block = number + self._run
            start, stop = number * BLOCK, min((number + self._run) * BLOCK, self.size)
            (content,) = self._get([(start, stop)])
            self._blocks |= {number + at // BLOCK: content[at : at + BLOCK] for at in range(0, len(content), BLOCK)}
            while len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _get(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of some ranges, in requests side by side, long ones in pieces."""
        parts = [(at, min(at + PIECE, stop)) for start, stop in wanted for at in range(start, stop, PIECE)]
        try:
            if len(parts) < 2:
                found = [self._fetch(*part) for part in parts]
            else:
                contexts = [copy_context() for _ in parts]  # the threads log what they do as this one would
                with ThreadPoolExecutor(min(self.at_once, len(parts))) as pool:
                    found = list(pool.map(lambda context, part: context.run(self._fetch, *part), contexts, parts))
        except Exception as error:
            self.failure = error
            raise
        self.requests += len(parts)
        self.moved += sum(map(len, found))
        if len(parts) == len(wanted):
            return found
        ends = np.cumsum([max(1, -((start - stop) // PIECE)) for start, stop in wanted]).tolist()
        return [b"".join(found[first:last]) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def ranges_of(starts: npt.ArrayLike, lengths: npt.ArrayLike) -> Int:
    """Half-open ranges (n, 2) from where they start and how long they are."""
    first = np.atleast_1d(np.asarray(starts, np.int64))
    return np.stack([first, first + np.asarray(lengths, np.int64)], axis=1)

"""A remote file to bytes of it by start and stop: retried, at its host's pace, checked by length, all of one version."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmu_pipeline.errors import Unreachable
from mmu_pipeline.limits import using_host
from mmu_pipeline.redaction import public_url
from mmu_pipeline.remote import filesystem, retried
from mmu_pipeline.stages.transfer import tag_of


@dataclass(frozen=True)
class Described:
    """What a server says of a file now."""

    size: int | None
    tag: str
    """What changes with its content; empty where it says nothing of the kind."""
    ranges: bool
    """False where it says that it gives whole files only."""


def described(url: str) -> Described:
    """Size and version of a remote file, asked anew. Raises Unreachable."""
    fs, path = filesystem(url)

    def ask() -> dict[str, Any]:
        fs.invalidate_cache(path)
        return dict(fs.info(path))

    info = retried(ask, url)
    return Described(info.get("size"), tag_of(info), bool(info.get("partial", True)))


def range_fetcher(url: str, found: Described) -> Callable[[int, int], bytes] | None:
    """A function that gives bytes of a remote file by start and stop; None where its server gives whole files only.

    It may be called from several threads. Raises Unreachable.
    """
    if not found.ranges:
        return None
    fs, path = filesystem(url)
    handle = retried(lambda: fs.open(path, "rb", cache_type="none"), url)
    one_range = getattr(handle, "_fetch_range", None) or partial(fs.cat_file, path)

    def fetch(start: int, stop: int) -> bytes:
        def once() -> bytes:
            with using_host(url) as pace:
                content = bytes(one_range(start, stop))
                time.sleep(pace.wait_s(len(content)))
            if len(content) != stop - start:
                what = f"a range was cut short: {len(content)} of {stop - start} bytes"
                raise Unreachable(what, file=public_url(url), range=f"{start}-{stop}")
            return content

        return retried(once, url)

    try:
        fetch((found.size or 0) - 1, found.size or 0)
    except ValueError:  # fsspec: the server sends the whole file instead
        return None
    return fetch

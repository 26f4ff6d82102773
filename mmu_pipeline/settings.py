"""Environment variables MMU_* -> what a process may use of network and disk, and how long it bears with a server in trouble.

They are read where they are used, so a variable that is set for the workers of a cluster holds there.
"""

from __future__ import annotations

import json
import os
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from mmu_pipeline.errors import BadInput

PREFIX = "MMU_"
LEAST_ARRAY_BYTES = 1024**2
"""What may always be held: smaller things are not checked."""


class HostLimits(BaseModel):
    """What one process takes of one host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(default=8, ge=1)
    """Downloads and listings at a time."""
    bytes_per_second: ByteSize | None = Field(default=None, gt=0)
    """Mean rate of all downloads together; None for no limit."""


class Remote(BaseModel):
    """How remote source files are reached: whole, or by byte ranges, and what either costs, to choose between them.

    The defaults are what an object store gives: a first byte after about 100 ms, some 85 MB/s to one connection (Amazon,
    "Best practices design patterns: optimizing Amazon S3 performance"), of which a unit beside others gets a part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    way: Literal["auto", "whole", "ranges"] = "auto"
    """auto takes what costs less; a file with a published checksum is then fetched whole, for nothing less can be checked."""
    latency_s: float = Field(default=0.1, ge=0)
    """From a request to the first byte of its answer."""
    bytes_per_second: ByteSize = Field(default=ByteSize(50_000_000), gt=0)


class Settings(BaseModel):
    """Limits of one process. Each is set by the environment variable of its name in capitals after `MMU_`, as text or JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retry_for_s: float = Field(default=90.0, ge=0)
    """How long a transfer that fails in a passing way is tried again without a byte of progress; three times at least."""
    idle_timeout_s: float = Field(default=60.0, gt=0)
    """A connection that gives nothing for so long is dropped, and tried again."""
    host: HostLimits = HostLimits()
    """For every host that `hosts` does not name."""
    hosts: dict[str, HostLimits] = Field(default_factory=dict)
    """By host name (bucket, for `s3://`): `{"archive.org": {"connections": 2, "bytes_per_second": "20MB"}}`."""
    remote: Remote = Remote()
    """`{"way": "ranges"}`, `{"latency_s": 0.3, "bytes_per_second": "5MB"}`."""
    cache_bytes: ByteSize = Field(default=ByteSize(100 * 1024**3), ge=0)
    """Source files kept on the local disk; the longest unused go first, those in use never."""
    schemes: tuple[str, ...] = ("file", "local", "memory", "http", "https", "s3", "hf", "github")
    """Kinds of URL that sources and roots may have. A service for others leaves out `file`, `local` and `memory`."""
    most_unpacked_bytes: ByteSize = Field(default=ByteSize(64 * 1024**3), gt=0)
    """What one compressed text file may become when it is unpacked, a block at a time."""
    most_array_bytes: ByteSize = Field(default=ByteSize(8 * 1024**3), ge=LEAST_ARRAY_BYTES)
    """What may be held at once of a source file: a dataset or a chunk of it, a table, an image; checked before it is read."""
    log: Literal["text", "json"] | None = None
    """Log to stderr, of the processes that start runs and of their workers."""


def settings() -> Settings:
    """The settings of this process now. Raises BadInput naming the variable that is wrong."""
    given = {name: os.environ.get(PREFIX + name.upper(), "") for name in Settings.model_fields}
    try:
        return Settings.model_validate({name: _value(text) for name, text in given.items() if text})
    except (ValidationError, json.JSONDecodeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("JSON",), "msg": str(error)}
        key = ".".join(str(part) for part in problem["loc"])
        raise BadInput(f"a setting is wrong: {problem['msg']}", variable=PREFIX + key.upper()) from error


def _value(text: str) -> object:
    return json.loads(text) if text[0] in "[{" else text

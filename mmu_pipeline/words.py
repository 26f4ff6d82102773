"""Words on a command line -> the values that a build takes. What is wrong with one is said with the option's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmu_pipeline.errors import BadInput
from mmu_pipeline.redaction import public_url

CLUSTER = r"^(local(:[1-9]\d{0,3}(:\d[\w.]*)?)?|(tcp|tls)://\S+:\d+|(slurm|pbs|lsf|kubernetes|gateway):.+)$"
"""The words that name a cluster."""


def asked(
    recipe: str,
    root: str,
    source: list[str] | None,
    survey_dir: list[Path] | None,
    cells: str | None = None,
    cone: str | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """Options as the values that a build takes, all local paths absolute. Raises BadInput."""
    return {
        "recipe": recipe,
        "root": place(root),
        "sources": dict(source_of(item) for item in source or ()),
        "survey_dirs": [str(folder.absolute()) for folder in survey_dir or ()],
        "cells": None if cells is None else [int(number) for number in numbers("--cells", cells, int)],
        "cone": None if cone is None else tuple(numbers("--cone", cone, float, 3)),
        "cache": None if cache is None else place(cache),
    }


def source_of(item: str) -> tuple[str, str]:
    """SURVEY=URL as the two. Raises BadInput."""
    name, equals, url = item.partition("=")
    if not (name and equals and url):
        raise BadInput(f"--source wants SURVEY=URL, not {item!r}", hint="for example --source hsc=https://host/folder")
    return name, place(url)


def place(url: str) -> str:
    """A URL as it is, a local path made absolute: workers may run elsewhere. Raises BadInput for one that carries a secret."""
    if "://" in url and public_url(url) != url:
        raise BadInput("a URL with a password or a query would be kept among Prefect's records", url=public_url(url),
                       hint="put credentials where fsspec and botocore look: ~/.config/fsspec, ~/.aws, variables")  # fmt: skip
    return url if "://" in url or "::" in url else str(Path(url).expanduser().absolute())


def cluster(word: str | None) -> str | None:
    """A word that names a cluster, or None, as it is. Raises BadInput for another."""
    if word is not None and not re.fullmatch(CLUSTER, word):
        raise BadInput(f"no such cluster: {word!r}", hint="local, local:N or local:N:4GiB for N processes, "
                       "tcp:// or tls://host:port of a scheduler, slurm:profile.yaml")  # fmt: skip
    return word


def numbers(option: str, text: str, kind: type[int] | type[float], count: int | None = None) -> list[int] | list[float]:
    """Numbers with commas between them, `count` of them if that is given. Raises BadInput naming the option."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or (count and len(values) != count):
        wanted = "whole numbers" if kind is int else f"{count} numbers"
        raise BadInput(f"{option} wants {wanted} with commas between them, not {text!r}")
    return values

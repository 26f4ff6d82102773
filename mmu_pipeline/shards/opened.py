"""The URL of a set of shards -> its folder, and its manifest; and word beside it that it is being read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.leases import reading
from mmu_pipeline.shards.manifest import FORMAT_VERSION, MANIFEST_PATH, shards_in
from mmu_pipeline.storage import READERS, Root

SHARD_NAME, DIGEST = re.compile(r"[A-Za-z0-9_-]+\.tar"), re.compile(r"[0-9a-f]*")
VERSION_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
LATEST = "LATEST"
"""Beside the versions of a set: holds the name of the one that readers should take."""


def locate(url: str) -> Root:
    """The folder of a version: the one named, or that which LATEST names in the folder of a recipe. Raises BadInput."""
    folder = Root(url.rstrip("/"))
    if folder.exists(LATEST):
        version = folder.read_bytes(LATEST).decode("utf-8", "replace").strip()
        if not VERSION_NAME.fullmatch(version):
            raise BadInput("LATEST does not hold the name of a version", file=folder.path(LATEST), name=version[:80])
        return folder.at(version)
    return folder


def set_folder(url: str) -> Root:
    """The folder of a version, given it or that of its recipe (then the latest version). Raises BadInput if there is none."""
    folder = locate(url)
    if not folder.exists(MANIFEST_PATH):
        raise BadInput("no shard set here", url=folder.url, hint="give the folder that holds manifest.json, or LATEST beside it")
    return folder


def read_manifest(root: Root) -> dict[str, Any]:
    """The manifest of the set in a folder. Raises BadInput if there is none, or one of another format."""
    if not root.exists(MANIFEST_PATH):
        raise BadInput("there is no set of shards here", folder=root.url, hint=f"name a folder that holds {MANIFEST_PATH}")
    try:
        manifest: dict[str, Any] = root.read_json(MANIFEST_PATH)
        version = manifest["format_version"]
    except (BrokenArtefact, KeyError, TypeError) as error:
        raise BadInput("not the manifest of a set of shards", file=root.path(MANIFEST_PATH)) from error
    if version != FORMAT_VERSION:
        raise BadInput(f"a set of format {version}, this release reads {FORMAT_VERSION}", folder=root.url,
                       hint="use the release that made it")  # fmt: skip
    _check_names(manifest, root)
    return manifest


def _check_names(manifest: dict[str, Any], root: Root) -> None:
    """Names of shards become paths, their digests names of files in a cache: neither may lead elsewhere. Raises BadInput."""
    try:
        names = [(str(shard["name"]), str(shard["digest"])) for shard in shards_in(manifest)]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput("not the manifest of a set of shards", file=root.path(MANIFEST_PATH)) from error
    for name, digest in names:
        if not SHARD_NAME.fullmatch(name) or not DIGEST.fullmatch(digest):
            raise BadInput("a shard's name or digest is not one", file=root.path(MANIFEST_PATH), name=name, digest=digest,
                           hint="the manifest was not written by this software: do not trust the set")  # fmt: skip


@contextmanager
def reading_version(version: Root) -> Iterator[None]:
    """Say beside a version's folder, where it is one of several, that it is being read: then no cleaning removes it."""
    folder, _, name = version.url.rpartition("/")
    if not Root(folder).exists(LATEST):
        yield
        return
    with reading(Root(folder), f"{READERS}/{name}"):
        yield

"""What was built, from what, and how it fared -> manifest.json: all that readers of a set, its card and its check need."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import pyarrow as pa

from mmu_pipeline import __version__
from mmu_pipeline.catalog import Recipe, Survey
from mmu_pipeline.redaction import public_url
from mmu_pipeline.shards.citations import bibtex
from mmu_pipeline.shards.index import INDEX_PATH, IndexFacts
from mmu_pipeline.shards.licences import licence_conflict
from mmu_pipeline.shards.narrow import Loss
from mmu_pipeline.shards.schema import MemberField, Scalar, sample_members, sample_scalars
from mmu_pipeline.shards.splits import SPLITS

MANIFEST_PATH = "manifest.json"
FORMAT_VERSION = 2
PACKAGES = ("astropy", "healpy", "h5py", "numpy", "orjson", "pyarrow", "scipy", "xxhash")
"""Libraries that have a say in the bytes of a set."""
LOCAL_COPY = "a local copy"


@dataclass(frozen=True)
class ShardFile:
    """One tar of a set."""

    name: str
    split: str
    samples: int
    nbytes: int
    digest: str
    """xxh3-128 of the file."""
    sha256: str = ""
    """Where it was asked for."""
    rows_digest: str = ""
    """xxh3-128 of the file with its rows of the index."""


@dataclass(frozen=True)
class Provenance:
    """Where one survey of a set came from."""

    survey: Survey
    form: str
    url: str
    files: int
    """Source files read."""
    checksum: str = ""
    """xxh3-128 of the objects that they hold: other files under the same names give another one."""


@dataclass(frozen=True)
class Account:
    """What became of everything that was there to build from."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """What a reader may want to add up: rows of each survey, candidates, matches, samples."""
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Survey or stage -> reason -> rows that are not in the set."""
    set_aside: Sequence[Mapping[str, str]] = ()
    """Units that failed, each with stage, unit and reason."""
    narrowed: Mapping[str, Loss] = field(default_factory=dict)
    """Member -> what was lost by storing it in a narrower type."""
    matches: Mapping[str, Any] = field(default_factory=dict)
    """Counterpart -> scatter, chance and false-match rate of its matches, with the histogram of separations."""


def manifest_of(recipe: Recipe, files: Mapping[str, Any], provenance: Sequence[Provenance], account: Account) -> dict[str, Any]:
    """The manifest of a set as plain values for JSON. Holds no clock, host, user or credentials: one build, one manifest.

    `files` are its `facts_of_set`.
    """
    surveys = {entry.survey.name: entry.survey for entry in provenance}
    sources = [_survey(entry) for entry in provenance]
    return dict(files) | {
        "name": recipe.name,
        "title": recipe.title or recipe.name,
        "members": [_member(member, account.narrowed.get(member.name, Loss())) for member in sample_members(recipe, surveys)],
        "scalars": [_scalar(scalar) for scalar in sample_scalars(recipe, surveys)],
        "surveys": sources,
        "licence_conflict": licence_conflict(sources),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "counts": dict(account.counts),
        "skipped": {where: dict(reasons) for where, reasons in account.skipped.items()},
        "set_aside": [dict(unit) for unit in account.set_aside],
        "matches": dict(account.matches),
    }


def shards_in(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a manifest says of each shard, split after split."""
    return [shard for part in manifest["splits"].values() for shard in part["shards"]]


def facts_of_set(
    version: str,
    shards: Sequence[ShardFile],
    index: IndexFacts,
    catalog: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str],
) -> dict[str, Any]:
    """The part of a manifest that tells of files, whatever they were made from.

    `catalog`: path of a partition -> its facts; `metadata`: path of a file beside the partitions -> its digest.
    """
    return {
        "format": "mmu_pipeline shards",
        "format_version": FORMAT_VERSION,
        "version": version,
        "samples": index.samples,
        "repeats": index.repeats,
        "set_digest": index.set_digest,
        "digests": "hexadecimal: xxh3-128 of files; xxh3-64 of a sample's bytes in the tar, set_digest is their sum modulo 2**64;"
        " checksums of a survey: xxh3-128 of the objects in its source files",
        "index": {
            "path": INDEX_PATH,
            "nbytes": index.nbytes,
            "digest": index.digest,
            "catalog": dict(catalog),
            "metadata": dict(metadata),
        },
        "splits": {name: _split([shard for shard in shards if shard.split == name]) for name in SPLITS},
        "software": {
            "mmu_pipeline": __version__,
            "python": platform.python_version(),
            **{package: installed(package) for package in PACKAGES},
        },
    }


def _place(url: str) -> str:
    """A URL that may be shown to anyone. Places on this machine have no name for others."""
    host = re.match(r"(?:.*::)?(\w[\w+.-]*)://(?:[^/@]*@)?([^/:]*|\[[^\]]*\])", url)
    if host is None or host[1] in ("file", "local", "memory") or re.fullmatch(r"localhost|127\..*|\[::1\]|0\.0\.0\.0", host[2]):
        return LOCAL_COPY
    return public_url(url)


def dtype_name(type_: pa.DataType) -> str:
    """Our name of an Arrow type of a scalar: string, bool, int64, float32 and so on."""
    return "string" if pa.types.is_string(type_) else np.dtype(type_.to_pandas_dtype()).name


def scalar_type(entry: Mapping[str, Any]) -> pa.DataType:
    """The Arrow type of a scalar of a manifest: what `dtype_name` named."""
    one = pa.string() if entry["dtype"] == "string" else pa.from_numpy_dtype(np.dtype(entry["dtype"]))
    return pa.list_(one, entry["length"]) if "length" in entry else one


def _split(shards: Sequence[ShardFile]) -> dict[str, Any]:
    return {
        "samples": sum(shard.samples for shard in shards),
        "nbytes": sum(shard.nbytes for shard in shards),
        "shards": [{key: value for key, value in asdict(s).items() if key != "split" and value != ""} for s in shards],
    }


def _member(member: MemberField, loss: Loss) -> dict[str, Any]:
    declared = member.field
    facts = {
        "name": member.name,
        "survey": member.survey,
        "field": declared.name,
        "dtype": member.dtype,
        "narrowed_from": declared.dtype if member.is_narrowed else None,
        "scale": member.scale,
        "loss": loss.report if member.is_narrowed else None,
        "shape": list(declared.shape),
        "unit": declared.unit,
        "description": declared.description,
        "bands": list(declared.bands),
        "zero_point": declared.zero_point,
        "pixel_scale_arcsec": declared.pixel_scale_arcsec,
        "mask": declared.mask,
        "ivar": declared.ivar,
        "true_means": "good" if declared.true_means else None,
    }
    return {key: value for key, value in facts.items() if value not in (None, [], "") or key == "shape"}


def _scalar(scalar: Scalar) -> dict[str, Any]:
    fixed = pa.types.is_fixed_size_list(scalar.type)
    facts = {"name": scalar.name, "dtype": dtype_name(scalar.type.value_type if fixed else scalar.type)}
    if fixed:
        facts["length"] = scalar.type.list_size
    texts = {"unit": scalar.unit, "description": scalar.description}
    return facts | {key: text for key, text in texts.items() if text}


def _survey(entry: Provenance) -> dict[str, Any]:
    survey, form = entry.survey, entry.survey.forms[entry.form]
    return {
        "name": survey.name,
        "title": survey.title,
        "modality": survey.modality,
        "release": survey.release,
        "homepage": survey.homepage,
        "licence": survey.licence,
        "citation": survey.citation,
        "bibtex": list(bibtex(survey.citation).values()),
        "form": entry.form,
        "published_at": _place(form.url) if form.url else "",
        "read_from": _place(entry.url),
        "files": entry.files,
        "checksums": [entry.checksum] if entry.checksum else [],
        "known_faults": list(form.faults),
    }

"""The manifest of a set -> README.md: a Hugging Face dataset card with typed features, and what a person should know first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
import yaml

from mmu_pipeline.shards.citations import bibtex
from mmu_pipeline.shards.licences import licence_conflict
from mmu_pipeline.shards.splits import SPLITS
from mmu_pipeline.shards.ustar import file_of

CARD_PATH = "README.md"
ARRAY_FEATURES = {2: "array2_d", 3: "array3_d", 4: "array4_d", 5: "array5_d"}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def card_of(manifest: Mapping[str, Any]) -> str:
    """The card of a set. `load_dataset(folder)` reads its front matter: the files of each split, and the type of every value."""
    present = {name: manifest["splits"][name] for name in SPLITS if manifest["splits"][name]["samples"]}
    return _template().render(
        manifest=manifest,
        front_matter=yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=120),
        splits=present,
        warning=licence_conflict(manifest["surveys"]),
        papers=papers_of(manifest),
        first=next(iter(present), "train"),
    )


def front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The machine-readable head of the card."""
    data_files = [{"split": name, "path": f"{name}-*.tar"} for name in SPLITS if manifest["splits"][name]["samples"]]
    size = next((name for limit, name in SIZES if manifest["samples"] < limit), "n>10M")
    return {
        "pretty_name": manifest["title"],
        "license": "other",
        "license_name": "see-licences-of-the-surveys",
        "tags": ["astronomy", "webdataset", *sorted({survey["modality"] for survey in manifest["surveys"]})],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {"features": features(manifest)},
    }


def features(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Types of a sample as `datasets.Features` writes them. Without, nulls or empty arrays among the first samples mislead it."""
    arrays = [{"name": file_of(member["name"]), **_array(member["dtype"], member["shape"])} for member in manifest["members"]]
    record = {"name": "json", "struct": [_value(scalar) for scalar in manifest["scalars"]]}
    return [*arrays, record, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _array(dtype: str, shape: list[int | str]) -> dict[str, Any]:
    if dtype == "jpeg":
        return {"dtype": "image"}
    if len(shape) == 1:
        return {"list": dtype} | ({} if isinstance(shape[0], str) else {"length": shape[0]})
    if len(shape) in ARRAY_FEATURES and not any(isinstance(size, str) for size in shape):
        return {"dtype": {ARRAY_FEATURES[len(shape)]: {"shape": list(shape), "dtype": dtype}}}
    return {"list": _array(dtype, shape[1:]) if len(shape) > 2 else {"list": dtype}}


def _value(scalar: Mapping[str, Any]) -> dict[str, Any]:
    if "length" in scalar:
        return {"name": scalar["name"], "list": scalar["dtype"], "length": scalar["length"]}
    return {"name": scalar["name"], "dtype": scalar["dtype"]}


def papers_of(manifest: Mapping[str, Any]) -> list[str]:
    """The papers that a set's surveys ask to be cited, as BibTeX, each once."""
    found: dict[str, str] = {}
    for survey in manifest["surveys"]:
        found |= bibtex(survey["citation"])
    return list(found.values())


def percent(measured: Mapping[str, float]) -> str:
    """A share with its error, as `0.35 ± 0.03 %`."""
    return f"{100 * measured['value']:.2g} ± {100 * measured['error']:.1g} %"


def _notes(member: Mapping[str, Any]) -> str:
    """What a table of arrays says of one beside its type: description, companions, scale."""
    notes = {"description": "{}", "mask": "mask: {}", "ivar": "inverse variance: {}", "zero_point": "zero point {} mag",
             "pixel_scale_arcsec": "{} arcsec a pixel", "true_means": "True means {}"}  # fmt: skip
    found = [text.format(member[key]) for key, text in notes.items() if key in member]
    if "loss" in member:
        scale = f", times the scalar {member['scale']}" if "scale" in member else ""
        error = "errors: {rms_error:.2g} rms, {max_error:.2g} at most; {clipped} of {values} values clipped"
        found += [f"rounded from {member['narrowed_from']}{scale}", error.format(**member["loss"])]
    return "; ".join(found)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmu_pipeline.shards", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["notes"] = _notes
    environment.filters["percent"] = percent
    environment.filters["cell"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
    return environment.get_template("card.md.j2")

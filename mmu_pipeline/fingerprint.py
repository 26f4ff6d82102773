"""Everything that a result depends on -> a digest of it, by which the result is known again."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from pydantic import BaseModel

from mmu_pipeline import __version__
from mmu_pipeline.storage import digest


@dataclass(frozen=True)
class Spelled:
    """A part of many fingerprints as its JSON text: to spell out a survey takes a millisecond, too long for each unit."""

    text: str


def spelled(part: Any) -> Spelled:
    """Models, data classes and plain values, for fingerprints that have them in common."""

    def plain(part: Any) -> Any:
        if isinstance(part, BaseModel):
            return part.model_dump(mode="json")
        if hasattr(part, "__dataclass_fields__"):
            return {known.name: getattr(part, known.name) for known in fields(part)}
        raise TypeError(f"no fingerprint of a {type(part).__name__}")

    return Spelled(json.dumps(part, sort_keys=True, default=plain))


def fingerprint(*parts: Any) -> str:
    """A digest of models, data classes and plain values, `spelled` or not, together with the version of this code."""
    texts = [(part if isinstance(part, Spelled) else spelled(part)).text for part in (__version__, *parts)]
    return digest(f"[{', '.join(texts)}]".encode())

"""The licences of a set's surveys -> a sentence where one asks what another does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONS = {
    "not for commercial use, or for research only": re.compile(
        r"\bNC\b|non-?commercial|(?:for|only for|free for) (?:scientific )?research|research (?:use )?only", re.I
    ),
    "models trained on it are to be released": re.compile(r"\bmodels?\b.*\breleas", re.I),
    "to be passed on under the same licence only": re.compile(r"\bSA\b|share-?alike", re.I),
}
"""What a licence may ask beyond credit -> how its text says so."""


def licence_conflict(surveys: Sequence[Mapping[str, Any]]) -> str:
    """What the licences of some surveys (`name`, `licence`) ask of a set of all of them, if they differ in it; else nothing."""
    names = [survey["name"] for survey in surveys]
    bound = {what: [s["name"] for s in surveys if asks.search(s["licence"])] for what, asks in CONDITIONS.items()}
    if all(found in ([], names) for found in bound.values()):
        return ""
    asked = "; ".join(f"{what} ({', '.join(found)})" for what, found in bound.items() if found)
    return f"The licences differ. Of the set as a whole heed all that any of them asks: {asked}."

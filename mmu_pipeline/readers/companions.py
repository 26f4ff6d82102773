"""A data file to the files that belong to it: its redshifts, responses or further arms, by what its form declares."""

from __future__ import annotations

from pathlib import Path

from mmu_pipeline.catalog import Form
from mmu_pipeline.errors import BadInput, BrokenSource


def companion_name(form: Form, role: str, name: str) -> str:
    """Path of a companion, relative to the folder of the file of that name. Raises BadInput for a name that it does not fit."""
    part, instead = form.companions[role]
    if part == "*":
        return instead
    if part not in name:
        raise BadInput(f"the companion {role!r} replaces {part!r}, which the name of the file does not hold", file=name)
    return name.replace(part, instead, 1)


def find_companion(form: Form, role: str, path: Path) -> Path | None:
    """Local path of a companion: at its own place, or in the same folder as in a cache; None where it is not there."""
    beside = companion_name(form, role, path.name)
    places = (path.parent / beside, path.parent / beside.rsplit("/", 1)[-1])
    return next((place for place in places if place.is_file()), None)


def companions_there(form: Form, path: Path) -> list[Path]:
    """Local paths of those companions that are there, in declared order."""
    return [file for role in form.companions if (file := find_companion(form, role, path)) is not None]


def companion(form: Form, role: str, path: Path) -> Path:
    """Local path of a companion. Raises BrokenSource where there is none."""
    found = find_companion(form, role, path)
    if found is None:
        raise BrokenSource(f"the file's {role} is not there", looked_for=companion_name(form, role, path.name))
    return found

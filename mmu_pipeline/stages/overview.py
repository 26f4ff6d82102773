"""A build to what people ask of it: what it would read and do, and how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmu_pipeline.errors import BadInput
from mmu_pipeline.footprint import Footprint
from mmu_pipeline.receipt import valid_receipt
from mmu_pipeline.redaction import public_url
from mmu_pipeline.settings import settings
from mmu_pipeline.sky import Float
from mmu_pipeline.stages.access import Way, expected_way
from mmu_pipeline.stages.build import STAGES, Build, SourceFile, Unit
from mmu_pipeline.stages.moved import Moved, moved_by_survey
from mmu_pipeline.stages.pipeline import units_of
from mmu_pipeline.stages.prospect import CELLS, Prospect, SurveySky, prospect, survey_skies
from mmu_pipeline.stages.receipts import AT_ONCE, set_aside_of, stage_receipts
from mmu_pipeline.storage import each, latest_path


@dataclass(frozen=True)
class SurveyPlan:
    """What a build would read of one survey."""

    survey: str
    form: str
    url: str
    files: int
    nbytes: int | None
    """None where the server does not tell sizes."""
    cells: tuple[int, ...]
    """Order-4 cells of its files; none where the survey is not cut by cell."""
    rows: int | None
    """Rows that were found by a scan of these very files, or else None."""
    open_units: int
    """Scan units without a valid receipt: what would be downloaded."""
    open_bytes: int
    estimated_rows: int | None = None
    """Rows as its files' sizes or its declaration let expect, where none were counted."""
    area_deg2: float | None = None
    """Of its footprint; None where it is not known before a scan."""
    footprint_order: int | None = None
    """HEALPix order to which the footprint is known: 4 from a listing, finer from rows."""
    ways: dict[Way, int] = field(default_factory=dict)
    """How many of its files will be read in what way; by `ranges` only where that will turn out to cost less than a copy."""


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    recipe: str
    root: str
    surveys: tuple[SurveyPlan, ...]
    prospect: Prospect = field(default_factory=Prospect)
    footprints: Mapping[str, Footprint | None] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON: footprints as MOCs, every cell with what it promises."""
        surveys = []
        for survey in self.surveys:
            footprint = self.footprints[survey.survey]
            surveys.append(asdict(survey) | {"moc": footprint and footprint.moc.serialize("json")})
        overlap = self.prospect.overlap
        return {
            "recipe": self.recipe,
            "root": self.root,
            "surveys": surveys,
            "overlap_deg2": overlap and round(overlap.area_deg2, 3),
            "overlap_moc": overlap and overlap.moc.serialize("json"),
            "matches_are": "counted" if self.prospect.matched else "expected at most",
            "matches": self.prospect.matches,
            "cells": [asdict(cell) | {"matches_per_gb": cell.per_gb} for cell in self.prospect.cells],
        }


@dataclass(frozen=True)
class StageStatus:
    """How far one stage has come."""

    stage: str
    units: int
    done: int
    partial: int
    set_aside: int
    rows: int
    skipped: dict[str, int]
    """Rows left out, by reason."""


@dataclass(frozen=True)
class Status:
    """How far a recipe's build under a root has come."""

    recipe: str
    stages: tuple[StageStatus, ...]
    set_aside: tuple[dict[str, str], ...]
    """stage, unit and reason of each unit that is not whole."""
    version: str | None
    """The published version."""
    moved: tuple[Moved, ...] = ()
    """How its remote files were read, survey by survey."""


def plan(build: Build) -> Plan:
    """List the sources of a build and compare them with the receipts. Raises Unreachable; no source file is read."""
    units: dict[str, list[Unit]] = {name: [] for name in build.recipe.survey_names}
    for unit in units_of("scan", build):
        units[unit.name.split("/")[0]].append(unit)
    surveys = {name: _survey_plan(build, name, found) for name, found in units.items()}
    nbytes = {name: _bytes_by_cell(found) for name, found in units.items()}
    skies = survey_skies(build, nbytes, {name: survey.rows is not None for name, survey in surveys.items()})
    return Plan(
        build.recipe.name,
        build.root.url,
        tuple(replace(survey, **_on_the_sky(skies[name])) for name, survey in surveys.items()),
        prospect(build, skies),
        {name: sky.footprint for name, sky in skies.items()},
    )


def write_overlap(found: Plan, path: Path) -> None:
    """Write the sky that all surveys share as a MOC, FITS or JSON by the file's name.

    Raises BadInput where a footprint is not known yet.
    """
    if found.prospect.overlap is None:
        unknown = ", ".join(name for name, footprint in found.footprints.items() if footprint is None)
        raise BadInput(f"the footprint is not known before a scan: {unknown}", hint="build up to its object table first")
    kind = "json" if path.suffix == ".json" else "fits"
    path.parent.mkdir(parents=True, exist_ok=True)
    found.prospect.overlap.moc.save(str(path), format=kind, overwrite=True)


def _files(unit: Unit) -> list[SourceFile]:
    return [file for file in unit.inputs if isinstance(file, SourceFile) and file.state == "listed"]


def _survey_plan(build: Build, name: str, units: list[Unit]) -> SurveyPlan:
    source, cells = build.sources[name], np.zeros(CELLS, bool)
    files, nbytes, rows, found, open_bytes = 0, 0, 0, 0, 0
    form, remote = build.surveys[name].forms[source.form], settings().remote
    unknown, ways = False, Counter[Way]()
    for start in range(0, len(units), AT_ONCE):
        part = units[start : start + AT_ONCE]
        known = each(build.root, lambda unit: valid_receipt(build.root, "scan", unit.name, unit.fingerprint), part)
        for unit, receipt in zip(part, known, strict=True):
            for file in _files(unit):
                files, nbytes = files + 1, nbytes + (file.size or 0)
                unknown |= file.size is None
                ways[expected_way(form, file, remote)] += 1
                cells[list(file.cells or ())] = True
            rows += receipt.rows_out if receipt else 0
            found += receipt is not None
            open_bytes += 0 if receipt else unit.weight
    return SurveyPlan(
        survey=name,
        form=source.form,
        url=public_url(source.url),
        files=files,
        nbytes=None if unknown else nbytes,
        cells=tuple(np.flatnonzero(cells).tolist()),
        rows=rows if found == len(units) else None,
        open_units=len(units) - found,
        open_bytes=open_bytes,
        ways=dict(sorted(ways.items())),
    )


def _bytes_by_cell(units: list[Unit]) -> Float:
    """Bytes of files by order-4 cell, shape (3072,); a file whose size is not told counts as one byte."""
    nbytes = np.zeros(CELLS)
    for unit in units:
        for file in _files(unit):
            if file.cells:
                nbytes[list(file.cells)] += (file.size or 1) / len(file.cells)
    return nbytes


def _on_the_sky(sky: SurveySky) -> dict[str, Any]:
    """What a plan says of a survey's place and number."""
    footprint = sky.footprint
    return {
        "estimated_rows": None if sky.counted or sky.total is None else int(sky.total),
        "area_deg2": None if footprint is None else round(footprint.area_deg2, 3),
        "footprint_order": None if footprint is None else footprint.order,
    }


def status(build: Build) -> Status:
    """Read the receipts of a build. Writes nothing."""
    stages, set_aside, readers = [], [], []
    for stage in STAGES:
        receipts = stage_receipts(build, stage)
        skipped: Counter[str] = Counter()
        for receipt in receipts:
            skipped.update(receipt.skipped)
        states = Counter(receipt.status for receipt in receipts)
        rows = sum(receipt.rows_out for receipt in receipts)
        stages.append(
            StageStatus(stage, len(receipts), states["done"], states["partial"], states["set_aside"], rows, dict(skipped))
        )
        set_aside += set_aside_of(receipts)
        readers += receipts if stage in ("scan", "samples") else []
    latest = latest_path(build.recipe.name)
    version = build.root.read_bytes(latest).decode().strip() if build.root.exists(latest) else None
    return Status(build.recipe.name, tuple(stages), tuple(set_aside), version, moved_by_survey(readers))

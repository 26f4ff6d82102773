"""A build to what people ask of it: what it would read and do, and how far it has come."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mmu_pipeline.redaction import public_url
from mmu_pipeline.stages.build import STAGES, Build, SourceFile, Unit
from mmu_pipeline.stages.pipeline import units_of
from mmu_pipeline.stages.receipts import set_aside_of, stage_receipts
from mmu_pipeline.storage import latest_path, valid_receipt


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


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    recipe: str
    root: str
    surveys: tuple[SurveyPlan, ...]


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


def plan(build: Build) -> Plan:
    """List the sources of a build and compare them with the receipts. Raises Unreachable; writes nothing."""
    units: dict[str, list[Unit]] = {name: [] for name in build.recipe.survey_names}
    for unit in units_of("scan", build):
        units[unit.name.split("/")[0]].append(unit)
    return Plan(build.recipe.name, build.root.url, tuple(_survey_plan(build, name, units[name]) for name in units))


def _survey_plan(build: Build, name: str, units: list[Unit]) -> SurveyPlan:
    source = build.sources[name]
    files = [file for unit in units for file in unit.inputs if isinstance(file, SourceFile) and file.state == "listed"]
    sizes = [file.size for file in files]
    known = {unit.name: valid_receipt(build.root, "scan", unit.name, unit.fingerprint) for unit in units}
    found = [receipt for receipt in known.values() if receipt is not None]
    return SurveyPlan(
        survey=name,
        form=source.form,
        url=public_url(source.url),
        files=len(files),
        nbytes=None if None in sizes else sum(size for size in sizes if size is not None),
        cells=tuple(sorted({cell for file in files for cell in file.cells or ()})),
        rows=sum(receipt.rows_out for receipt in found) if len(found) == len(units) else None,
        open_units=len(units) - len(found),
        open_bytes=sum(unit.weight for unit in units if known[unit.name] is None),
    )


def status(build: Build) -> Status:
    """Read the receipts of a build. Writes nothing."""
    stages, set_aside = [], []
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
    latest = latest_path(build.recipe.name)
    version = build.root.read_bytes(latest).decode().strip() if build.root.exists(latest) else None
    return Status(build.recipe.name, tuple(stages), tuple(set_aside), version)

"""A build to the units of each stage, from listings and from the receipts of the stage before; each unit to its outcome."""

from __future__ import annotations

import errno
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import healpy as hp
import numpy as np

from mmu_pipeline.errors import BadInput, PipelineError
from mmu_pipeline.fingerprint import fingerprint, spelled
from mmu_pipeline.log import logged
from mmu_pipeline.receipt import Receipt, valid_receipt, write_receipt
from mmu_pipeline.sky import CELL_ORDER
from mmu_pipeline.stages import keys, margins, match, objects, samples, scan, shards
from mmu_pipeline.stages.build import Build, Outcome, SourceFile, Unit, clocked
from mmu_pipeline.stages.download import companion_versions, list_files, read_text_beside
from mmu_pipeline.stages.listing import write_listing
from mmu_pipeline.stages.match_units import key_units, match_units, sample_units
from mmu_pipeline.stages.partitions import describe_matches, describe_objects, object_partitions
from mmu_pipeline.stages.receipts import by_survey, read_receipts, stage_receipts, write_stage
from mmu_pipeline.stages.repeats import is_reduced

STAGE_FUNCTIONS: Mapping[str, Callable[[Unit, Build], Receipt]] = {
    "scan": scan.run,
    "objects": objects.run,
    "keys": keys.run,
    "match": match.run,
    "samples": samples.run,
    "shards": shards.run,
    "margins": margins.run,
}
FILES_PER_SCAN = 64
"""Files of one scan unit, where a survey is not cut by cell."""


def run_unit(unit: Unit, build: Build) -> Outcome:
    """Run one unit, or find that its receipt already vouches for the result.

    What is wrong with its data sets it aside, with the reason in its receipt. Raises BadInput for what the user must correct
    and PipelineError when the disk is full: neither is the unit's own fault.
    """
    known = valid_receipt(build.root, unit.stage, unit.name, unit.fingerprint)
    if known is not None:
        return Outcome(unit, "reused", known)
    receipt = write_receipt(build.root, clocked(lambda: _work(unit, build)))
    return Outcome(unit, "set_aside" if receipt.status == "set_aside" else "done", receipt)


def _work(unit: Unit, build: Build) -> Receipt:
    try:
        with logged(build.recipe.name, unit):
            return STAGE_FUNCTIONS[unit.stage](unit, build)
    except BadInput:
        raise
    except PipelineError as error:
        return _set_aside(unit, str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PipelineError("the disk is full", unit=f"{unit.stage} {unit.name}", root=build.root.url,
                                hint="make room and run again: what is finished is kept") from error  # fmt: skip
        return _set_aside(unit, _unexpected(error))
    except Exception as error:  # a unit's odd data must not end a run of thousands: it is set aside, with the place in the code
        return _set_aside(unit, _unexpected(error))


def _set_aside(unit: Unit, reason: str) -> Receipt:
    return Receipt(unit.stage, unit.name, unit.fingerprint, status="set_aside", reason=reason)


def _unexpected(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__}: {error}\n  at: {last.filename.rsplit('/', 1)[-1]}:{last.lineno} in {last.name}"


def units_of(stage: str, build: Build) -> list[Unit]:
    """What a stage must do, along the sky. Stages before it must be finished."""
    return {
        "scan": _scan_units,
        "objects": _object_units,
        "keys": key_units,
        "match": match_units,
        "samples": _open_sample_units,
        "shards": shards.units,
    }[stage](build)


def finish_stage(stage: str, build: Build, outcomes: Sequence[Outcome]) -> None:
    """Write what belongs to a stage as a whole: catalog metadata, the plan of the shards, last its receipts together.

    Where nothing has changed since it was finished, nothing is written.
    """
    receipts = sorted((outcome.receipt for outcome in outcomes), key=lambda receipt: receipt.unit)
    if stage == "samples":
        planned = [outcome.unit for outcome in outcomes] or sample_units(build)  # none are open where the version is published
        shards.write_plan(build, receipts, planned)
        write_stage(build, stage, receipts or read_receipts(build, stage, sorted(unit.name for unit in planned)))
        return
    if all(outcome.status == "reused" for outcome in outcomes) and receipts == stage_receipts(build, stage):
        return
    if stage == "scan":
        write_listing(build, (outcome.unit for outcome in outcomes))
    elif stage == "objects":
        describe_objects(build, receipts)
    elif stage == "match":
        describe_matches(build, receipts, match.match_rule(build))
    write_stage(build, stage, receipts)


def _scan_units(build: Build) -> list[Unit]:
    units: list[Unit] = []
    primary_files = _listed(build, build.recipe.primary.survey, _wanted_cells(build, build.recipe.primary.survey, build.cells))
    footprint = build.cells
    if build.surveys[build.recipe.primary.survey].forms[build.sources[build.recipe.primary.survey].form].cut_by_cell:
        footprint = frozenset(cell for file in primary_files for cell in file.cells or ())
        footprint = footprint if build.cells is None else footprint & build.cells
    for name, survey in build.surveys.items():
        said, form = spelled(survey), survey.forms[build.sources[name].form]
        files = (
            primary_files if name == build.recipe.primary.survey else _listed(build, name, _wanted_cells(build, name, footprint))
        )
        beside = companion_versions(form, files) if form.companions else {}
        groups: dict[str, list[SourceFile]] = defaultdict(list)
        for number, file in enumerate(files):
            groups[_cell_name(file) if form.cut_by_cell else f"all-{number // FILES_PER_SCAN:04d}"].append(file)
        for key, group in groups.items():
            listing = [(file.relative, file.size, file.tag, file.sha256, file.state, beside.get(file.relative)) for file in group]
            cells = group[0].cells or range(0)
            units.append(
                Unit("scan", f"{name}/{key}", cells[0] if cells else None, sum(file.size or 1 for file in group), tuple(group),
                     fingerprint("scan", said, build.sources[name].form, listing), len(cells))
            )  # fmt: skip
    return sorted(units, key=lambda unit: (unit.name.split("/")[0], unit.cell or 0, unit.name))


def _cell_name(file: SourceFile) -> str:
    """Name of the cells of a file, as `_missing_cells` reads it: 1104, 1104-1107, or "other"."""
    if file.cells is None:
        return "other"
    return str(file.cells[0]) if len(file.cells) == 1 else f"{file.cells[0]}-{file.cells[-1]}"


def _listed(build: Build, name: str, cells: frozenset[int] | None) -> list[SourceFile]:
    """Files of a survey, those on its list of members marked from those that are not."""
    source = build.sources[name]
    form = build.surveys[name].forms[source.form]
    files = list_files(form, source.url, source.mirrors, cells)
    if form.member_list is None:
        return files
    members = set(read_text_beside(source.url, form.member_list).split())
    marked = [file if file.relative.rsplit("/", 1)[-1] in members else replace(file, state="unlisted") for file in files]
    there = {file.relative.rsplit("/", 1)[-1] for file in files}
    return marked + [
        SourceFile(member, (f"{source.url.rstrip('/')}/{member}",), state="missing") for member in sorted(members - there)
    ]


def _wanted_cells(build: Build, name: str, footprint: frozenset[int] | None) -> frozenset[int] | None:
    """Order-4 cells of a survey that a build of `footprint` needs: its margin, and whole partitions of the object table.

    None for all: where rows are found by key, they may lie anywhere.
    """
    survey = build.surveys[name]
    if footprint is None or not survey.forms[build.sources[name].form].cut_by_cell:
        return None
    primary, others = build.recipe.primary, build.recipe.counterparts
    ours = name == primary.survey
    if any(other.on and (name == other.survey or (ours and other.pick == "mutual")) for other in others):
        return None
    reaching = not ours or is_reduced(primary, survey) or any(other.pick == "mutual" for other in others)
    near = _with_neighbours(footprint) if reaching else footprint
    if survey.partition_order < CELL_ORDER:
        shift = 2 * (CELL_ORDER - survey.partition_order)
        near = frozenset(
            cell for pixel in {cell >> shift for cell in near} for cell in range(pixel << shift, (pixel + 1) << shift)
        )
    return near


def _with_neighbours(cells: Iterable[int]) -> frozenset[int]:
    """Cells and all that touch them: no margin reaches further."""
    pixels = np.fromiter(cells, np.int64)
    around = hp.get_all_neighbours(1 << CELL_ORDER, pixels, nest=True)
    return frozenset(int(pixel) for pixel in np.union1d(pixels, around[around >= 0]))


def _object_units(build: Build) -> list[Unit]:
    pieces: dict[tuple[str, int], list[Receipt]] = defaultdict(list)
    for receipt in stage_receipts(build, "scan"):
        for pixel in receipt.facts.get("partitions", {}):
            pieces[receipt.unit.split("/")[0], int(pixel)].append(receipt)
    wanted = {name: _wanted_cells(build, name, build.cells) for name in build.surveys}
    said = {name: spelled(survey) for name, survey in build.surveys.items()}
    return [
        Unit("objects", f"{name}/{pixel}", _first_cell(build.surveys[name].partition_order, pixel),
             100 * sum(receipt.facts["partitions"][str(pixel)] for receipt in receipts),
             tuple(objects.Piece(scan.piece_path(r.unit), r.facts["digest"]) for r in receipts),
             fingerprint("objects", said[name], pixel, [(r.unit, r.facts["digest"], r.fingerprint) for r in receipts]),
             max(1, 4 ** (CELL_ORDER - build.surveys[name].partition_order)))
        for (name, pixel), receipts in sorted(pieces.items())
        if _is_complete(wanted[name], build.surveys[name].partition_order, pixel)
    ]  # fmt: skip


def _is_complete(wanted: frozenset[int] | None, order: int, pixel: int) -> bool:
    """Whether all of a partition's source cells are in this build: rows that strayed into others wait for theirs."""
    return wanted is None or _first_cell(order, pixel) in wanted


def _first_cell(order: int, pixel: int) -> int:
    """The order-4 cell that holds the start of a partition."""
    shift = 2 * (CELL_ORDER - order)
    return pixel << shift if shift >= 0 else pixel >> -shift


def margin_units(build: Build, arcsec: float | None = None) -> list[Unit]:
    """What writing the margin catalogs of a recipe's counterparts must do, as wide as its matches reach or as it is said."""
    stored, matched = by_survey(stage_receipts(build, "objects")), stage_receipts(build, "match")
    units = []
    for name in build.recipe.survey_names[1:]:
        partitions = list(object_partitions(build, name, stored[name]))
        units += margins.margin_units(name, partitions, arcsec or margins.reach_of(matched, name))
    return units


def _open_sample_units(build: Build) -> list[Unit]:
    """Sample units, unless the version that they give is published: their pieces may be gone by then."""
    units = sample_units(build)
    return [] if shards.is_published(build, units) else units

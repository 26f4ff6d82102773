"""A plan -> what people read of it on a terminal: surveys, the sky that they share, the cells that promise most."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from mmu_pipeline.stages.overview import Plan, SurveyPlan
from mmu_pipeline.stages.prospect import CellPlan, Prospect
from mmu_pipeline.tables import counted, size, table


def plan_table(plan: Plan, top: int = 10) -> Group:
    """What a build would read, where its surveys lie, and the best cells."""
    columns = ("survey", "form", "files", "cells", "sky", "rows", "size", "to read", "read")
    places = [("from", survey.survey, survey.url) for survey in plan.surveys] + [("into", "", plan.root)]
    return Group(
        table(columns, map(_survey_row, plan.surveys), right=columns[2:-1]),
        "",
        *_prospect_lines(plan.prospect, top),
        *(Text(f"{word}  {name} {url}") for word, name, url in places),
    )


def _survey_row(survey: SurveyPlan) -> tuple[str, ...]:
    rows = counted(survey.rows)
    if survey.rows is None and survey.estimated_rows is not None:
        rows = f"~ {counted(survey.estimated_rows)}"
    sky = "not scanned yet" if survey.area_deg2 is None else area(survey.area_deg2)
    to_read = size(survey.open_bytes) if survey.open_units else "nothing"
    cells = counted(len(survey.cells) or None)
    ways = ", ".join(survey.ways)
    return survey.survey, survey.form, counted(survey.files), cells, sky, rows, size(survey.nbytes), to_read, ways


def area(deg2: float) -> str:
    """Square degrees, three digits."""
    return f"{deg2:,.0f} deg²" if deg2 >= 100 else f"{deg2:.3g} deg²"


def _prospect_lines(found: Prospect, top: int) -> list[RenderableType]:
    """What the surveys share, matches to be found, and the best cells."""
    lines: list[RenderableType] = []
    limit = "" if found.matched else "at most "
    if found.overlap is not None and found.matches:
        shown = f"as far as pixels of order {found.overlap.order} show"
        lines.append(f"[bold]{area(found.overlap.area_deg2)}[/] of sky are in all surveys, {shown}")
    if found.matches:
        names = ", ".join(f"[bold]{counted(count)}[/] {escape(name)}" for name, count in found.matches.items())
        nbytes = sum(cell.nbytes for cell in found.cells)
        lines += [f"matches: {limit}{names}; arrays to move: {limit}{size(nbytes) or '0 B'}", ""]
    if found.cells and top:
        columns = ("cell", "objects", "in all", *(f"{limit}{name}" for name in found.matches), "arrays", "complete per GB")
        lines.append(table(columns, (_cell_row(cell, found) for cell in found.cells[:top]), right=columns))
        more = f"the best of {counted(len(found.cells))} cells; --json gives all" if len(found.cells) > top else ""
        lines += [Text(more, "dim"), ""] if more else [""]
    return lines


def _cell_row(cell: CellPlan, found: Prospect) -> tuple[str, ...]:
    overlap = area(cell.overlap_deg2) if found.overlap else ""
    per_gb = "" if cell.per_gb is None else f"{cell.per_gb:,.0f}"
    return str(cell.cell), counted(cell.rows), overlap, *map(counted, cell.matches.values()), size(cell.nbytes), per_gb

"""Survey files to the page that lists them: `python -m mmu_pipeline.report.survey_table > docs/surveys.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from mmu_pipeline.catalog import MODALITIES, Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.fields import Field
from mmu_pipeline.tables import counted, size

INTRODUCTION = """# Surveys

What can be named in a recipe. `mmu survey NAME` prints every field of one with its unit. Sizes are those of the arrays of all
rows as they stand in a sample, uncompressed; lengths that vary are taken as typical. Where a published form is wrong, what is
read from it is set right as far as it can be; its faults are listed below and on every card.

This page is written by `python -m mmu_pipeline.report.survey_table`.
"""


ONLY_MMU = """Of these surveys the files that they release themselves are not read, only what the MMU has made of them: {names}.
A reader of mosaics or of calibrated exposures cannot be tested without a real file of each. All others are also read as
the survey releases them; where their catalogs are tables of their own that are not joined, the faults below say so."""

HEADINGS = {"image": "Images", "spectrum": "Spectra", "cube": "Cubes", "light_curve": "Light curves", "table": "Tables"}


def markdown(surveys: Iterable[Survey]) -> str:
    """The page: one table per modality, then the faults of each form."""
    known = sorted(surveys, key=lambda survey: (MODALITIES.index(survey.modality), survey.name))
    parts = [INTRODUCTION]
    for modality in MODALITIES:
        rows = [survey for survey in known if survey.modality == modality]
        if rows:
            parts.append(f"## {HEADINGS[modality]}\n\n{_table(rows)}\n")
    names = ", ".join(f"`{survey.name}`" for survey in known if survey.only_mmu)
    parts.append(f"## Only the forms of the MMU are read\n\n{ONLY_MMU.format(names=names)}\n")
    parts.append("## Known faults of the sources\n")
    parts += [_faults(survey) for survey in known if any(form.faults for form in survey.forms.values())]
    return "\n".join(parts)


def _table(surveys: Iterable[Survey]) -> str:
    names = ("survey", "forms read", "members", "columns", "rows", "size", "licence")
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for survey in surveys:
        forms = ", ".join(f"{name} ({form.reader})" if name != form.reader else name for name, form in survey.forms.items())
        nbytes = sum(field.nominal_bytes for field in survey.members if field.is_carried(next(iter(survey.forms))))
        whole = "" if survey.expected_rows is None else size(nbytes * survey.expected_rows)
        cells = (
            f"`{survey.name}` {survey.title}, {survey.release}", forms, "; ".join(map(_member, survey.members)),
            str(len(survey.columns)), counted(survey.expected_rows), whole, survey.licence,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)


def _member(field: Field) -> str:
    shape = " x ".join(map(str, field.shape))
    return f"`{field.name}` {shape}" + (f" [{field.unit}]" if field.unit else "")


def _faults(survey: Survey) -> str:
    lines = [f"**{survey.name}**\n"]
    lines += [f"- {name}: {fault}" for name, form in survey.forms.items() for fault in form.faults]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown(load_surveys().values()))

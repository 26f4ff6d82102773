"""The page of surveys in the documentation is what the survey files say."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from mmu_pipeline import tables
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.report.survey_table import markdown

SURVEYS = load_surveys()


def test_the_page_is_not_stale() -> None:
    page = Path(__file__).parents[1] / "docs/surveys.md"
    assert page.read_text() == markdown(SURVEYS.values()), "run: python -m mmu_pipeline.report.survey_table > docs/surveys.md"


def test_every_survey_has_a_row_with_its_forms_and_members() -> None:
    rows = [line for line in markdown(SURVEYS.values()).splitlines() if line.startswith("| `")]
    assert len(rows) == len(SURVEYS)
    for name, survey in SURVEYS.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` ")]
        assert row.count("|") == 8
        assert all(field.name in row for field in survey.members)
        assert all(form in row for form in survey.forms)


@pytest.mark.parametrize("name", SURVEYS)
def test_the_page_of_a_survey_prints_what_is_declared(name: str) -> None:
    survey = SURVEYS[name]
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.survey_page(survey))
    text = console.export_text()
    for field in survey.fields:
        assert all(fact in text for fact in field.facts), field.name
    if survey.epoch is not None:
        assert f"positions are of {survey.epoch if isinstance(survey.epoch, str) else f'J{survey.epoch:g}'}" in text


@pytest.mark.parametrize("name", [name for name, survey in SURVEYS.items() if survey.modality == "spectrum"])
def test_every_spectrum_says_whether_its_wavelengths_are_in_vacuum_or_air(name: str) -> None:
    for field in SURVEYS[name].members:
        assert (field.medium is not None) == ("wavelength" in field.name), field.name

"""What the documents show is what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_recipe, load_surveys
from mmu_pipeline.yaml_file import load_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = blocks("README.md", "yaml")
    path = tmp_path / "my-galaxies.yaml"
    path.write_text(text)
    assert load_recipe(str(path), load_surveys()).name == "my-galaxies"


def test_the_surveys_of_the_guide_are_some(tmp_path: Path) -> None:
    for text, name in zip(blocks("docs/adding-a-survey.md", "yaml"), ("mystars", "mysurvey"), strict=True):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        assert load_surveys(tmp_path)[name] == load_yaml(path, Survey)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []

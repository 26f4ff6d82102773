"""What the card and the manifest say of the surveys of a set: papers as BibTeX, licences that do not go together."""

import json
import re

import pytest

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.shards.card import card_of
from mmu_pipeline.shards.citations import bibtex
from mmu_pipeline.shards.licences import licence_conflict
from tests.small_set import make_small_set

SURVEYS = load_surveys()


def surveys(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "licence": SURVEYS[name].licence} for name in names]


@pytest.mark.parametrize("name", SURVEYS)
def test_every_paper_of_a_shipped_survey_becomes_an_entry(name):
    citation = SURVEYS[name].citation
    entries = bibtex(citation)
    assert len(entries) == citation.count(";") + 1
    for key, entry in entries.items():
        assert entry.startswith((f"@article{{{key},", f"@misc{{{key},"))
        assert entry.count("{") == entry.count("}")
        assert re.search(r"  author = \{.+\},\n  year = \{\d{4}\},", entry)


def test_an_article_has_what_bibtex_wants_of_it():
    (gaia,) = bibtex("Gaia Collaboration, Vallenari et al. 2023, A&A 674, A1").items()
    assert gaia[0] == "GaiaCollaboration_2023_AA_674_A1"
    assert gaia[1].splitlines()[1:-1] == [
        "  author = {{Gaia Collaboration} and Vallenari and others},",
        "  year = {2023},",
        r"  journal = {A\&A},",
        "  volume = {674},",
        "  pages = {A1}",
    ]


def test_other_forms_of_a_citation():
    entries = [*bibtex("Leung & Bovy 2019, MNRAS 483, 3255; 2020, arXiv:2004.00001; A Team 2013, Their Handbook; none").values()]
    assert "author = {Leung and Bovy}" in entries[0]
    assert "author = {Leung and Bovy}" in entries[1]
    assert "eprint = {2004.00001},\n  archiveprefix = {arXiv}" in entries[1]
    assert "howpublished = {Their Handbook}" in entries[2]
    assert entries[3] == "@misc{none,\n  note = {none}\n}"


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (("sdss", "desi"), ""),
        (("gz_hubble",), ""),
        (("hsc", "sdss"), "not for commercial use, or for research only (hsc)"),
        (("hsc", "gz_hubble"), "models trained on it are to be released (gz_hubble)"),
        (("sdss", "gaia"), "to be passed on under the same licence only (gaia)"),
    ],
)
def test_licences_that_ask_different_things_are_told(names, asked):
    found = licence_conflict(surveys(*names))
    assert asked in found
    assert bool(found) == bool(asked)


def test_the_card_and_the_manifest_of_a_set_say_so(tmp_path):
    made = make_small_set(tmp_path)
    card, manifest = ((made.path / name).read_text() for name in ("README.md", "manifest.json"))
    said = json.loads(manifest)
    assert "research only (curves)" in said["licence_conflict"]
    assert f"> **Licences.** {said['licence_conflict']}" in card
    assert "```bibtex\n@misc{Someone2020,\n  note = {Someone 2020}\n}\n\n@misc{Another2021," in card
    assert said["surveys"][0]["bibtex"] == ["@misc{Someone2020,\n  note = {Someone 2020}\n}"]
    assert [survey["checksums"] for survey in said["surveys"]] == [["imager" * 4], ["curves" * 4]]
    assert "3 files, whose objects have the digest imagerimagerimagerimager\n" in card
    assert card_of(said) == card

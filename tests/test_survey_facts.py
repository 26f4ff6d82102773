"""What every shipped survey must say of its fields: systems of time and magnitude, medium, scales, zero points, polarity."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from astropy import units
from rich.console import Console

from mmu_pipeline import tables
from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.fields import Field

SURVEYS = load_surveys()
PHYSICAL = {"nmgy", "10 nJy", "1 / nmgy2", "0.01 / nJy2"}


def with_unit(unit: str) -> Iterator[tuple[Survey, Field]]:
    for survey in SURVEYS.values():
        yield from ((survey, field) for field in survey.fields if field.unit == unit)


def test_every_unit_is_one_of_astropy() -> None:
    for survey in SURVEYS.values():
        for field in survey.fields:
            assert units.Unit(field.unit) is not None


def test_every_wavelength_is_in_vacuum_or_air() -> None:
    found = [(survey, field) for survey, field in with_unit("Angstrom") if "wavelength" in field.name]
    assert len(found) >= 8
    for survey, field in found:
        assert field.medium in ("vacuum", "air"), f"{survey.name} {field.name}"


def test_every_time_says_what_it_counts_by_which_clock() -> None:
    durations = re.compile(r"^Days (since|from) |^Period")
    found = [(survey, field) for survey, field in with_unit("d") if not (field.error_of or durations.match(field.description))]
    assert len(found) >= 20
    for survey, field in found:
        assert field.time_system, f"{survey.name} {field.name}"
        assert re.match(r"(MJD|JD|BJD) (UTC|TDB|TT|TAI)( - \d+)?$|MJD$|HJD$|not documented$", field.time_system)
    for survey in SURVEYS.values():
        if survey.modality == "light_curve":
            assert survey.field("time").time_system, survey.name


def test_every_magnitude_names_its_system() -> None:
    """AB, Vega, or that of the telescope; not errors, extinctions, and differences of magnitudes of one system."""
    words = (
        "error|E(B-V)|reddening|extinction|percentile of|modulus|correction| less |difffuv|diffnuv|scatter|deviation|amplitude"
    )
    exempt = re.compile("|".join(map(re.escape, words.split("|"))), re.IGNORECASE)
    found = 0
    for survey, field in with_unit("mag"):
        if field.error_of or field.name.endswith("err") or exempt.search(field.description):
            continue
        found += 1
        assert re.search(r"\bAB\b|\bVega\b|natural system|standard system", field.description), f"{survey.name} {field.name}"
    assert found > 100
    for survey in SURVEYS.values():
        for field in survey.fields:
            if field.zero_point is not None and "err" not in field.name and not field.ivar and field.unit == "":
                assert re.search(r"\bAB\b|\bVega\b|natural", field.description), f"{survey.name} {field.name}"


@pytest.mark.parametrize("survey", [survey for survey in SURVEYS.values() if survey.modality == "image"], ids=lambda s: s.name)
def test_every_image_has_bands_scale_psf_and_flux_unit(survey: Survey) -> None:
    names = {field.name for field in survey.fields}
    for field in survey.members:
        if field.name not in ("image", "jpg"):
            continue
        assert len(field.bands) == (field.shape[-1] if field.is_encoded else field.shape[0])
        if field.dtype in ("uint8", "jpeg"):
            assert "scaled for the eye" in field.description or "composite" in survey.summary + str(survey.forms), survey.name
            continue
        assert field.pixel_scale_arcsec or "pixel_scale" in names
        assert names & {"psf_fwhm", "fwhm"}
        if field.unit not in PHYSICAL:
            assert field.zero_point is not None or "divided" in field.description, survey.name


def test_masks_say_which_way_they_are_meant() -> None:
    masks = {field.mask for survey in SURVEYS.values() for field in survey.fields if field.mask}
    assert masks
    for survey in SURVEYS.values():
        for field in survey.members:
            if field.dtype == "bool" and field.name in masks:
                assert field.true_means in ("good", "bad"), f"{survey.name} {field.name}"


def test_motions_have_units_and_an_epoch() -> None:
    for survey in SURVEYS.values():
        if survey.motion is not None:
            assert survey.epoch is not None
            assert {survey.field(name).unit for name in (survey.motion.pmra, survey.motion.pmdec)} == {"mas/yr"}


@pytest.mark.parametrize("survey", SURVEYS.values(), ids=lambda survey: survey.name)
def test_the_page_of_a_survey_prints_all_of_it(survey: Survey) -> None:
    console = Console(width=400, no_color=True, file=io.StringIO())
    console.print(tables.survey_page(survey))
    page = console.file.getvalue()
    assert "positions are of" in page or "epoch of its positions is not" in page
    for field in survey.fields:
        for fact in (field.medium, field.time_system, field.unit):
            assert fact is None or fact in page, field.name
    assert all(len(fault) < 20 or fault[:20] in page for form in survey.forms.values() for fault in form.faults)

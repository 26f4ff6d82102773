"""Surveys as data: what is shipped is sound, and what is wrong is named by file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmu_pipeline.catalog import Counterpart, Form, Selection, Survey, repeats_of
from mmu_pipeline.catalog_files import load_recipe, load_surveys
from mmu_pipeline.errors import BadInput
from mmu_pipeline.fields import Field
from mmu_pipeline.readers import FORMATS, reader
from mmu_pipeline.yaml_file import load_yaml

SURVEYS = load_surveys()
NOT_COUNTED = ("tess_qlp", "tess_tglc")
"""Surveys whose number of rows nobody has published."""
SUPERNOVAE = ("ps1_sne_ia", "des_y3_sne_ia", "snls", "swift_sne_ia", "foundation", "csp", "cfa3", "cfa3_standard", "yse")


def test_the_surveys_of_the_first_release_are_shipped() -> None:
    assert {*SUPERNOVAE, "hsc", "sdss", "gaia"} <= set(SURVEYS)


@pytest.mark.parametrize("name", SURVEYS)
def test_every_shipped_field_says_what_it_is(name: str) -> None:
    survey = SURVEYS[name]
    assert all(field.description for field in survey.fields)
    assert all((survey.title, survey.summary, survey.citation, survey.licence, survey.homepage))
    assert survey.expected_rows or name in NOT_COUNTED
    for form in survey.forms.values():
        assert form.reader in FORMATS
        assert reader(form.reader).read_objects
        assert form.faults


@pytest.mark.parametrize("name", SUPERNOVAE)
def test_light_curves_have_times_in_double_precision_and_declared_bands(name: str) -> None:
    survey = SURVEYS[name]
    assert (survey.modality, survey.partition_order, survey.order_by) == ("light_curve", 0, ("band", "time"))
    assert (survey.field("time").dtype, survey.field("time").unit) == ("float64", "d")
    assert survey.field("band").is_band_code
    assert {field.shape for field in survey.members} == {("observation",)}


def test_positions_and_images_keep_their_precision_and_companions() -> None:
    image = SURVEYS["hsc"].field("image")
    assert (image.shape, image.ivar, image.mask, image.zero_point) == ((5, 160, 160), "image_ivar", "image_mask", 27.0)
    assert SURVEYS["sdss"].field("mask").true_means == "bad"
    assert SURVEYS["gaia"].forms["mmu_v1"].object_id == "source_id"
    assert SURVEYS["gaia"].field("coeff").shape == (110,)


def test_a_source_name_is_one_for_all_forms_or_one_per_form_or_several() -> None:
    def names(source: object) -> tuple[str, ...]:
        return Field.model_validate({"name": "z", "dtype": "float32", "from": source}).source_names("v1")

    assert names("Z") == ("Z",)
    assert names(["Z", "REDSHIFT"]) == ("Z", "REDSHIFT")
    assert names({"v1": "Z"}) == ("Z",)
    assert names({"v1": ["Z", "REDSHIFT"]}) == ("Z", "REDSHIFT")
    assert names({"v1": None}) == ()
    assert names({"other": "Z"}) == ("z",)
    assert Form(reader="snana", files=("*",), dec=("DECL", "DEC")).dec == ("DECL", "DEC")


GOOD = """\
name: small
title: A small survey
modality: spectrum
release: DR1
summary: Few spectra.
licence: CC0
citation: Nobody 2026
forms:
  v1:
    reader: mmu_v1
    files: ["*.hdf5"]
    padding: {field: wavelength, value: -1}
fields:
  - {name: wavelength, dtype: float32, shape: [pixel], unit: Angstrom}
  - name: flux
    dtype: float32
    shape: [pixel]
    unit: erg / (s cm2 Angstrom)
    ivar: ivar
    mask: mask
  - {name: ivar, dtype: float32, shape: [pixel]}
  - {name: mask, dtype: bool, shape: [pixel], true_means: bad}
  - {name: z, dtype: float32, from: Z}
"""


def test_the_survey_that_the_faults_start_from_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    assert load_yaml(path, Survey).name == "small"
    assert load_surveys(tmp_path)["small"].field("flux").ivar == "ivar"


@pytest.mark.parametrize(
    ("old", "new", "line", "names"),
    [
        ("    unit: erg /", "    unti: erg /", 18, ["unknown key", "fields.1.unti"]),
        ("title: A", "titel: A", 2, ["unknown key", "key: titel"]),
        ("release: DR1\n", "", 1, ["required key is missing", "release"]),
        ("erg / (s cm2 Angstrom)", "erg / (s cm2 Angstroem)", 18, ["fields.1.unit", "not a unit", "Angstroem"]),
        ("    dtype: float32", "    dtype: float33", 16, ["fields.1.dtype", "float64"]),
        ("    shape: [pixel]", "    shape: [0]", 17, ["fields.1.shape", "0 is not a dimension"]),
        ("    shape: [pixel]", "    shape: [3, pixel]", 17, ["fields.1.shape", "only the first dimension"]),
        ("    shape: [pixel]", "    shape: [pixel]\n    shape: [7]", 18, ["stands twice", "shape"]),
        ("    ivar: ivar", "    ivar: inverse", 19, ["key: fields.1.ivar", "'flux'", "'inverse'", "not declared"]),
        ("    mask: mask", "    mask: ivar", 20, ["key: fields.1.mask", "'ivar'", "lacks true_means"]),
        (
            "ivar, dtype: float32, shape: [pixel]",
            "ivar, dtype: float32, shape: [7]",
            19,
            ["key: fields.1.ivar", "'ivar'", "another shape"],
        ),
        ("name: z,", "name: flux,", 23, ["key: fields.4.name", "'flux' is declared twice"]),
        ("name: z,", "name: Z,", 23, ["fields.4.name", "'Z' is not a name"]),
        ("name: z,", "name: ra,", 23, ["fields.4", "taken by the pipeline"]),
        ("from: Z}", "from: 3}", 23, ["fields.4.from", "not a name in the source"]),
        ("from: Z}", "from: {v2: Z}}", 23, ["key: fields.4.from", "'z'", "v2"]),
        ("from: Z}", "offset: {v2: 3}}", 23, ["key: fields.4.offset", "'z'", "v2"]),
        ("from: Z}", "error_of: y}", 23, ["key: fields.4.error_of", "'z'", "'y'", "not declared"]),
        ("field: wavelength", "field: lambda", 12, ["key: forms.v1.padding.field", "'lambda'"]),
        ("modality: spectrum", "modality: spectra", 3, ["modality", "light_curve"]),
        ("release: DR1", "release: DR1\norder_by: [z]", 5, ["key: order_by", "z"]),
        ("citation: Nobody 2026", "citation: [Nobody", 8, ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, line: int, names: list[str]) -> None:
    assert GOOD.count(old) == 1
    path = tmp_path / "small.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(BadInput) as caught:
        load_yaml(path, Survey)
    for name in [f"file: {path}", f"line: {line}\n", *names]:
        assert name in f"{caught.value}\n"


@pytest.mark.parametrize(
    "content",
    [b"name: caf\xe9", b"name: a\x07b", b"name: 2001-13-45", b"name: !!int abc", b"a: &a [*a]", b"name: !!timestamp abc"],
)
def test_what_is_no_yaml_is_told_as_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not valid YAML") as caught:
        load_yaml(path, Survey)
    assert caught.value.where["file"] == path


def test_a_survey_must_have_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(GOOD)
    with pytest.raises(BadInput, match=r"named 'small'[\s\S]*other.yaml"):
        load_surveys(tmp_path)


RECIPE = """\
name: keyed
primary:
  survey: gaia
  repeats: all
counterparts:
  - survey: lamost
    on: {object_id: object_id}
    pick: "best: snrg"
  - {survey: chandra, radius_arcsec: 2, repeats: first}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "names"),
    [
        ("{object_id: object_id", "{object_id: sauce_id", 7, ["counterparts.0.on.object_id", "'gaia' has no column 'sauce_id'"]),
        ("{object_id: object_id", "{obsid: object_id", 7, ["key: counterparts.0.on.obsid", "'lamost' has no column 'obsid'"]),
        ("{object_id: object_id", "{z: object_id", 7, ["key: counterparts.0.on.z", "'z' of the survey 'lamost' is no key"]),
        ("{object_id: object_id", "{", 7, ["key: counterparts.0.on", "at least 1"]),
        ("    on: {object_id: object_id}\n", "", 6, ["key: counterparts.0", "'lamost' needs radius_arcsec, or on"]),
        ("snrg", "snr_g", 8, ["key: counterparts.0.pick", "'snr_g'", "snrg"]),
        ("snrg", "subclass", 8, ["key: counterparts.0.pick", "'subclass' of numbers"]),
        ("first", "second", 9, ["key: counterparts.1.repeats"]),
        ("first", "best", 9, ["key: counterparts.1.repeats", "'chandra' does not say", "name a column"]),
        ("first", "'best: flux'", 9, ["key: counterparts.1.repeats", "'flux' of numbers"]),
        ("survey: gaia", "survey: gaea", 3, ["key: primary.survey", "unknown survey 'gaea'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_match_is_named_by_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, names: list[str]
) -> None:
    assert RECIPE.count(old) == 1
    path = tmp_path / "keyed.yaml"
    path.write_text(RECIPE)
    assert load_recipe(str(path), SURVEYS).counterparts[0].rule == "with the same object_id"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(BadInput) as caught:
        load_recipe(str(path), SURVEYS)
    for name in [f"file: {path}", f"line: {line}\n", *names]:
        assert name in f"{caught.value}\n"


def test_of_several_observations_a_primary_keeps_all_and_a_counterpart_one_unless_the_recipe_says() -> None:
    chandra, gaia = SURVEYS["chandra"], SURVEYS["gaia"]
    rated = chandra.model_copy(update={"quality": "flux_significance_b desc"})
    near = Counterpart(survey="chandra", radius_arcsec=1)
    assert repeats_of(Selection(survey="chandra"), chandra) == "all"
    assert repeats_of(near, chandra) == "first"
    assert repeats_of(near, rated) == "best: flux_significance_b desc"
    assert repeats_of(near.model_copy(update={"pick": "all"}), rated) == "all"
    assert repeats_of(near.model_copy(update={"repeats": "best: exposure asc"}), rated) == "best: exposure asc"
    assert repeats_of(Counterpart(survey="gaia", radius_arcsec=1, repeats="first"), gaia) == "all"


def test_only_companions_can_be_optional() -> None:
    known = load_surveys()["desi"].model_dump(by_alias=True)
    known["forms"]["coadd"]["optional"] = ("zcat",)
    with pytest.raises(ValueError, match="optional names what is no companion"):
        Survey.model_validate(known)

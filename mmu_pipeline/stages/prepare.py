"""What the user asked for to a checked build: recipe, surveys, sources, cells. Everything wrong is said before work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from platformdirs import user_cache_dir

from mmu_pipeline.catalog import Recipe, Selection, Survey, repeats_of
from mmu_pipeline.catalog_files import load_recipe, load_surveys
from mmu_pipeline.errors import BadInput
from mmu_pipeline.expressions import parse_where
from mmu_pipeline.readers import reader
from mmu_pipeline.redaction import public_url
from mmu_pipeline.remote import check_scheme
from mmu_pipeline.sky import CELL_ORDER, cone_cells
from mmu_pipeline.stages.build import Build, Source
from mmu_pipeline.stages.download import detect_form, is_local
from mmu_pipeline.storage import Root, claim

Chosen = TypeVar("Chosen", bound=Selection)


def prepare(
    recipe: str,
    *,
    root: str,
    sources: Mapping[str, str] | None = None,
    survey_dirs: Sequence[Path] = (),
    cells: Sequence[int] | None = None,
    cone: tuple[float, float, float] | None = None,
    cache: str | None = None,
) -> Build:
    """A build that can start. Raises BadInput for whatever the user must correct, Unreachable for a source that is not there.

    `cells` are order-4 NESTED pixels of the primary, `cone` is (ra, dec, radius) in degrees. Nothing is written.
    """
    known = load_surveys(*survey_dirs)
    chosen = load_recipe(recipe, known)
    surveys = {name: known[name] for name in chosen.survey_names}
    for name in sources or {}:
        if name not in surveys:
            raise BadInput(
                f"--source names the survey {name!r}, which the recipe does not use", hint=f"it uses: {', '.join(surveys)}"
            )
    found = {name: _source(survey, (sources or {}).get(name)) for name, survey in surveys.items()}
    for url in (root, *(url for source in found.values() for url in (source.url, *source.mirrors))):
        check_scheme(url)
    chosen = chosen.model_copy(
        update={
            "primary": _explicit(chosen.primary, surveys, found),
            "counterparts": tuple(_explicit(counterpart, surveys, found) for counterpart in chosen.counterparts),
        }
    )
    _check_columns(chosen)
    _check_keys(chosen, surveys, found)
    return Build(chosen, surveys, found, Root(root), _cells(cells, cone), cache or user_cache_dir("mmu_pipeline"))


def _source(survey: Survey, url: str | None) -> Source:
    if url is None:
        for name, form in survey.forms.items():
            if form.url is not None:
                return Source(name, form.url, form.mirrors)
        raise BadInput(
            f"the survey {survey.name!r} has no published place", hint=f"say where it lies: --source {survey.name}=URL"
        )
    form_name = detect_form(survey.forms, url)
    if form_name is None:
        looked = "; ".join(f"{name}: {', '.join(form.files)}" for name, form in survey.forms.items())
        raise BadInput(f"no file of the survey {survey.name!r} is there", url=public_url(url), looked_for=looked,
                       hint=f"name the folder below which these lie: --source {survey.name}=URL")  # fmt: skip
    return Source(form_name, url)


def _explicit(selection: Chosen, surveys: Mapping[str, Survey], sources: Mapping[str, Source]) -> Chosen:
    """A selection that names its members and columns: those that the recipe names, or all that the form carries."""
    survey, form = surveys[selection.survey], sources[selection.survey].form
    reader(survey.forms[form].reader)
    if survey.forms[form].parts and not is_local(sources[selection.survey].url):
        raise BadInput(
            f"the form {form!r} of {survey.name!r} has objects in several files each, which are read from a local folder only",
            hint=f"copy it to a disk, then --source {survey.name}=FOLDER",
        )
    if selection.where is not None:
        parse_where(selection.where, {"ra", "dec", "object_id", *(field.name for field in survey.columns)})
    carried = {field.name for field in survey.fields if field.is_carried(form) or form in field.file_name}
    for name in (*(selection.members or ()), *(selection.columns or ())):
        if name not in carried:
            raise BadInput(f"the form {form!r} of {survey.name!r} does not carry the field {name!r}", recipe_key=survey.name)
    update: dict[str, object] = {
        "repeats": repeats_of(selection, survey) if survey.object_column else None,
        "members": tuple(
            f.name for f in survey.members if f.name in (carried if selection.members is None else selection.members)
        ),
        "columns": tuple(
            f.name for f in survey.columns if f.name in (carried if selection.columns is None else selection.columns)
        ),
    }
    return selection.model_copy(update=update)


def _check_keys(recipe: Recipe, surveys: Mapping[str, Survey], sources: Mapping[str, Source]) -> None:
    """Raise BadInput where the form in use lacks a column that the recipe joins on: nothing would match."""
    for counterpart in recipe.counterparts:
        for column, name in [*((c, counterpart.survey) for c in counterpart.on or {}),
                             *((c, recipe.primary.survey) for c in (counterpart.on or {}).values())]:  # fmt: skip
            form = sources[name].form
            if column != "object_id" and not surveys[name].field(column).is_carried(form):
                others = [other for other in surveys[name].forms if surveys[name].field(column).is_carried(other)]
                raise BadInput(f"the form {form!r} of {name!r} does not carry the column {column!r} to join on", recipe_key="on",
                               hint=f"forms that do: {', '.join(others) or 'none'}")  # fmt: skip


def _check_columns(recipe: Recipe) -> None:
    names = [f"{selection.survey}_{column}" for selection in recipe.selections for column in selection.columns or ()]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(
                f"two surveys of the recipe would both give the column {name!r}", hint="choose columns so that only one does"
            )


def _cells(cells: Sequence[int] | None, cone: tuple[float, float, float] | None) -> frozenset[int] | None:
    if cells is not None and cone is not None:
        raise BadInput("give either cells or a cone, not both")
    if cone is not None:
        ra, dec, radius = cone
        if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 < radius <= 180):
            raise BadInput("a cone is RA,DEC,RADIUS in degrees: 0 to 360, -90 to 90, above 0", cone=cone)
        return frozenset(cell.pixel for cell in cone_cells(ra, dec, radius))
    if cells is None:
        return None
    last = 12 * 4**CELL_ORDER - 1
    for pixel in cells:
        if not 0 <= pixel <= last:
            raise BadInput(f"there is no cell {pixel} at order {CELL_ORDER}", hint=f"cells are 0 to {last}")
    return frozenset(cells)


def claim_root(build: Build, replace: bool = False) -> None:
    """Record in the root what it is used for. Raises BadInput if it holds results of another recipe of this name.

    So it does for another source of one of the surveys. `replace` builds over them.
    """
    recipe = build.recipe
    claim(
        build.root, f"receipts/recipes/{recipe.name}.json", recipe.model_dump(mode="json"), replace, f"the recipe {recipe.name!r}"
    )
    for name, source in build.sources.items():
        identity = {"form": source.form, "url": public_url(source.url)}
        claim(build.root, f"receipts/sources/{name}.json", identity, replace, f"the survey {name!r}")

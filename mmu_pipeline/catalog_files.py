"""YAML files of surveys and recipes -> their models, held against each other. Every error names file, line and key."""

from __future__ import annotations

from pathlib import Path

from mmu_pipeline.catalog import Counterpart, Recipe, Selection, Survey, is_key, ranking
from mmu_pipeline.errors import BadInput
from mmu_pipeline.yaml_file import load_yaml, wrong


def catalogs_folder() -> Path:
    """Where the shipped `surveys/` and `recipes/` lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "catalogs", package.parent / "catalogs") if folder.is_dir())


def load_surveys(*folders: Path) -> dict[str, Survey]:
    """All shipped surveys by name, with those of further folders over them. Raises BadInput."""
    surveys: dict[str, Survey] = {}
    for folder in (catalogs_folder() / "surveys", *folders):
        if not folder.is_dir():
            raise BadInput("no such folder of surveys", file=folder)
        for path in sorted(folder.glob("*.yaml")):
            survey = load_yaml(path, Survey)
            if survey.name != path.stem:
                raise BadInput(f"the survey is named {survey.name!r}, its file is not", file=path, key="name")
            surveys[survey.name] = survey
    return surveys


def load_recipe(name_or_path: str, surveys: dict[str, Survey]) -> Recipe:
    """A recipe by name (of the shipped ones) or by path, checked against the surveys. Raises BadInput."""
    shipped = catalogs_folder() / "recipes" / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.parent.glob("*.yaml")))
        raise BadInput(f"no recipe {name_or_path!r}", hint=f"give a path to a YAML file, or one of: {known}")
    recipe = load_yaml(path, Recipe)
    check_selection(recipe.primary, surveys, path, "primary")
    for number, counterpart in enumerate(recipe.counterparts):
        check_selection(counterpart, surveys, path, "counterparts", number)
        check_match(counterpart, surveys[counterpart.survey], surveys[recipe.primary.survey], path, "counterparts", number)
    return recipe


def check_selection(selection: Selection, surveys: dict[str, Survey], path: Path, *loc: str | int) -> None:
    """Raise BadInput unless the survey and every field that a selection names exist. `loc` is its place in the file."""
    survey = surveys.get(selection.survey)
    if survey is None:
        known = ", ".join(sorted(surveys))
        raise wrong(path, f"unknown survey {selection.survey!r}", *loc, "survey", hint=f"known surveys: {known}")
    for key, names, declared in (
        ("members", selection.members, {field.name for field in survey.members}),
        ("columns", selection.columns, {field.name for field in survey.columns}),
    ):
        for name in names or ():
            if name not in declared:
                what = f"the survey {survey.name!r} has no field {name!r} among its {key}"
                raise wrong(path, what, *loc, key, hint=f"declared: {', '.join(sorted(declared))}")
    if selection.repeats == "best" and survey.object_column and survey.quality is None:
        what = f"the survey {survey.name!r} does not say which of several observations is the best"
        raise wrong(path, what, *loc, "repeats", hint='name a column: `repeats: "best: column"`')
    _check_ranking((selection.repeats or "").partition("best: ")[2], survey, path, *loc, "repeats")


def check_match(counterpart: Counterpart, theirs: Survey, ours: Survey, path: Path, *loc: str | int) -> None:
    """Raise BadInput unless every column that a match reads exists, and keys are of types that can be compared."""
    _check_ranking(counterpart.pick.partition("best: ")[2], theirs, path, *loc, "pick")
    for their_column, our_column in (counterpart.on or {}).items():
        for survey, column in ((theirs, their_column), (ours, our_column)):
            if column == "object_id":
                continue
            field = {field.name: field for field in survey.columns}.get(column)
            if field is None:
                what = f"the survey {survey.name!r} has no column {column!r} to join on"
                known = ["object_id", *sorted(field.name for field in survey.columns if is_key(field))]
                raise wrong(path, what, *loc, "on", their_column, hint=f"keys may be: {', '.join(known)}")
            if not is_key(field):
                what = f"{column!r} of the survey {survey.name!r} is no key: {field.dtype}"
                raise wrong(path, what, *loc, "on", their_column, hint="keys are text or whole numbers, which compare exactly")


def _check_ranking(text: str, survey: Survey, path: Path, *loc: str | int) -> None:
    numbers = {field.name for field in survey.columns if not field.column and field.dtype != "string"}
    if text and ranking(text)[0] not in numbers:
        what = f"the survey {survey.name!r} has no column {ranking(text)[0]!r} of numbers to pick by"
        raise wrong(path, what, *loc, hint=f"columns of numbers: {', '.join(sorted(numbers))}")

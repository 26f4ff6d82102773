"""Surveys and recipes: YAML files read into validated, frozen models. Every error names file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, ValidationError, model_validator
from pydantic import Field as Key

from mmu_pipeline.errors import BadInput
from mmu_pipeline.fields import Field, Name, Pattern, SourceNames

MODALITIES = ("image", "spectrum", "cube", "light_curve", "table")


class Misplaced(ValueError):
    """What is wrong between several keys of a file, and the path to the key that it is blamed on."""

    def __init__(self, what: str, *loc: str | int) -> None:
        self.loc = loc
        super().__init__(what)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Padding(_Model):
    """How a form fills arrays to a common length: elements where `field` equals `value` (or one of several) are not data."""

    field: Name
    value: float | tuple[float, ...]
    """NaN is a value like others. A field of several dimensions must equal it in all of an element."""

    @property
    def values(self) -> tuple[float, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


class TextTable(_Model):
    """How a delimited text file is laid out; one that is compressed is recognised by its name."""

    delimiter: Annotated[str, Key(min_length=1, max_length=1)] = ","
    columns: tuple[str, ...] = ()
    """Names of its columns, in order, where it has no header line. A delimiter at the end of each line is allowed for."""
    nulls: tuple[str, ...] = ("",)
    """What stands where a value is missing."""


class Form(_Model):
    """One published form of a survey: where it lies and which reader understands it."""

    reader: str
    url: str | None = None
    """fsspec URL of the folder that holds it."""
    mirrors: tuple[str, ...] = ()
    files: tuple[str, ...]
    """Globs of the data files, relative to the URL. `healpix=*` stands for the cell folders of a survey cut by cell."""
    cut_by_cell: bool = False
    member_list: str | None = None
    """A text file beside the data that names the files which belong; the others are counted as not listed."""
    checksums: str | None = None
    """A file beside the data in the format of `sha256sum`; downloads are checked against it. SHA256SUMS needs not be named."""
    object_id: str = "object_id"
    """Source name of the id, or a template of several: "{SNID:06d}"; # for the number of the row in its file."""
    id_prefix: SourceNames = ()
    """What this form writes before the survey's own id, or alternatives: removed."""
    id_suffix: str = ""
    """What it writes after it, removed: ".0" where ids were floats."""
    ra: SourceNames = ("ra",)
    dec: SourceNames = ("dec",)
    position_precision_arcsec: float = Key(default=0.0, ge=0)
    """How far its positions are off because of the type they are stored in: 0.06 where right ascension is float32."""
    padding: Padding | None = None
    planes: SourceNames = ()
    """Source name of the bands of an image's planes, a list per row: planes are put in the order of `bands`, absent ones are
    0 and masked. Without it they are taken to stand in that order."""
    text: TextTable = TextTable()
    """For readers of delimited text."""
    parts: Pattern | None = None
    """Regular expression of a data file's name: files of one folder that agree in its first group are pieces of one object,
    joined in order of their names. Such a form is read from a local folder."""
    companions: dict[Name, tuple[str, str]] = Key(default_factory=dict)
    """Other files that belong to each data file: role -> (part of its name, what stands there instead). With a `/` the
    replacement is a path from the file's folder: `redrock: [coadd-, redrock-]`, `source: [Xp, ../source/Gaia]`.
    The part "*" stands for the whole name: a catalog that all files share."""
    faults: tuple[str, ...] = ()
    """Known faults of the published form, each a sentence: printed on the survey's page and on every card."""


class Motion(_Model):
    """Columns that carry a survey's positions to another epoch."""

    pmra: Name
    """Proper motion in right ascension, times cos(dec)."""
    pmdec: Name
    parallax: Name | None = None
    radial_velocity: Name | None = None


class Survey(_Model):
    """One dataset with one record layout."""

    name: Name
    title: str
    modality: Literal[MODALITIES]  # type: ignore[valid-type]
    release: str
    summary: str
    forms: dict[str, Form] = Key(min_length=1)
    fields: tuple[Field, ...]
    expected_rows: int | None = None
    partition_order: int = Key(default=4, ge=0, le=12)
    """Order of the files of its object table: 0 for a few hundred rows, 4 as the MMU is cut, deeper where dense."""
    order_by: tuple[Name, ...] = ()
    """Ragged members by which the observations of one object are sorted, whatever order its source has."""
    epoch: float | Name | None = None
    """Julian year of its positions, or the column with each row's own (years, or days as JD or MJD); stars move."""
    motion: Motion | None = None
    repeated_ids: bool = False
    """Whether one id may stand in several rows (repeat observations). If not, a second row is counted as a duplicate."""
    licence: str
    citation: str
    homepage: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Survey:
        names = [field.name for field in self.fields]
        for form_name, form in self.forms.items():
            if form.padding and form.padding.field not in names:
                what = f"padding names the field {form.padding.field!r}, which is not declared"
                raise Misplaced(what, "forms", form_name, "padding", "field")
        for number, field in enumerate(self.fields):
            if field.name in names[:number]:
                raise Misplaced(f"the field {field.name!r} is declared twice", "fields", number, "name")
            for key, companion in (("ivar", field.ivar), ("mask", field.mask), ("error_of", field.error_of)):
                if companion is not None and companion not in names:
                    what = f"the field {field.name!r} names the companion {companion!r}, which is not declared"
                    raise Misplaced(what, "fields", number, key)
            if field.ivar is not None and self.field(field.ivar).shape != field.shape:
                raise Misplaced(
                    f"{field.ivar!r}, the inverse variance of {field.name!r}, has another shape", "fields", number, "ivar"
                )
            if field.mask is not None and self.field(field.mask).shape not in (field.shape, field.shape[1:]):
                raise Misplaced(f"{field.mask!r}, the mask of {field.name!r}, has another shape", "fields", number, "mask")
            if field.mask is not None and self.field(field.mask).true_means is None:
                raise Misplaced(
                    f"the mask {field.mask!r} of {field.name!r} lacks true_means: good or bad", "fields", number, "mask"
                )
            by_form = ("power", "scale", "offset", "pixel_shift", "log_grid", "axes", "constant", "file_name")
            for key, forms in (("from", field.source), *((key, getattr(field, key)) for key in by_form)):
                if unknown := sorted(set(forms) - set(self.forms) if isinstance(forms, dict) else ()):
                    raise Misplaced(f"the field {field.name!r} names forms that do not exist: {unknown}", "fields", number, key)
        for loc, column in (*((("motion", key), column) for key, column in self.motion or ()), (("epoch",), self.epoch)):
            if isinstance(column, str) and column not in {field.name for field in self.columns}:
                raise Misplaced(f"{column!r} is not a column of the survey", *loc)
        if unknown := [name for name in self.order_by if name not in names or not self.field(name).is_ragged]:
            raise Misplaced(f"order_by names what is not a declared field of varying length: {unknown}", "order_by")
        return self

    @property
    def columns(self) -> tuple[Field, ...]:
        """Fields that are columns of the object table."""
        return tuple(field for field in self.fields if not field.is_member)

    @property
    def members(self) -> tuple[Field, ...]:
        """Fields that are array members of a sample."""
        return tuple(field for field in self.fields if field.is_member)

    def field(self, name: str) -> Field:
        """The declared field of that name; KeyError if there is none."""
        return {field.name: field for field in self.fields}[name]


class Selection(_Model):
    """Which rows and fields of one survey a recipe takes."""

    survey: Name
    members: tuple[Name, ...] | None = None
    columns: tuple[Name, ...] | None = None
    where: str | None = None


class Counterpart(Selection):
    """A survey matched to the primary by position."""

    radius_arcsec: float = Key(gt=0, le=3600)
    pick: Annotated[str, Key(pattern=r"^(nearest|mutual|all|best: [a-z][a-z0-9_]*( asc| desc)?)$")] = "nearest"
    """nearest; mutual; all; or `best: column`, the candidate with the largest value (`asc`: smallest), nulls last."""
    how: Literal["inner", "left"] = "left"
    epoch: Annotated[str, Key(pattern=r"^J\d{4}(\.\d+)?$")] | None = None
    """Julian epoch, J2016.0, to which both sides are moved first, as far as they have motions."""

    @property
    def best(self) -> tuple[str, bool] | None:
        """Column of `best`, and whether the smallest value is wanted; None with another pick."""
        _, _, rule = self.pick.partition("best: ")
        return (rule.split()[0], rule.endswith(" asc")) if rule else None


class SplitRule(_Model):
    """A split is a property of the sky: all objects of one coarse cell share it, by a seeded hash."""

    train: float = Key(default=0.8, ge=0, le=1)
    validation: float = Key(default=0.1, ge=0, le=1)
    test: float = Key(default=0.1, ge=0, le=1)
    order: int = Key(default=3, ge=0, le=8)
    seed: int = Key(default=0, ge=0)
    guard_arcsec: float = Key(default=0.0, ge=0, le=3600)

    @model_validator(mode="after")
    def _whole(self) -> SplitRule:
        if abs(self.train + self.validation + self.test - 1.0) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, not {self.train + self.validation + self.test:g}")
        return self


class ShardRule(_Model):
    """How many samples a shard holds, and the seed of their order."""

    target_bytes: ByteSize = ByteSize(512 * 1024**2)
    samples_per_shard: int | None = Key(default=None, ge=1)
    seed: int = Key(default=0, ge=0)
    multiple_of: int = Key(default=1, ge=1)
    """Every shard holds a multiple of so many samples: the first samples of a split stand a second time at its end, flagged
    `repeat` in the index. A split of one sample is left as it is."""
    world_size: int = Key(default=1, ge=1)
    """The number of shards of a split is a multiple of this (ranks x workers) where there are samples enough."""
    sha256: bool = False
    """Whether SHA256SUMS is written beside the shards."""
    dtype: Literal["float32", "float16", "int16"] = "float32"
    """Type of images, and of what has an inverse variance: as declared, halved, or steps of a scale that each sample holds."""


class Recipe(_Model):
    """What to build: a primary, its counterparts, cuts, split and shard size."""

    name: Annotated[str, Key(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str = ""
    primary: Selection
    counterparts: tuple[Counterpart, ...] = ()
    split: SplitRule = SplitRule()
    shards: ShardRule = ShardRule()

    @model_validator(mode="after")
    def _once(self) -> Recipe:
        names = self.survey_names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the survey {name!r} is named twice")
        return self

    @property
    def selections(self) -> tuple[Selection, ...]:
        """What it takes of each survey, the primary first."""
        return (self.primary, *self.counterparts)

    @property
    def survey_names(self) -> list[str]:
        """Primary first, then the counterparts in order."""
        return [selection.survey for selection in self.selections]


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, kind: type[Model]) -> Model:
    """One YAML file as a validated model. Raises BadInput naming file, line and key."""
    try:
        text = path.read_text()
        data = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise BadInput("cannot read the file", file=path, reason=error.strerror) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise BadInput(f"not valid YAML: {error.problem}", file=path, line=line) from error
    if not isinstance(data, dict) or tree is None:
        raise BadInput("expected a mapping of keys to values", file=path, line=1)
    _no_repeated_keys(tree, path)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        problems = [(_place(tree, _loc(problem)), _wording(problem)) for problem in found]
        (key, line), message = problems[0]
        more = f"{len(problems) - 1} more problem(s) in this file follow once this one is mended" if problems[1:] else ""
        raise BadInput(message, file=path, line=line, key=key or None, hint=more) from error


def _loc(problem: Any) -> tuple[int | str, ...]:
    return (*problem["loc"], *getattr(problem.get("ctx", {}).get("error"), "loc", ()))


def _wording(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key"
    if problem["type"] == "missing":
        return "required key is missing"
    return str(problem["msg"]).removeprefix("Value error, ")


def _place(tree: yaml.Node, loc: tuple[int | str, ...]) -> tuple[str, int]:
    """Dotted key and line number of a pydantic error location, as deep as the YAML goes."""
    node, line, named = tree, tree.start_mark.line + 1, []
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found:
                line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
        named.append(str(part))
    return ".".join(named), line


def _no_repeated_keys(node: yaml.Node, path: Path) -> None:
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise BadInput("the key stands twice", file=path, line=key.start_mark.line + 1, key=key.value)
            seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        _no_repeated_keys(child, path)


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
    for selection in recipe.selections:
        check_selection(selection, surveys, path)
    for counterpart in recipe.counterparts:
        if counterpart.best and counterpart.best[0] not in {field.name for field in surveys[counterpart.survey].columns}:
            raise BadInput(
                f"the survey {counterpart.survey!r} has no column {counterpart.best[0]!r} to pick by", file=path, key="pick"
            )
    return recipe


def check_selection(selection: Selection, surveys: dict[str, Survey], path: Path) -> None:
    """Raise BadInput unless the survey and every field that a selection names exist."""
    survey = surveys.get(selection.survey)
    if survey is None:
        raise BadInput(f"unknown survey {selection.survey!r}", file=path, hint=f"known surveys: {', '.join(sorted(surveys))}")
    for key, names, declared in (
        ("members", selection.members, {field.name for field in survey.members}),
        ("columns", selection.columns, {field.name for field in survey.columns}),
    ):
        for name in names or ():
            if name not in declared:
                raise BadInput(
                    f"the survey {survey.name!r} has no field {name!r} among its {key}",
                    file=path,
                    key=key,
                    hint=f"declared: {', '.join(sorted(declared))}",
                )

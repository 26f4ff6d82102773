"""Surveys and recipes: what their YAML files may say, as validated, frozen models."""

from __future__ import annotations

from typing import Annotated, Literal

from astropy import units
from pydantic import BaseModel, ByteSize, ConfigDict, model_validator
from pydantic import Field as Key

from mmu_pipeline.fields import Field, Name, Pattern, SourceNames
from mmu_pipeline.yaml_file import Misplaced

MODALITIES = ("image", "spectrum", "cube", "light_curve", "table")
RANKING = r"[a-z][a-z0-9_]*( asc| desc)?"
"""A column by which rows are ranked: the largest value first unless it says asc, nulls last."""


def ranking(text: str) -> tuple[str, bool]:
    """Column of a ranking such as `snr desc`, and whether the smallest value comes first."""
    return text.split()[0], text.endswith(" asc")


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
    optional: tuple[Name, ...] = ()
    """Companions that may be absent: columns that come of them are null then, and where they have no row of an object."""
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
    position_error: tuple[Name, Name] | None = None
    """Columns with the standard errors of its positions along two axes at right angles: of right ascension (times cos(dec)) and
    declination, or the semi-axes of an ellipse."""
    repeated_ids: bool = False
    """Whether one id may stand in several rows (repeat observations). If not, a second row is counted as a duplicate."""
    object_key: Name | None = None
    """Where ids name observations rather than objects: the column that tells the object, null where it is not known."""
    quality: Annotated[str, Key(pattern=f"^{RANKING}$")] | None = None
    """Column by which `repeats: best` chooses among the observations of an object: `snr desc`."""
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
            if unknown := sorted(set(form.optional) - set(form.companions)):
                raise Misplaced(f"optional names what is no companion: {unknown}", "forms", form_name, "optional")
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
        scalars = {field.name: field for field in self.columns if not field.column}
        if self.quality and (ranking(self.quality)[0] not in scalars or scalars[ranking(self.quality)[0]].dtype == "string"):
            raise Misplaced(f"{self.quality!r} does not name a column of numbers", "quality")
        if self.object_key and (self.object_key not in scalars or not is_key(scalars[self.object_key])):
            raise Misplaced(f"{self.object_key!r} is not a column of text or whole numbers", "object_key")
        for column in self.position_error or ():
            angles = {field.name for field in self.columns if units.Unit(field.unit).is_equivalent(units.arcsec)}
            if column not in angles:
                raise Misplaced(f"{column!r} is not a column of angles", "position_error")
        if unknown := [name for name in self.order_by if name not in names or not self.field(name).is_ragged]:
            raise Misplaced(f"order_by names what is not a declared field of varying length: {unknown}", "order_by")
        return self

    @property
    def only_mmu(self) -> bool:
        """Whether only what the Multimodal Universe made of it is read, not the files that the survey itself releases."""
        return set(self.forms) <= {"mmu_v1", "hats"}

    @property
    def columns(self) -> tuple[Field, ...]:
        """Fields that are columns of the object table."""
        return tuple(field for field in self.fields if not field.is_member)

    @property
    def members(self) -> tuple[Field, ...]:
        """Fields that are array members of a sample."""
        return tuple(field for field in self.fields if field.is_member)

    @property
    def object_column(self) -> str | None:
        """The column whose value the observations of one object share; None where each row is an object of its own."""
        return self.object_key or ("object_id" if self.repeated_ids else None)

    def field(self, name: str) -> Field:
        """The declared field of that name; KeyError if there is none."""
        return {field.name: field for field in self.fields}[name]


class Selection(_Model):
    """Which rows and fields of one survey a recipe takes."""

    survey: Name
    members: tuple[Name, ...] | None = None
    columns: tuple[Name, ...] | None = None
    where: str | None = None
    repeats: Annotated[str, Key(pattern=f"^(all|first|best(: {RANKING})?)$")] | None = None
    """Which observations of an object that a survey has in several rows are taken, of those that pass `where`: all; first, the
    earliest; best, as the survey's `quality` says; or `best: column`. See `repeats_of` for what it is unless said."""


class Counterpart(Selection):
    """A survey matched to the primary: by position, by a key, or by both."""

    radius_arcsec: float | None = Key(default=None, gt=0, le=3600)
    """How far a counterpart may lie; with `on` it may be left out."""
    on: Annotated[dict[str, str], Key(min_length=1)] | None = None
    """Their column -> the primary's column of the same value, `object_id` among them; all of several pairs must agree."""
    pick: Annotated[str, Key(pattern=f"^(nearest|mutual|all|best: {RANKING})$")] = "nearest"
    """nearest; mutual; all; or `best: column`, the candidate with the largest value (`asc`: smallest), nulls last."""
    how: Literal["inner", "left"] = "left"
    epoch: Annotated[str, Key(pattern=r"^J\d{4}(\.\d+)?$")] | None = None
    """Julian epoch, J2016.0, to which both sides are moved first, as far as they have motions."""

    @property
    def best(self) -> tuple[str, bool] | None:
        """Column of `best`, and whether the smallest value is wanted; None with another pick."""
        _, _, rule = self.pick.partition("best: ")
        return ranking(rule) if rule else None

    @property
    def rule(self) -> str:
        """What makes a candidate, in words: `within 1 arcsec`, `with the same object_id`."""
        keys = [theirs if theirs == ours else f"{theirs} = {ours}" for theirs, ours in (self.on or {}).items()]
        near = [] if self.radius_arcsec is None else [f"within {self.radius_arcsec:g} arcsec"]
        return " and ".join([*([f"with the same {', '.join(keys)}"] if keys else []), *near])

    @model_validator(mode="after")
    def _has_rule(self) -> Counterpart:
        if self.on is None and self.radius_arcsec is None:
            raise ValueError(f"the counterpart {self.survey!r} needs radius_arcsec, or on: {{their_column: our_column}}")
        return self


class SplitRule(_Model):
    """A split is a property of the sky: all objects of one coarse cell share it, by a seeded hash."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    train: float = Key(default=0.8, ge=0, le=1)
    """Share of the sky; the three make 1."""
    validation: float = Key(default=0.1, ge=0, le=1)
    """Share of the sky."""
    test: float = Key(default=0.1, ge=0, le=1)
    """Share of the sky."""
    order: int = Key(default=3, ge=0, le=8)
    """HEALPix order of the cells that are split."""
    seed: int = Key(default=0, ge=0)
    """Of the hash of the cells."""
    guard_arcsec: float = Key(default=0.0, ge=0, le=3600)
    """Samples nearer than this to another split are left out."""

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
    count_in_name: bool = False
    """Whether a shard's name ends in its number of samples, `train-000000_512.tar`: zoobot takes the size of a set from there."""
    dtype: Literal["float32", "float16", "int16"] = "float32"
    """Type of images, and of what has an inverse variance: as declared, halved, or steps of a scale that each sample holds."""


class ChanceRule(_Model):
    """How a match measures chance: by looking for counterparts near places that are shifted away from the primaries."""

    shifts: int = Key(default=6, ge=0, le=32)
    """Places around each primary; 0 measures nothing."""
    shift_arcsec: float | None = Key(default=None, gt=0, le=3600)
    """How far away they lie; 60 arcsec unless said, or ten radii if that is more."""
    sample: int = Key(default=50_000, ge=1)
    """Most primaries that are looked at: they are chosen by a seeded hash of their place."""
    seed: int = Key(default=0, ge=0)


class Recipe(_Model):
    """What to build: a primary, its counterparts, cuts, split and shard size."""

    name: Annotated[str, Key(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str = ""
    primary: Selection
    counterparts: tuple[Counterpart, ...] = ()
    split: SplitRule = SplitRule()
    shards: ShardRule = ShardRule()
    chance: ChanceRule = ChanceRule()

    @model_validator(mode="after")
    def _once(self) -> Recipe:
        names = self.survey_names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the survey {name!r} is named twice")
        for other in self.counterparts:
            if self.chance.shift_arcsec and self.chance.shift_arcsec < 5 * (other.radius_arcsec or 0.0):
                shift = f"{self.chance.shift_arcsec:g} arcsec"
                raise ValueError(f"chance: shift_arcsec, {shift}, is less than five radii of the match with {other.survey!r}")
        return self

    @property
    def selections(self) -> tuple[Selection, ...]:
        """What it takes of each survey, the primary first."""
        return (self.primary, *self.counterparts)

    @property
    def survey_names(self) -> list[str]:
        """Primary first, then the counterparts in order."""
        return [selection.survey for selection in self.selections]


def is_key(field: Field) -> bool:
    """Whether values of a column compare exactly: text and whole numbers."""
    return not field.shape and (field.dtype == "string" or "int" in field.dtype)


def has_normalised(counterpart: Counterpart, primary: Survey, other: Survey) -> bool:
    """Whether separations of a match can be told in units of errors: it is by position, and both surveys declare them."""
    return counterpart.on is None and primary.position_error is not None and other.position_error is not None


def repeats_of(selection: Selection, survey: Survey) -> str:
    """Which observations of an object are taken: `all`, `first` or `best: column`.

    Unless a recipe says: of the primary all, each a sample of its own; of a counterpart one, so that an object stays one
    sample: the best if the survey declares its quality, else the first; with `pick: all`, all.
    """
    if survey.object_column is None:
        return "all"
    rule = selection.repeats
    if rule is None:
        one = isinstance(selection, Counterpart) and selection.pick != "all"
        rule = ("best" if survey.quality else "first") if one else "all"
    return f"best: {survey.quality}" if rule == "best" else rule

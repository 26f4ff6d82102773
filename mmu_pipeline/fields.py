"""A field: one named array or scalar of a survey, with dtype, shape, unit and polarity."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from astropy import units
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic import Field as Key

from mmu_pipeline.jpeg import black

Array = npt.NDArray[np.generic]

NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64")
DTYPES = (*NUMBERS, "string", "jpeg")
PICTURE = "jpg"
"""Name of the field of dtype jpeg: its member in a sample is `<key>.<survey>.jpg`."""
ENCODED = np.dtype("V1")
"""Of bytes that are a file of their own: an array of them, shape (nbytes,), is carried as it is."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = {"object_id", "ra", "dec", "source_file", "source_row", "key", "split"}


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: lower-case letters, digits and underscores, starting with a letter")
    return value


def _unit(value: str) -> str:
    try:
        units.Unit(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a unit that astropy.units reads: {error}") from error
    return value


def _shape(value: tuple[int | str, ...]) -> tuple[int | str, ...]:
    for size in value:
        if (isinstance(size, int) and size < 1) or (isinstance(size, str) and not NAME.fullmatch(size)):
            raise ValueError(f"{size!r} is not a dimension: a positive length, or a name for a length that varies by row")
    if any(isinstance(size, str) for size in value[1:]):
        raise ValueError("only the first dimension may vary by row")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{value!r} is not a name in the source, nor a list of alternative names")
    return tuple(names)


def _names_by_form(value: Any) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    return {form: _names(names) for form, names in value.items()} if isinstance(value, dict) else _names(value)


def _pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    if groups < 1:
        raise ValueError(f"{value!r} has no group: put what is wanted of the name in parentheses")
    return value


Name = Annotated[str, AfterValidator(_name)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Unit = Annotated[str, AfterValidator(_unit)]
Shape = Annotated[tuple[int | str, ...], AfterValidator(_shape)]
SourceNames = Annotated[tuple[str, ...], BeforeValidator(_names)]
SourceNamesByForm = Annotated[tuple[str, ...] | dict[str, tuple[str, ...]], BeforeValidator(_names_by_form)]


class Field(BaseModel):
    """One declared quantity. A field without shape is a column of the object table; one with shape is a member of a sample."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Name
    dtype: Literal[DTYPES]  # type: ignore[valid-type]
    shape: Shape = ()
    unit: Unit = ""
    description: str = ""
    source: SourceNamesByForm = Key(default_factory=dict, alias="from")
    """Name in the source: one for all forms, or one per form; absent means our own name, null that the form lacks it.
    A list holds alternatives: the first that a file has counts."""
    power: dict[str, float] = Key(default_factory=dict)
    """Form -> exponent: -2 where a form holds the standard error of which this field is the inverse variance."""
    scale: dict[str, float] = Key(default_factory=dict)
    """Form -> factor: 1e17 where a form is in erg/s/cm2/A and this field in 1e-17 of it."""
    offset: dict[str, float] = Key(default_factory=dict)
    """Form -> number to add: 53000 where a form counts days from MJD 53000. value = scale x source ** power + offset."""
    pixel_shift: dict[str, float] = Key(default_factory=dict)
    """Form -> pixels by which its grid is too far along, undone: 2 where each wavelength is that of two pixels on."""
    log_grid: dict[str, tuple[float, float]] = Key(default_factory=dict)
    """Form -> (start, step) of the grid in log10 on which its values lie: what rounding did to them is undone."""
    axes: dict[str, tuple[int, ...]] = Key(default_factory=dict)
    """Form -> order in which the axes of a source row become ours: [2, 0, 1] where an image has its bands last."""
    constant: dict[str, float | str] = Key(default_factory=dict)
    """Form -> what its files leave out because it is the same for all: the bands of its light curves, "u,g,r"."""
    file_name: dict[str, Pattern] = Key(default_factory=dict)
    """Form -> regular expression with a group: what it finds in the path of a file holds for all rows of it, as the split of
    `data/train-00000-of-00006.parquet` does."""
    column: bool = False
    """A short fixed-shape field (four magnitudes) that belongs in the object table rather than in a member of its own."""
    sentinels: tuple[float | str, ...] = ()
    """Source values that mean missing: nulls in a column; in a member NaN becomes the rule of its mask or ivar."""
    any_value: bool = False
    """Whether numbers such as -999 are real in this column. If not, one that is not among its sentinels is an error."""
    ivar: Name | None = None
    """Field with the inverse variance of this one: set to 0 wherever this one is not finite or its mask is bad."""
    mask: Name | None = None
    """Field with the mask of this one (same shape, or this shape without its first dimension): False where not finite."""
    error_of: Name | None = None
    """Column whose standard error this one is: null wherever that one is."""
    true_means: Literal["good", "bad"] | None = None
    """Polarity of a mask in the source. Ours is always True = good."""
    bands: tuple[str, ...] = ()
    """Band of each plane of an image, or the code book of a light curve's band field."""
    band_aliases: dict[str, str] = Key(default_factory=dict)
    """Band names in the source that are spelled otherwise than in `bands`."""
    zero_point: float | None = None
    """AB or Vega magnitude of one unit of flux, where the unit is not physical."""
    pixel_scale_arcsec: float | None = None
    medium: Literal["vacuum", "air"] | None = None
    """Of wavelengths: where they were measured."""
    time_system: str | None = None
    """Of times: what is counted from when by which clock, as in `MJD UTC` or `BJD TDB - 2454833`."""
    nominal_length: int = 1024
    """Typical length of the dimension that varies, or of the bytes of a JPEG, for planning only."""

    @model_validator(mode="after")
    def _consistent(self) -> Field:
        if self.name in RESERVED or self.name.startswith("_"):
            raise ValueError(f"the name {self.name!r} is taken by the pipeline itself")
        if (self.dtype == "jpeg") != (self.name == PICTURE):
            raise ValueError(f"a field of dtype jpeg is named {PICTURE}, and no other is: its member is <key>.<survey>.{PICTURE}")
        if self.is_encoded and (len(self.shape) != 3 or self.is_ragged or self.column):
            raise ValueError("the shape of a JPEG is that of its pixels: [height, width, components]")
        if self.column and (not self.shape or self.is_ragged):
            raise ValueError("column: true is for fields of a fixed shape")
        if self.is_member and self.dtype == "string":
            raise ValueError("text is a column, not an array: give band codes with `bands` instead")
        if any(sorted(axes) != list(range(len(self.shape))) for axes in self.axes.values()):
            raise ValueError("axes must name each axis of the field's shape once, from 0")
        if self.file_name and (self.dtype != "string" or self.shape):
            raise ValueError("what the name of a file tells is a column of text")
        if (self.true_means is not None) and self.dtype != "bool":
            raise ValueError("true_means belongs to a field of dtype bool")
        return self

    @property
    def is_member(self) -> bool:
        """Whether each row of it is an array file of a sample."""
        return bool(self.shape) and not self.column

    @property
    def is_ragged(self) -> bool:
        return any(isinstance(size, str) for size in self.shape)

    @property
    def is_encoded(self) -> bool:
        """Whether its values are JPEG files, carried byte by byte; its shape is then that of the pixels."""
        return str(self.dtype) == "jpeg"

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """Little-endian dtype of the values (object for text, ENCODED for files)."""
        return ENCODED if self.is_encoded else np.dtype(object if self.dtype == "string" else self.dtype).newbyteorder("<")

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the column in the object table."""
        scalar = (
            pa.string()
            if self.dtype == "string"
            else pa.bool_()
            if self.dtype == "bool"
            else pa.from_numpy_dtype(self.numpy_dtype)
        )
        return pa.list_(scalar, int(np.prod(self.shape))) if self.column else scalar  # type: ignore[arg-type]

    @property
    def nominal_bytes(self) -> int:
        """Bytes of one row, exact for fixed shapes, typical for ragged ones and files."""
        if self.is_encoded:
            return self.nominal_length
        lengths = [self.nominal_length if isinstance(size, str) else size for size in self.shape]
        return int(np.prod(lengths, dtype=np.int64)) * (16 if self.dtype == "string" else self.numpy_dtype.itemsize)

    @property
    def is_band_code(self) -> bool:
        """Whether its values are indices into `bands`: the band of each observation of a light curve."""
        return bool(self.bands) and self.is_ragged

    def source_names(self, form: str) -> tuple[str, ...]:
        """Names of this field in one form of the survey, the preferred one first; none where its files do not hold it."""
        if form in self.file_name:
            return ()
        return self.source.get(form, (self.name,)) if isinstance(self.source, dict) else self.source

    def source_name(self, form: str) -> str | None:
        """The preferred name of this field in one form; None where that form does not carry it."""
        return next(iter(self.source_names(form)), None)

    def is_carried(self, form: str) -> bool:
        """Whether one form of the survey has this field."""
        return bool(self.source_names(form)) or form in self.constant

    @property
    def facts(self) -> tuple[str, ...]:
        """What it declares beside dtype, shape, unit and description, each in a few words."""
        words = {
            "bands": ", ".join(self.bands),
            "zero point": "" if self.zero_point is None else f"{self.zero_point:g} mag",
            "pixel scale": "" if self.pixel_scale_arcsec is None else f"{self.pixel_scale_arcsec:g} arcsec",
            "wavelength in": self.medium or "",
            "time": self.time_system or "",
            "True is": "good" if self.true_means else "",
            "inverse variance in": self.ivar or "",
            "mask in": self.mask or "",
            "error of": self.error_of or "",
        }
        return tuple(f"{name} {value}" for name, value in words.items() if value)

    def absent(self) -> Array:
        """The array that stands for a counterpart that is not there: zeros, of length 0 where the length varies.

        Of a JPEG a black one of the declared size: every reader decodes it, and its pixels make batches with others.
        """
        if self.is_encoded:
            return np.frombuffer(black(*(int(size) for size in self.shape)), ENCODED)
        return np.zeros([0 if isinstance(size, str) else size for size in self.shape], self.numpy_dtype)

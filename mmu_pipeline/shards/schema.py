"""A recipe -> what every one of its samples holds: array members and JSON scalars, with types and units, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from mmu_pipeline.catalog import Counterpart, Recipe, Selection, Survey, has_normalised
from mmu_pipeline.fields import Field
from mmu_pipeline.shards.narrow import scale_name, stored_dtype


@dataclass(frozen=True)
class MemberField:
    """An array of every sample."""

    survey: str
    field: Field
    dtype: str
    """Of the numbers in the shards: that of the field, or the narrower one that the recipe asks for."""

    @property
    def name(self) -> str:
        """Its name in a sample: `survey.field`."""
        return f"{self.survey}.{self.field.name}"

    @property
    def is_narrowed(self) -> bool:
        return self.dtype != str(self.field.dtype)

    @property
    def scale(self) -> str | None:
        """The scalar by which stored numbers are multiplied, None if they are the values."""
        return scale_name(self.survey, self.field.name) if self.is_narrowed and self.dtype == "int16" else None


@dataclass(frozen=True)
class Scalar:
    """A key of every sample's JSON, and a column of the index."""

    name: str
    type: pa.DataType
    unit: str = ""
    description: str = ""


def sample_members(recipe: Recipe, surveys: Mapping[str, Survey]) -> tuple[MemberField, ...]:
    """The arrays of a sample, in the order in which they stand in the tar, before the JSON."""
    return tuple(
        MemberField(chosen.survey, field, stored_dtype(surveys[chosen.survey], field, recipe.shards.dtype))
        for chosen in (recipe.primary, *recipe.counterparts)
        for field in surveys[chosen.survey].members
        if chosen.members is None or field.name in chosen.members
    )


def sample_scalars(recipe: Recipe, surveys: Mapping[str, Survey]) -> tuple[Scalar, ...]:
    """The keys of a sample's JSON, in order: the cell, what is known of the primary and of each counterpart, scales."""
    scalars = [Scalar("healpix", pa.int64(), "", "HEALPix cell of the primary, NESTED, order 4")]
    for chosen in (recipe.primary, *recipe.counterparts):
        name, title = chosen.survey, surveys[chosen.survey].title
        if chosen is not recipe.primary:
            scalars.append(Scalar(f"has_{name}", pa.bool_(), "", f"whether {title} has this object"))
        scalars += [
            Scalar(f"{name}_object_id", pa.string(), "", f"id in {title}, as the survey writes it"),
            Scalar(f"{name}_ra", pa.float64(), "deg", "right ascension"),
            Scalar(f"{name}_dec", pa.float64(), "deg", "declination"),
        ]
        if chosen is not recipe.primary:
            scalars += [
                Scalar(f"{name}_separation_arcsec", pa.float64(), "arcsec", "angle to the primary"),
                Scalar(f"{name}_rank", pa.int32(), "", "1 for the closest candidate"),
                Scalar(f"{name}_n_candidates", pa.int32(), "", "candidates of the match, within its radius or of its key"),
                Scalar(f"{name}_crosses_border", pa.bool_(), "", "whether it lies in another order-4 cell than the primary"),
            ]
            if isinstance(chosen, Counterpart) and has_normalised(chosen, surveys[recipe.primary.survey], surveys[name]):
                errors = "separation over the combined standard error of both positions in one coordinate"
                scalars.append(Scalar(f"{name}_normalised_separation", pa.float64(), "", errors))
        scalars += [Scalar(f"{name}_{f.name}", f.arrow_type, f.unit, f.description) for f in _columns(chosen, surveys[name])]
    scalars += [
        Scalar(member.scale, pa.float32(), "", f"{member.name} is this times the numbers stored, -32768 is NaN")
        for member in sample_members(recipe, surveys)
        if member.scale
    ]
    return tuple(scalars)


def _columns(chosen: Selection, survey: Survey) -> list[Field]:
    return [field for field in survey.columns if chosen.columns is None or field.name in chosen.columns]

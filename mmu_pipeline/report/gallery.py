"""Samples to the cards of a page: what the object is, and a picture of every part that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmu_pipeline.report.ink import drawing, jpeg_uri, png_uri, svg
from mmu_pipeline.report.samples import (
    Part,
    colour_image,
    draw_light_curve,
    draw_plain,
    draw_spectrum,
    image_field,
    is_light_curve,
    is_spectrum,
    parts_of,
    picture_field,
    plain_arrays,
)
from mmu_pipeline.report.shard_set import ShardSet
from mmu_pipeline.sky import Int

FACTS_PER_PART = 4
PAIR = ("object_id", "ra", "dec", "separation_arcsec", "rank", "n_candidates", "crosses_border", "normalised_separation")
PANEL_INCHES = (4.6, 2.05)


@dataclass(frozen=True)
class Panel:
    """One picture of a card."""

    title: str
    image: str = ""
    """Data URI of a colour image."""
    svg: str = ""
    width_arcsec: float | None = None


@dataclass(frozen=True)
class Card:
    """One sample as the page shows it."""

    key: str
    object_id: str
    position: str
    split: str
    panels: tuple[Panel, ...]
    facts: tuple[tuple[str, str], ...]
    """Survey, then some of its values."""
    absent: tuple[str, ...]


def choose(shard_set: ShardSet, count: int) -> Int:
    """Rows of the index that show the set: every combination of counterparts in turn, most modalities first."""
    index = shard_set.index
    flags = [index[f"has_{name}"].to_numpy(zero_copy_only=False) for name in shard_set.survey_names[1:]]
    having = np.stack([np.ones(index.num_rows, bool), *flags], axis=1)
    order = np.argsort(index["digest"].to_numpy(), kind="stable")
    combinations, of_row = np.unique(having[order], axis=0, return_inverse=True)
    groups = {
        tuple(have): order[np.flatnonzero(of_row.reshape(-1) == number)[:count]].tolist()
        for number, have in enumerate(combinations.tolist())
    }
    kinds = [survey["modality"] for survey in shard_set.manifest["surveys"]]

    def fullness(have: tuple[bool, ...]) -> tuple[int, int, list[bool]]:
        present = {kind for kind, there in zip(kinds, have, strict=True) if there}
        return -len(present), -sum(have), [not there for there in have]

    fullest = sorted(groups, key=fullness)
    longest = max(map(len, groups.values()), default=0)
    turns = [groups[have][turn] for turn in range(longest) for have in fullest if turn < len(groups[have])]
    return np.array(turns[:count], np.int64)


def card(shard_set: ShardSet, row: int) -> Card:
    """The card of one row of the index."""
    sample = shard_set.sample(row)
    parts = parts_of(sample, shard_set.manifest)
    primary = parts[0]
    present = {part.survey["name"] for part in parts}
    return Card(
        key=sample.key,
        object_id=primary.record["object_id"],
        position=_sexagesimal(primary.record["ra"], primary.record["dec"]),
        split=shard_set.index["split"][row].as_py(),
        panels=tuple(panel for part in parts for panel in _panels(part)),
        facts=tuple((part.survey["name"], ", ".join(facts(part, shard_set.manifest))) for part in parts),
        absent=tuple(name for name in shard_set.survey_names if name not in present),
    )


def _sexagesimal(ra: float, dec: float) -> str:
    place = SkyCoord(ra * u.deg, dec * u.deg)
    hours = place.ra.to_string(u.hour, sep=":", precision=2, pad=True)
    return f"{hours} {place.dec.to_string(sep=':', precision=1, alwayssign=True, pad=True)}"


def facts(part: Part, manifest: Mapping[str, Any], most: int = FACTS_PER_PART) -> list[str]:
    """The first values of a part that are there, with their units, after its separation."""
    units = {scalar["name"]: scalar.get("unit", "") for scalar in manifest["scalars"]}
    separation = part.record.get("separation_arcsec")
    told = [] if separation is None else [f"{separation:.3f}″ away"]
    for name, value in part.record.items():
        if name in PAIR or name.endswith(("_error", "_err", "magerr")) or isinstance(value, (list, str)) or value is None:
            continue
        unit = units.get(f"{part.survey['name']}_{name}", "")
        told.append(f"{name} {value:.5g}{' ' + unit if unit else ''}" if isinstance(value, float) else f"{name} {value}")
    return told[: most + (separation is not None)]


def _panels(part: Part) -> list[Panel]:
    name, title = part.survey["name"], part.survey["title"]
    panels = []
    field = image_field(part)
    if field is not None:
        scale = part.members[field].get("pixel_scale_arcsec")
        width = None if scale is None else scale * part.arrays[field].shape[-1]
        panels.append(Panel(f"{name} {field}", image=png_uri(colour_image(part, field)), width_arcsec=width))
    picture = picture_field(part)
    if picture is not None:
        panels.append(Panel(f"{name} picture", image=jpeg_uri(part.arrays[picture].tobytes())))
    if is_spectrum(part):
        panels.append(_drawn(f"{name} spectrum", title, lambda axes: draw_spectrum(axes, part)))
    if is_light_curve(part):
        panels.append(_drawn(f"{name} light curve", title, lambda axes: draw_light_curve(axes, part)))
    if plain_arrays(part):
        panels.append(_drawn(f"{name} {plain_arrays(part)[0]}", title, lambda axes: draw_plain(axes, part)))
    return panels


def _drawn(title: str, spoken: str, draw: Callable[[Axes], None]) -> Panel:
    with drawing():
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(figure.add_subplot())
        return Panel(title, svg=svg(figure, spoken))

"""A shard set to one self-contained HTML page: sky, samples, pairs, splits, what was left out, licences, how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from mmu_pipeline.catalog import Counterpart
from mmu_pipeline.report import overview
from mmu_pipeline.report.gallery import Card, card, choose
from mmu_pipeline.report.ink import SPLIT_COLOURS, SURVEY_COLOURS, drawing, svg
from mmu_pipeline.report.matches import draw_match
from mmu_pipeline.report.shard_set import ShardSet, object_positions, open_set
from mmu_pipeline.shards.card import percent
from mmu_pipeline.shards.licences import licence_conflict
from mmu_pipeline.sky import CELL_ORDER, pixels_at
from mmu_pipeline.tables import size

GALLERY = 12


@dataclass(frozen=True)
class Checked:
    """One line of a comparison with the truth, where that is known."""

    what: str
    expected: int
    found: int
    note: str = ""

    @property
    def agrees(self) -> bool:
        return self.expected == self.found


@dataclass(frozen=True)
class Pairs:
    """What the match gave for one counterpart."""

    survey: str
    rule: str
    pairs: int
    share: float
    median_arcsec: float | None
    several: int
    """Samples with more than one candidate."""
    quality: Mapping[str, Any] | None
    """What the manifest says of its matches."""


def build_report(shards: str | Path, out: str | Path, truth: Sequence[Checked] | None = None) -> Path:
    """Write the page of a published set (folder or URL of a version or recipe) to a file. Raises BadInput, BrokenArtefact."""
    shard_set = open_set(shards)
    environment = Environment(loader=PackageLoader("mmu_pipeline.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["percent"] = percent
    environment.filters |= {"grouped": lambda number: f"{number:,}", "size": size}
    page = environment.get_template("page.html.j2").render(
        manifest=shard_set.manifest,
        url=shard_set.folder.url,
        cells=len(np.unique(pixels_at(shard_set.index["_healpix_29"].to_numpy(), CELL_ORDER))),
        splits=_splits(shard_set),
        colours=SPLIT_COLOURS,
        survey_colours=dict(zip(shard_set.survey_names, SURVEY_COLOURS, strict=False)),
        cards=_cards(shard_set),
        pairs=pairs_of(shard_set),
        figures=_figures(shard_set),
        warning=licence_conflict(shard_set.manifest["surveys"]),
        truth=truth,
    )
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def _cards(shard_set: ShardSet) -> list[Card]:
    return [card(shard_set, int(row)) for row in choose(shard_set, GALLERY)]


def pairs_of(shard_set: ShardSet) -> list[Pairs]:
    """One line per counterpart, in the order of the recipe."""
    lines = []
    for rule in shard_set.manifest["recipe"].get("counterparts", []):
        name = rule["survey"]
        separation = shard_set.index[f"{name}_separation_arcsec"]
        found = len(separation) - separation.null_count
        several = pc.sum(pc.greater(shard_set.index[f"{name}_n_candidates"], 1)).as_py() or 0
        median = float(np.median(separation.drop_null().to_numpy())) if found else None
        text = f"{rule['pick']} {Counterpart.model_validate(rule).rule}, {rule['how']}"
        quality = shard_set.manifest.get("matches", {}).get(name)
        lines.append(Pairs(name, text, found, found / max(len(separation), 1), median, several, quality))
    return lines


def _splits(shard_set: ShardSet) -> list[dict[str, Any]]:
    """Per split: samples, shards, bytes, samples with each counterpart."""
    rows = []
    for name, split in shard_set.manifest["splits"].items():
        here = shard_set.index.filter(pc.equal(shard_set.index["split"], name))
        having = {other: pc.sum(here[f"has_{other}"]).as_py() or 0 for other in shard_set.survey_names[1:]}
        counts = {"samples": split["samples"], "shards": len(split["shards"]), "nbytes": split["nbytes"]}
        rows.append({"name": name, **counts, "with": having})
    return rows


def _figures(shard_set: ShardSet) -> Mapping[str, Markup]:
    index, rules = shard_set.index, shard_set.manifest["recipe"].get("counterparts", [])

    def sky(figure: Figure) -> None:
        overview.draw_sky(figure, index, object_positions(shard_set))

    def shards(figure: Figure) -> None:
        overview.draw_shards(figure.add_subplot(), index)

    def separations(figure: Figure) -> None:
        for at, rule in enumerate(rules):
            name, colour = rule["survey"], SURVEY_COLOURS[(at + 1) % len(SURVEY_COLOURS)]
            axes = figure.add_subplot(1, max(3, len(rules)), at + 1)
            quality = shard_set.manifest.get("matches", {}).get(name)
            if quality:
                draw_match(axes, quality, colour, name)
            else:
                values = index[f"{name}_separation_arcsec"].drop_null().to_numpy()
                far = rule.get("radius_arcsec") or max(1.0, float(values.max(initial=0.0)))
                overview.draw_separations(axes, values, far, colour, name)

    figures = {"sky": _figure((9.4, 6.9), "Samples on the sky", sky), "shards": _figure((9.4, 1.9), "Samples per shard", shards)}
    if rules:
        figures["separations"] = _figure((9.4, 2.5), "Separations of the pairs", separations)
    return figures


def _figure(inches: tuple[float, float], title: str, draw: Callable[[Figure], None]) -> Markup:
    with drawing():
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        return Markup(svg(figure, title))  # noqa: S704  drawn here, not taken from input

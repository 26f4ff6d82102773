"""A plan to a map of the sky: the footprint of each survey, and what all of them share."""

from __future__ import annotations

from pathlib import Path

import healpy as hp
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmu_pipeline.plan_table import area
from mmu_pipeline.report.ink import SURVEY_COLOURS, drawing
from mmu_pipeline.stages.overview import Plan

GRID = (1440, 720)
"""Points of the map in right ascension and declination: a quarter of a degree, finer than most of a footprint."""


def draw_plan(plan: Plan, target: Path) -> None:
    """Draw footprints on a Mollweide map, right ascension growing to the left; the kind of file follows its name."""
    ra = np.linspace(180.0, -180.0, GRID[0] + 1)
    dec = np.linspace(-90.0, 90.0, GRID[1] + 1)
    at_ra, at_dec = np.meshgrid((ra[1:] + ra[:-1]) / 2, (dec[1:] + dec[:-1]) / 2)
    with drawing(for_page=False):
        figure = Figure(figsize=(9.0, 5.2), layout="constrained", facecolor="white")
        sky = figure.add_subplot(projection="mollweide")
        sky.grid(linewidth=0.4, alpha=0.6)
        sky.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["8ʰ", "4ʰ", "0ʰ", "20ʰ", "16ʰ"])
        shown = [(name, print_, 0.35) for name, print_ in plan.footprints.items()]
        if plan.surveys[1:]:
            shown.append(("in all", plan.prospect.overlap, 0.9))
        labels = []
        for number, (name, footprint, alpha) in enumerate(shown):
            colour = "#1d2733" if name == "in all" else SURVEY_COLOURS[number % len(SURVEY_COLOURS)]
            if footprint is None:
                labels.append(Patch(facecolor="none", edgecolor=colour, label=f"{name}: not known before a scan"))
                continue
            labels.append(Patch(facecolor=colour, alpha=alpha, label=f"{name}: {area(footprint.area_deg2)}"))
            pixels = hp.ang2pix(1 << footprint.order, np.mod(at_ra, 360.0), at_dec, nest=True, lonlat=True)
            inside = np.ma.masked_equal(footprint.mask[pixels].astype(int), 0)
            sky.pcolormesh(-np.radians(ra), np.radians(dec), inside, cmap=ListedColormap([colour]), alpha=alpha, rasterized=True)
        figure.legend(handles=labels, loc="outside lower center", ncols=3)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=130)

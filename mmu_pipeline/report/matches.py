"""What a manifest says of a match to a figure: candidates by separation, chance beside them, and the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mmu_pipeline.report.ink import FAINT
from mmu_pipeline.separations import expected_pairs


def draw_match(axes: Axes, match: Mapping[str, Any], colour: str, title: str) -> None:
    """Pairs of each separation out to twice the radius, on a logarithmic scale; chance from shifted places; the fit."""
    histogram, fit = match["histogram"], match["fit"]
    bounds = np.array(histogram["edges_arcsec"])
    pairs, chance, error = (np.array(histogram[name], float) for name in ("pairs", "chance", "chance_error"))
    middles = (bounds[1:] + bounds[:-1]) / 2
    axes.stairs(pairs, bounds, fill=True, color=colour, alpha=0.5, label="pairs")
    shown = chance > 0
    axes.errorbar(middles[shown], chance[shown], error[shown], label="by chance", fmt=".", markersize=2.5, color=FAINT)
    sigma = fit["sigma_arcsec"]
    density = fit["chance_per_arcmin2"]["value"]
    share = fit["true_fraction"]["value"] if sigma else 0.0
    model = expected_pairs(bounds, match["primaries"], share, density, sigma["value"] if sigma else bounds[-1])
    axes.plot(middles, model, color=colour, linewidth=1.1, label="fit")
    axes.axvline(match["radius_arcsec"], color=FAINT, linewidth=1, linestyle="--")
    top = max(float(pairs.max(initial=0)), 1.0)
    axes.set_ylim(min(0.5, float(chance[shown].min())) if shown.any() else 0.5, 2.5 * top)
    axes.set_yscale("log")
    axes.set_xlim(0, bounds[-1])
    axes.set_xlabel("separation (arcsec)")
    axes.set_ylabel("candidates")
    axes.set_title(f"{title}: σ {sigma['value']:.2g}″" if sigma else title)
    axes.legend(loc="upper right", handlelength=1.2, fontsize=7)

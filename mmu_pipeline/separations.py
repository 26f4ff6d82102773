"""Counts of pairs by separation to what they say of a match: its scatter, its share of chance, what the radius cuts off.

True pairs follow a Rayleigh distribution, if errors are alike in both coordinates; pairs by chance grow in number linearly with
the separation. The sum of the two is fitted to the histogram; shifted copies of the counterpart measure chance by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from mmu_pipeline.chance import BINS, Counts, edges
from mmu_pipeline.sky import Float

STARTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Scatters, in radii, from which the fit is begun: the best end counts."""
NARROWEST, WIDEST = 1e-3, 1.0
"""Between which scatters the fit looks, in radii."""
SIGNIFICANT = 3.0
"""Below so many times its error a number of true pairs says nothing of their scatter."""


@dataclass(frozen=True)
class Measured:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Fit:
    """A Rayleigh distribution and a linear background, fitted to the separations of all candidates."""

    sigma_arcsec: Measured | None
    """Scatter in one coordinate; None where true pairs are too few to tell."""
    true_fraction: Measured
    """True pairs over primaries, at any separation."""
    chance_per_arcmin2: Measured
    """Density of the background."""
    chi2: float
    """Of the histogram: sum of (observed - expected)**2 / expected."""
    degrees_of_freedom: int


@dataclass(frozen=True)
class Quality:
    """What is known of the matches of one counterpart, from a sample of its primaries."""

    chance_per_arcmin2: Measured
    """Density of counterparts around shifted places."""
    false_rate: Measured
    """Share of the matches at the recipe's radius that are expected to be by chance."""
    lost_beyond_radius: float | None
    """Share of true pairs that lie further apart than the radius, by the fit; None where their scatter is not known."""
    seen_beyond_radius: Measured
    """Pairs between the radius and twice it, above those by chance, over primaries that have a match: what a wider radius gains.
    More than the fit says it should be, where errors have tails or stars have moved."""
    matched_fraction: float
    """Primaries with a candidate within the radius, over all."""
    fit: Fit


def assess(counts: Counts, shifts: int, pick: str) -> Quality:
    """What some counts say of a match; `shifts` are the places that were looked at around each primary."""
    radius_arcsec, places = counts.radius_arcsec, shifts * counts.primaries
    bounds = edges(radius_arcsec)
    fit = fit_separations(counts.observed, bounds, counts.primaries)
    area = np.pi * bounds[-1] ** 2 / 3600.0 * max(places, 1)
    found = sum(counts.chance)
    density = Measured(float(found / area), float(max(found, 1) ** 0.5 / area))
    beyond, by_chance = sum(counts.observed[BINS // 2 :]), sum(counts.chance[BINS // 2 :]) / shifts
    matched = max(counts.matched, 1)
    lost = None if fit.sigma_arcsec is None else float(np.exp(-0.5 * (radius_arcsec / fit.sigma_arcsec.value) ** 2))
    return Quality(
        chance_per_arcmin2=density,
        false_rate=false_rate(counts, fit, density.value, places, pick),
        lost_beyond_radius=lost,
        seen_beyond_radius=Measured((beyond - by_chance) / matched, (beyond + by_chance / shifts) ** 0.5 / matched),
        matched_fraction=counts.matched / max(counts.primaries, 1),
        fit=fit,
    )


def fit_separations(observed: Sequence[int], bounds: Float, primaries: int) -> Fit:
    """Fit A (exp(-a**2 / 2 s**2) - exp(-b**2 / 2 s**2)) + B (b**2 - a**2) / L**2 to the pairs in bins from a to b.

    A are true pairs, B those by chance within L, the end of the histogram, s is the scatter. Poisson likelihood; errors from
    its Fisher information.
    """
    counts, length = np.asarray(observed, np.float64), float(bounds[-1])
    scale, radius = max(counts.sum(), 1.0), length / 2.0

    def parts(parameters: Float) -> Float:
        """Expected pairs per bin of each kind, and by how much they change with the scatter. Shape (3, bins)."""
        true, _, sigma = parameters
        steps = bounds / (sigma * radius)
        inside = np.exp(-0.5 * steps**2)
        shapes = [-np.diff(inside), np.diff(bounds**2) / length**2, -true * np.diff(inside * steps**2) / sigma]
        return np.asarray(scale * np.stack(shapes))

    def expected(parameters: Float) -> Float:
        return np.asarray(parameters[:2] @ parts(parameters)[:2] + 1e-9)

    def cost(parameters: Float) -> tuple[float, Float]:
        """The negative logarithm of the likelihood, and its slopes."""
        model = expected(parameters)
        return float((model - counts * np.log(model)).sum() / scale), parts(parameters) @ (1.0 - counts / model) / scale

    limits = [(0.0, None), (0.0, None), (NARROWEST, WIDEST)]
    ends = [minimize(cost, (0.5, 0.5, start), jac=True, method="L-BFGS-B", bounds=limits) for start in STARTS]
    best = np.asarray(min(ends, key=lambda end: float(end.fun)).x)
    model, slopes = expected(best), parts(best)
    error = np.sqrt(np.diag(np.linalg.pinv((slopes / model) @ slopes.T)))
    true, chance, area = scale * best[0], scale * best[1], np.pi * length**2 / 3600.0 * max(primaries, 1)
    known = best[0] > SIGNIFICANT * error[0]
    return Fit(
        sigma_arcsec=Measured(float(best[2] * radius), float(error[2] * radius)) if known else None,
        true_fraction=Measured(float(true / max(primaries, 1)), float(scale * error[0] / max(primaries, 1))),
        chance_per_arcmin2=Measured(float(chance / area), float(scale * error[1] / area)),
        chi2=float(((counts - model) ** 2 / np.maximum(model, 1.0)).sum()),
        degrees_of_freedom=len(counts) - 3,
    )


def expected_pairs(bounds: Float, primaries: int, true_fraction: float, chance_per_arcmin2: float, sigma_arcsec: float) -> Float:
    """What a fit expects in bins of separation, as `fit_separations` has it. Shape (bins,)."""
    true = -np.diff(np.exp(-0.5 * (bounds / sigma_arcsec) ** 2)) * true_fraction
    return np.asarray(primaries * (true + np.pi * np.diff(bounds**2) / 3600.0 * chance_per_arcmin2))


def false_rate(counts: Counts, fit: Fit, density: float, places: int, pick: str) -> Measured:
    """Share of the matches within the radius that are expected to be by chance.

    With `all`, of the pairs. With the others, of the primaries: one without a true counterpart is matched wherever a shifted
    place would be; one with it, where chance puts another nearer, or where the true one lies beyond the radius. `best` takes any
    candidate, so that every chance one counts: an upper limit, as is that of `nearest` for `mutual`.
    """
    hits = max(counts.chance_matched, 1)
    any_near = Measured(counts.chance_matched / max(places, 1), hits**0.5 / max(places, 1))
    if pick == "all":
        inside, found = sum(counts.observed[: BINS // 2]), sum(counts.chance[: BINS // 2])
        per_pair = counts.primaries / max(places, 1) / max(inside, 1)
        return Measured(min(1.0, found * per_pair), max(found, 1) ** 0.5 * per_pair)
    share = fit.true_fraction.value if fit.sigma_arcsec else 0.0
    nearer = any_near.value
    if fit.sigma_arcsec and not pick.startswith("best"):
        spread = 0.5 * (counts.radius_arcsec / fit.sigma_arcsec.value) ** 2
        crowd = 2.0 * np.pi * density / 3600.0 * fit.sigma_arcsec.value**2
        nearer = 1 - np.exp(-spread) - (1 - np.exp(-spread * (1 + crowd))) / (1 + crowd) + np.exp(-spread) * any_near.value
    matched = max(counts.matched, 1)
    rate = counts.primaries * ((1 - share) * any_near.value + share * nearer) / matched
    error = counts.primaries * np.hypot((1 - share) * any_near.error, fit.true_fraction.error * any_near.value) / matched
    return Measured(min(1.0, float(max(rate, 0.0))), float(error))

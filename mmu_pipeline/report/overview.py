"""The index of a shard set to figures of the whole: its place on the sky, the separations of its pairs, its shards."""

from __future__ import annotations

from collections.abc import Mapping

import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmu_pipeline.report.ink import FAINT, SPLIT_COLOURS, SURVEY_COLOURS
from mmu_pipeline.sky import CELL_ORDER, Float, Int, arcsec, pixels_at, unit_vectors

CLOSE_UPS = 4
EDGE_POINTS = 12


def draw_sky(figure: Figure, index: pa.Table, objects: Mapping[str, tuple[Float, Float]]) -> None:
    """All samples on a Mollweide map, coloured by split, with their cells; below, the fields that hold most of them.

    `objects` are positions (ra, dec in degrees) of the surveys' object tables, drawn beneath.
    """
    grid = figure.add_gridspec(2, CLOSE_UPS, height_ratios=(2.1, 1))
    sky = figure.add_subplot(grid[0, :], projection="mollweide")
    sky.grid(linewidth=0.4, alpha=0.6)
    sky.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["8ʰ", "4ʰ", "0ʰ", "20ʰ", "16ʰ"])
    sky.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["−60°", "−30°", "", "30°", "60°"])
    cells = np.unique(pixels_at(index["_healpix_29"].to_numpy(), CELL_ORDER))
    for ra, dec in _outlines(cells):
        sky.plot(*_mollweide(ra, dec), color=FAINT, linewidth=1)
    for colour, (ra, dec) in zip(SURVEY_COLOURS, objects.values(), strict=False):
        sky.plot(*_mollweide(ra, dec), ".", markersize=2, color=colour, alpha=0.5)
    for split, colour in SPLIT_COLOURS.items():
        rows = index.filter(pc.equal(index["split"], split))
        place = _mollweide(rows["ra"].to_numpy(), rows["dec"].to_numpy())
        sky.plot(*place, "o", markersize=3.4, color=colour, markeredgewidth=0)
    for number, centre in enumerate(_crowded(index, CLOSE_UPS)):
        axes = figure.add_subplot(grid[1, number])
        _close_up(axes, centre, index, objects)
        if number == 0:
            axes.set_ylabel("Δδ (°)", fontsize=7)


def _mollweide(ra: Float, dec: Float) -> tuple[Float, Float]:
    """Map coordinates in radians, right ascension growing to the left, RA 0 in the middle; lines broken where they wrap."""
    longitude = -np.radians((np.asarray(ra) + 180) % 360 - 180)
    latitude = np.radians(np.asarray(dec))
    wrapped = np.flatnonzero(np.abs(np.diff(longitude)) > np.pi) + 1
    return np.insert(longitude, wrapped, np.nan), np.insert(latitude, wrapped, np.nan)


def _outlines(cells: Int) -> list[tuple[Float, Float]]:
    """The border of each order-4 cell as a closed line, degrees."""
    lines = []
    for cell in cells:
        ra, dec = hp.vec2ang(hp.boundaries(1 << CELL_ORDER, int(cell), step=EDGE_POINTS, nest=True).T, lonlat=True)
        lines.append((np.append(ra, ra[0]), np.append(dec, dec[0])))
    return lines


def _crowded(index: pa.Table, most: int) -> list[tuple[float, float]]:
    """Centres (degrees) of the order-4 cells with most samples, no two within four degrees."""
    pixels, counts = np.unique(pixels_at(index["_healpix_29"].to_numpy(), CELL_ORDER), return_counts=True)
    ra, dec = index["ra"].to_numpy(), index["dec"].to_numpy()
    place = pixels_at(index["_healpix_29"].to_numpy(), CELL_ORDER)
    centres: list[tuple[float, float]] = []
    for pixel in pixels[np.argsort(-counts, kind="stable")]:
        mean = unit_vectors(ra[place == pixel], dec[place == pixel]).mean(axis=0)
        lon, lat = hp.vec2ang(mean, lonlat=True)
        here = unit_vectors(lon, lat)
        known = unit_vectors(*np.array(centres).reshape(-1, 2).T)
        if np.all(arcsec(np.linalg.norm(here - known, axis=1)) > 4 * 3600):
            centres.append((float(lon[0]), float(lat[0])))
        if len(centres) == most:
            break
    return centres


def _close_up(axes: Axes, centre: tuple[float, float], index: pa.Table, objects: Mapping[str, tuple[Float, Float]]) -> None:
    """A field of a few degrees in tangent-plane offsets, with cell borders; a ring for each survey that lists an object."""
    x, y = _tangent(index["ra"].to_numpy(), index["dec"].to_numpy(), centre)
    near = np.hypot(x, y) < 3
    reach = max(0.05, 1.15 * float(np.quantile(np.hypot(x[near], y[near]), 0.97)))
    for ra, dec in _outlines(np.unique(pixels_at(index["_healpix_29"].to_numpy(), CELL_ORDER))):
        axes.plot(*_tangent(ra, dec, centre), color=FAINT, linewidth=0.8)
    for ring, (colour, (ra, dec)) in enumerate(zip(SURVEY_COLOURS, objects.values(), strict=False)):
        place, size = _tangent(ra, dec, centre), 3.6 + 2.4 * ring
        axes.plot(*place, "o", markersize=size, markerfacecolor="none", color=colour, markeredgewidth=0.6)
    split = index["split"].to_numpy(zero_copy_only=False)
    for name, colour in SPLIT_COLOURS.items():
        axes.plot(x[split == name], y[split == name], ".", markersize=2.4, color=colour)
    axes.set_xlim(reach, -reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_title(f"{centre[0]:.1f}°, {centre[1]:+.1f}°", fontsize=8, fontweight="normal")
    axes.tick_params(labelsize=7)
    axes.set_xlabel("ΔRA cos δ (°)", fontsize=7)


def _tangent(ra: Float, dec: Float, centre: tuple[float, float]) -> tuple[Float, Float]:
    """Gnomonic offsets in degrees, east and north; NaN on the far side of the sky."""
    lon, lat = np.radians(np.asarray(ra) - centre[0]), np.radians(np.asarray(dec))
    lat0 = np.radians(centre[1])
    depth = np.sin(lat0) * np.sin(lat) + np.cos(lat0) * np.cos(lat) * np.cos(lon)
    depth = np.where(depth > 0.2, depth, np.nan)
    east = np.cos(lat) * np.sin(lon) / depth
    north = (np.cos(lat0) * np.sin(lat) - np.sin(lat0) * np.cos(lat) * np.cos(lon)) / depth
    return np.degrees(east), np.degrees(north)


def draw_separations(axes: Axes, separation: Float, radius_arcsec: float, colour: str, title: str) -> None:
    """Histogram of the separations of one counterpart, up to the radius of the match."""
    axes.hist(separation, bins=np.linspace(0, radius_arcsec, 41).tolist(), color=colour, alpha=0.85)
    if len(separation):
        middle = float(np.median(separation))
        axes.axvline(middle, color=FAINT, linewidth=1, linestyle="--")
        axes.annotate(f"median {middle:.3g}″", (middle, 0.96), xycoords=("data", "axes fraction"), xytext=(4, 0),
                      textcoords="offset points", va="top", fontsize=7.5)  # fmt: skip
    axes.set_xlim(0, radius_arcsec)
    axes.set_xlabel("separation (arcsec)")
    axes.set_title(f"{title}: {len(separation):,} pairs")


def draw_shards(axes: Axes, index: pa.Table) -> None:
    """Samples of each shard as bars, coloured by split, shards in the order of their names."""
    counts = index.group_by(["shard", "split"]).aggregate([("key", "count")]).sort_by("shard")
    splits = counts["split"].to_pylist()
    colours = [SPLIT_COLOURS[split] for split in splits]
    axes.bar(np.arange(counts.num_rows), counts["key_count"].to_numpy(), color=colours, width=0.82)
    for split in SPLIT_COLOURS:
        at = [number for number, name in enumerate(splits) if name == split]
        if at:
            axes.annotate(split, (float(np.mean(at)), 0), xytext=(0, -6), textcoords="offset points", ha="center", va="top")
    axes.set_xticks([])
    axes.set_ylabel("samples")
    axes.set_title(f"Samples in each of {counts.num_rows:,} shards")

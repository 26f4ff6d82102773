"""The journal of a run to one self-contained HTML page: what each worker did when, throughput, slow units, what was set aside."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import healpy as hp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import mmu_pipeline
from mmu_pipeline.progress import Tally
from mmu_pipeline.report.ink import drawing, svg
from mmu_pipeline.sky import CELL_ORDER, Float, Int
from mmu_pipeline.stages.build import STAGES
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.storage import Root
from mmu_pipeline.tables import duration, size

SHOWN = (*STAGES, "check")
COLOURS = ("#3b82c4", "#2a9d8f", "#8a63c9", "#d1603d", "#e0982f", "#c8508c", "#6b7a8f")
STAGE_COLOURS = dict(zip(SHOWN, COLOURS, strict=True))
STATES = {"reused": "#9aa7b4", "done": "#2a8a5f", "set_aside": "#c0392b"}
"""From the best to the worst."""
MOST_LANES = 64
"""Worker threads that have a line of their own in the timeline; those beyond are drawn into the last."""
MOMENTS = 600
SLOWEST = 15
MOST_LISTED = 500


@dataclass(frozen=True)
class StageLine:
    """One row of the page's table of stages."""

    tally: Tally
    unit_seconds: float
    rows_rate: float | None
    bytes_rate: float | None


def page_folder(recipe: str, version: str) -> str:
    return f"reports/{recipe}/{version}"


def write_run_page(
    root: Root, recipe: str, published: Published, units: pa.Table, stages: Sequence[Tally], seconds: float
) -> str:
    """Write the page of a run, `run.html`, and its units, `units.parquet`, under `reports/`; gives the URL of the page.

    `units` is the table of a `Journal`. A run that finds the version there leaves the page of the run that made it as it is,
    also where it tried again what is set aside.
    """
    folder = page_folder(recipe, published.version)
    if not (published.reused and root.exists(f"{folder}/run.html")):
        stream = io.BytesIO()
        pq.write_table(units, stream, compression="zstd")
        root.write_bytes(f"{folder}/units.parquet", stream.getvalue())
        root.write_bytes(f"{folder}/run.html", run_page(recipe, published, units, stages, seconds).encode())
    return root.at(f"{folder}/run.html").url


def run_page(recipe: str, published: Published, units: pa.Table, stages: Sequence[Tally], seconds: float) -> str:
    """The page as HTML."""
    timed = units.filter(pc.and_(pc.not_equal(units["status"].cast(pa.string()), "reused"), pc.greater(units["started"], 0)))
    began = pc.min(timed["started"]).as_py()
    lanes = len(pc.unique(timed["worker"])) if len(timed) else 0
    busy = (pc.sum(timed["seconds"]).as_py() or 0.0) / max(lanes * seconds, 1e-9)
    environment = Environment(loader=PackageLoader("mmu_pipeline.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters |= {"grouped": lambda number: f"{number:,}", "size": size, "duration": duration}
    return environment.get_template("run.html.j2").render(
        recipe=recipe,
        published=published,
        software=mmu_pipeline.__version__,
        began=datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M:%S") if began else "",
        seconds=seconds,
        units=len(units),
        reused=sum(stage.reused for stage in stages),
        again=units.filter(pc.greater(units["attempts"], 1)).sort_by([("attempts", "descending")]).to_pylist(),
        workers=lanes,
        busy=min(busy, 1.0),
        stages=[_stage_line(tally, timed) for tally in stages if tally.units],
        slowest=timed.sort_by([("seconds", "descending")]).slice(0, SLOWEST).to_pylist(),
        figures=_figures(timed) if len(timed) else {},
        sky=_sky(units),
        colours=STAGE_COLOURS,
        states={name.replace("_", " "): colour for name, colour in STATES.items()},
        most_listed=MOST_LISTED,
    )


def _stage_line(tally: Tally, timed: pa.Table) -> StageLine:
    """Rates are of what ran now, over the time that the stage took."""
    here = timed.filter(pc.equal(timed["stage"].cast(pa.string()), tally.stage))
    rows, nbytes, spent = (pc.sum(here[name]).as_py() or 0 for name in ("rows_out", "nbytes", "seconds"))
    ran = len(here) > 0 and tally.seconds > 0
    return StageLine(tally, float(spent), rows / tally.seconds if ran else None, nbytes / tally.seconds if ran else None)


def _figures(timed: pa.Table) -> dict[str, Markup]:
    start = timed["started"].to_numpy()
    stop = start + timed["seconds"].to_numpy()
    edges = np.linspace(start.min(), max(stop.max(), start.min() + 1e-3), MOMENTS + 1)
    stage = pc.index_in(timed["stage"].cast(pa.string()), pa.array(SHOWN)).to_numpy()
    names, lane = np.unique(timed["worker"].cast(pa.string()).to_numpy(zero_copy_only=False), return_inverse=True)
    lane = np.minimum(lane, MOST_LANES - 1)
    lanes = int(lane.max()) + 1
    totals = {
        "rows": timed["rows_out"].to_numpy(),
        "bytes": timed["nbytes"].to_numpy(),
        "units": np.ones(len(timed), np.int64),
    }

    def timeline(figure: Figure) -> None:
        _draw_timeline(figure.add_subplot(), start, stop, lane, stage, edges, [str(name) for name in names[:lanes]])

    def throughput(figure: Figure) -> None:
        for at, (what, amounts) in enumerate(totals.items()):
            _draw_rate(figure.add_subplot(1, len(totals), at + 1), stop, amounts, stage, edges[::20], what)

    return {
        "timeline": _figure((9.4, 1.0 + 0.16 * lanes), "What each worker did", timeline),
        "throughput": _figure((9.4, 1.9), "Throughput", throughput),
    }


def _draw_timeline(axes: Axes, start: Float, stop: Float, lane: Int, stage: Int, edges: Float, names: Sequence[str]) -> None:
    """A line per worker thread, a pixel per moment: the colour of the stage that kept it busiest, deeper the busier it was."""
    busy = np.stack(
        [busy_share(start[stage == s], stop[stage == s], lane[stage == s], edges, len(names)) for s in range(len(SHOWN))]
    )
    colours = np.array([to_rgb(STAGE_COLOURS[name]) for name in SHOWN])
    picture = np.concatenate([colours[busy.argmax(axis=0)], np.clip(busy.sum(axis=0), 0, 1)[..., None]], axis=-1)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(0.0, edges[-1] - edges[0], len(names) - 0.5, -0.5))
    axes.set_xlabel("seconds")
    shown = range(0, len(names), max(1, len(names) // 16))
    axes.set_yticks(list(shown), [names[number] for number in shown], fontsize=6.5)
    for name in SHOWN:
        axes.plot([], [], "s", color=STAGE_COLOURS[name], label=name)
    axes.legend(ncols=len(SHOWN), loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)


def busy_share(start: Float, stop: Float, lane: Int, edges: Float, lanes: int) -> Float:
    """How much of each moment each lane was busy, shape (lanes, len(edges) - 1), from intervals in seconds, all shape (n,)."""
    width = edges[1] - edges[0]
    moments = len(edges) - 1
    first, last = ((np.clip((times - edges[0]) / width, 0, moments)) for times in (start, stop))
    grown = np.zeros((lanes, moments + 2))
    for at, sign in ((first, 1.0), (last, -1.0)):
        # the integral of a step at x, by moment: the rest of the moment that x lies in, then whole moments
        whole = np.minimum(at.astype(np.int64), moments)
        rest = whole + 1 - at
        np.add.at(grown, (lane, whole), sign * rest)
        np.add.at(grown, (lane, whole + 1), sign * (1 - rest))
    return np.asarray(np.cumsum(grown, axis=1)[:, :moments])


def _draw_rate(axes: Axes, stop: Float, amounts: Int, stage: Int, edges: Float, what: str) -> None:
    """Amounts a second as they came, a stacked area per stage."""
    counts = [np.histogram(stop[stage == s], edges, weights=amounts[stage == s])[0] for s in range(len(SHOWN))]
    rates = np.array(counts) / (edges[1] - edges[0])
    middle = (edges[1:] + edges[:-1]) / 2 - edges[0]
    axes.stackplot(middle, rates, colors=list(STAGE_COLOURS.values()), step="mid", linewidth=0)
    axes.set_title(f"{what} a second")
    axes.set_xlabel("seconds")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: size(value) if what == "bytes" else f"{value:,.4g}")


def _sky(units: pa.Table) -> Markup | None:
    """All-sky map of the cells of a run; None where no unit is of a cell."""
    worst = worst_states(units)
    if not (worst >= 0).any():
        return None
    lon, lat = np.meshgrid(np.linspace(-180, 180, 721), np.linspace(-90, 90, 361))
    pixels = hp.ang2pix(1 << CELL_ORDER, -lon % 360, lat, nest=True, lonlat=True)
    colours = np.array([(0.5, 0.5, 0.5, 0.0), *((*to_rgb(colour), 1.0) for colour in STATES.values())])

    def draw(figure: Figure) -> None:
        axes: Any = figure.add_subplot(projection="mollweide")
        axes.pcolormesh(np.radians(lon), np.radians(lat), colours[worst[pixels] + 1], shading="nearest", rasterized=True)
        axes.grid(linewidth=0.4, alpha=0.6)
        axes.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["8ʰ", "4ʰ", "0ʰ", "20ʰ", "16ʰ"])
        axes.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["−60°", "−30°", "", "30°", "60°"])

    return _figure((9.4, 4.6), "Cells by state", draw)


def worst_states(units: pa.Table) -> Int:
    """The worst state of the units that cover each order-4 cell, as its place in STATES; -1 where none does. Shape (3072,).

    Of a unit of several cells those count that a unit of a single one names too: a block of a match is mostly empty sky. Where
    there are none such, all of them.
    """
    known = units.filter(pc.is_valid(units["cell"]))
    state = pc.index_in(known["status"].cast(pa.string()), pa.array(list(STATES))).to_numpy()
    counts = known["cells"].to_numpy()
    first = np.cumsum(counts) - counts
    covered = np.repeat(known["cell"].to_numpy() - first, counts) + np.arange(counts.sum())
    worst, named = np.full(12 * 4**CELL_ORDER, -1), np.zeros(12 * 4**CELL_ORDER, bool)
    named[known["cell"].to_numpy()[counts == 1]] = True
    there = named[covered] if named.any() else np.ones(len(covered), bool)
    np.maximum.at(worst, covered[there], np.repeat(state, counts)[there])
    return worst


def _figure(inches: tuple[float, float], title: str, draw: Callable[[Figure], None]) -> Markup:
    with drawing():
        figure = Figure(figsize=inches, layout="constrained", dpi=110)
        draw(figure)
        return Markup(svg(figure, title))  # noqa: S704  drawn here, not taken from input

"""Matplotlib figures to inline SVG whose ink follows the page, light or dark, and to PNG data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.image import imsave

INK, FAINT = "#123456", "#654321"
"""Stand-ins: the page's own text colour and its colour of thin lines take their place in the SVG."""
SPLIT_COLOURS = {"train": "#3b82c4", "validation": "#e0982f", "test": "#c8508c"}
SURVEY_COLOURS = ("#7a8793", "#2a9d8f", "#8a63c9", "#d1603d", "#3f7cac", "#b0902f")
BAND_COLOURS = {
    "u": "#7e57c2", "g": "#2f9e6e", "r": "#d9534f", "i": "#b8742a", "z": "#6d4c41", "y": "#8d6e9a", "Y": "#8d6e9a",
    "U": "#7e57c2", "B": "#3b6fc9", "V": "#2f9e6e", "R": "#d9534f", "I": "#b8742a", "J": "#6d4c41", "H": "#4e5d6c",
}  # fmt: skip
OTHER_BANDS = ("#00838f", "#ad1457", "#9e9d24", "#5d4037", "#455a64")
"""For bands without a usual colour, in turn."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmu",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "path.simplify": True,
    "path.simplify_threshold": 0.4,
}
INKED = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
LINED = ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color")


@contextmanager
def drawing(for_page: bool = True) -> Iterator[None]:
    """The style of all figures; `for_page` leaves the ink to the page, otherwise it is dark on white."""
    ink, faint = (INK, FAINT) if for_page else ("#1d2733", "#8793a0")
    style: Any = STYLE | dict.fromkeys(INKED, ink) | dict.fromkeys(LINED, faint)
    with matplotlib.rc_context(style):
        yield


def svg(figure: Figure, title: str) -> str:
    """An inline SVG element that scales with its box. `title` is what a screen reader says."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", text)
    text = text.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")
    return re.sub(r"(<svg[^>]*>)", lambda found: f"{found[1]}<title>{escape(title)}</title>", text, count=1)


def png_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """An RGB array (height, width, 3) as a data URI; row 0 at the bottom, as in FITS images."""
    stream = io.BytesIO()
    imsave(stream, rgb, format="png", origin="lower")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def jpeg_uri(content: bytes) -> str:
    """A JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def band_colour(band: str, number: int) -> str:
    """The usual colour of a band by its letter, whatever camera is named before it (`kep_v`); else one by its number."""
    letter = band.rsplit("_", 1)[-1][:1]
    known = BAND_COLOURS.get(letter) or BAND_COLOURS.get(letter.upper())
    return OTHER_BANDS[number % len(OTHER_BANDS)] if band.startswith("uv") or known is None else known

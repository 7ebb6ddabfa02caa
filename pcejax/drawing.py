"""How figures look: colours that all eyes tell apart, ink that follows the page, files that are the same each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#888888")
"""Told apart by every kind of colour vision, on white and on black (Okabe and Ito, 2008)."""
_MARKERS = "osD^vPX*"

INK, _INK_IN_THE_DARK = "#24292f", "#d0d7de"
LOOK: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#88888844",
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.hashsalt": "pcejax",  # names inside a file are those of the last time
}
"""For matplotlib.rc_context, around all that draws."""


class Drawn(NamedTuple):
    """A figure and its caption."""

    figure: Figure
    caption: str


def save(figure: Figure, path: Path) -> None:
    """Writes `path`.png on white, and `path`.svg, whose ink follows the reader's light or dark page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        svg = path.with_suffix(".svg")
        figure.savefig(svg, transparent=True, metadata={"Date": None, "Creator": None})
    style = f"<style>:root{{color:{INK}}}@media(prefers-color-scheme:dark){{:root{{color:{_INK_IN_THE_DARK}}}}}</style>"
    drawing = svg.read_text().replace(INK, "currentColor")
    end_of_root = drawing.index(">", drawing.index("<svg")) + 1
    svg.write_text(drawing[:end_of_root] + style + drawing[end_of_root:])


def watermark(figure: Figure, words: str) -> None:
    """Lays words across a figure, "" for none."""
    if words:
        width, height = figure.get_size_inches()
        angle = math.degrees(math.atan2(height, width)) / 2
        size = min(30, 100 * width / len(words))
        figure.text(0.5, 0.5, words, size=size, rotation=angle, ha="center", va="center", alpha=0.16, weight="bold")


def color(index: int) -> str:
    """Of the curve at `index`."""
    return _COLORS[index % len(_COLORS)]


def marker(index: int) -> str:
    """Of the curve at `index`."""
    return _MARKERS[index % len(_MARKERS)]


def dots(axes: Axes, x: Sequence[float], y: Sequence[float], index: int) -> None:
    """Single runs, faint, in the colour of the curve at `index`."""
    axes.plot(x, y, ".", color=color(index), alpha=0.4, mew=0)


def error(value: float, interval: Sequence[float] | None) -> np.ndarray | None:
    """Float `[2, 1]`, how far an interval goes below and above its value, as matplotlib wants it."""
    return None if interval is None else np.abs(np.array(interval) - value)[:, None]

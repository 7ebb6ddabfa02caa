"""An ablation's summary -> figures: curves over budgets and hours, settings and their differences, iso-cost lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from pcejax import label_options
from pcejax.ablation_results import Arm, setting

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#888888")
"""Told apart by every kind of colour vision, on white and on black (Okabe and Ito, 2008)."""
_MARKERS = "osD^vPX*"
_DASHES = {"dense": "--", "dense_balanced": ":"}
_REFERENCES = {"dense": "s", "dense_balanced": "D"}
_WHAT = "Dots are single runs; intervals of 95 % are over tiles, point draws and seeds."

_INK, _INK_IN_THE_DARK = "#24292f", "#d0d7de"
_LOOK: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#88888844",
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.hashsalt": "pcejax",  # names inside a file are those of the last time
}


class Drawn(NamedTuple):
    """A figure and its caption."""

    figure: Figure
    caption: str


class _Curve(NamedTuple):
    """Settings that differ in their budget alone, the lowest first, and the references beside them."""

    held: dict[str, str]
    settings: list[dict[str, Any]]
    references: dict[str, dict[str, Any]]


def draw(about: dict[str, Any], arms: Sequence[Arm], summary: dict[str, Any]) -> dict[str, Drawn]:
    """The figures of an ablation, by name.

    Args:
      about: ablation.json.
      arms: that the summary is of.
      summary: of `ablation_statistics.summarise`.
    """
    single: dict[str, list[float]] = {}
    for arm in arms:
        single.setdefault(setting(arm.run.levels), []).append(arm.miou)
    curves = _curves(about, summary)
    drawn = {}
    with matplotlib.rc_context(_LOOK):
        if curves:
            unit = _unit(arms)
            drawn["miou_over_budget"] = _over_budget(about, curves, single, unit, summary["saturation"])
            drawn["iou_over_budget"] = _classes(about, curves, unit)
            drawn["miou_over_hours"] = _over_hours(curves, single)
        else:
            drawn["settings"] = _settings(summary, single)
        tiles = _tiles_axis(about, arms) if curves else None
        if tiles:
            drawn["iso_cost"] = _iso_cost(about, arms, summary, tiles)
        if summary["differences"]:
            drawn["differences"] = _differences(summary)
        for figure, _ in drawn.values():
            _watermark(figure, about["watermark"])
    return drawn


def save(figure: Figure, path: Path) -> None:
    """Writes `path`.png on white, and `path`.svg, whose ink follows the reader's light or dark page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_LOOK):
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        svg = path.with_suffix(".svg")
        figure.savefig(svg, transparent=True, metadata={"Date": None, "Creator": None})
    style = (
        f"<style>:root{{color:{_INK}}}@media(prefers-color-scheme:dark){{:root{{color:{_INK_IN_THE_DARK}}}}}</style>"
    )
    drawing = svg.read_text().replace(_INK, "currentColor")
    end_of_root = drawing.index(">", drawing.index("<svg")) + 1
    svg.write_text(drawing[:end_of_root] + style + drawing[end_of_root:])


def difference_name(difference: dict[str, Any]) -> str:
    """Such as "points: 3 minus 1, model=deep"."""
    held = f", {setting(difference['held'])}" if difference["held"] else ""
    return f"{difference['axis']}: {difference['level']} minus {difference['against']}{held}"


def _curves(about: dict[str, Any], summary: dict[str, Any]) -> list[_Curve]:
    """The curves of a budget axis; none where it has fewer than two budgets."""
    axis, budgets = about["budget_axis"], about["budgets"]
    if sum(budget is not None for budget in budgets.values()) < 2:
        return []
    curves: dict[str, _Curve] = {}
    for found in summary["settings"]:
        held = {name: level for name, level in found["levels"].items() if name != axis}
        curve = curves.setdefault(setting(held), _Curve(held, [], {}))
        level = found["levels"][axis]
        if budgets[level] is not None:
            curve.settings.append(found)
        for name, reference in about["references"].items():
            if reference == level:
                curve.references[name] = found
    for curve in curves.values():
        curve.settings.sort(key=lambda found: budgets[found["levels"][axis]])
    return [curve for curve in curves.values() if curve.settings]


def _unit(arms: Sequence[Arm]) -> str:
    annotators = {arm.points["annotator"] for arm in arms} - {*label_options.DENSE}
    if annotators <= {"balanced", "file"}:
        return "points per class and tile"
    return {("uniform",): "points per tile", ("component",): "points per component"}.get(tuple(annotators), "budget")


def _line(
    axes: Axes, x: np.ndarray, curves: list[_Curve], index: int, score: Callable[[Any], tuple[Any, Any]]
) -> None:
    """The curve at `index` over `x`; score gives value and interval of a setting.

    Intervals are a band, or bars where the bands of several curves would hide each other.
    """
    color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
    scores = [score(found) for found in curves[index].settings]
    values = np.array([value for value, _ in scores], float)
    low, high = np.array([interval or (np.nan, np.nan) for _, interval in scores], float).T
    if len(curves) == 1:
        axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    else:
        axes.errorbar(x, values, [values - low, high - values], color=color, ls="", elinewidth=1, capsize=2, alpha=0.6)
    axes.plot(x, values, color=color, marker=marker)


def _x(about: dict[str, Any], curves: list[_Curve], index: int) -> np.ndarray:
    """The budgets of a curve, those of several a little apart for the eye."""
    budgets = [about["budgets"][found["levels"][about["budget_axis"]]] for found in curves[index].settings]
    return np.array(budgets) * 1.03 ** (index - (len(curves) - 1) / 2)


def _miou(found: dict[str, Any]) -> tuple[float, list[float] | None]:
    return found["miou"], found["interval"]


def _bands(axes: Axes, curves: list[_Curve], score: Callable[[Any], tuple[Any, Any]]) -> None:
    """The references as horizontal lines, with the bands of their intervals where there is one curve."""
    for index, curve in enumerate(curves):
        for place, (name, found) in enumerate(curve.references.items()):
            value, interval = score(found)
            color = _COLORS[(index if len(curves) > 1 else place + 1) % len(_COLORS)]
            if value is not None:
                axes.axhline(value, color=color, ls=_DASHES[name], lw=1.3)
            if interval and len(curves) == 1:
                axes.axhspan(*interval, color=color, alpha=0.1, lw=0)


def _key(figure: Figure, curves: list[_Curve], references: str = "line") -> None:
    """Names the curves and references, below the figure, where nothing lies under it."""
    several, handles = len(curves) > 1, []
    for index, curve in enumerate(curves):
        label = setting(curve.held) or "points"
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        handles.append(Line2D([], [], color=color, marker=marker, label=label))
    names = list(dict.fromkeys(name for curve in curves for name in curve.references))
    for place, name in enumerate(names):
        color = _INK if several else _COLORS[(place + 1) % len(_COLORS)]
        look: dict[str, Any] = (
            {"ls": _DASHES[name]} if references == "line" else {"ls": "", "marker": _REFERENCES[name]}
        )
        handles.append(Line2D([], [], color=color, label=name, mfc="none", **look))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))


def _budget_ticks(axes: Axes, about: dict[str, Any]) -> None:
    budgets = sorted(budget for budget in about["budgets"].values() if budget is not None)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()


def _over_budget(
    about: dict[str, Any], curves: list[_Curve], single: dict[str, list[float]], unit: str, fits: list[dict[str, Any]]
) -> Drawn:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _bands(axes, curves, _miou)
    for index, curve in enumerate(curves):
        x = _x(about, curves, index)
        _line(axes, x, curves, index, _miou)
        for at, found in zip(x, curve.settings, strict=True):
            _dots(axes, [at], single[setting(found["levels"])], index)
        for fit in fits:
            if fit["held"] == curve.held and fit["limit"] is not None:
                fine = np.geomspace(x[0], x[-1])
                fitted = fit["limit"] - fit["shape"]["drop"] * fine ** -fit["shape"]["rate"]
                axes.plot(fine, fitted, color=_INK, lw=0.8, ls=(0, (1, 2)))
    _budget_ticks(axes, about)
    axes.set(xlabel=unit, ylabel="mIoU")
    _key(figure, curves)
    told = f"mIoU over the budget. {_WHAT}"
    if any(curve.references for curve in curves):
        told += " Horizontal: what dense masks of the same tiles teach."
    if any(fit["limit"] is not None for fit in fits):
        told += " Thin dots: the curve fitted to tell where it levels off."
    return Drawn(figure, told)


def _dots(axes: Axes, x: Sequence[float], values: Sequence[float], index: int) -> None:
    at = list(x) if len(x) == len(values) else list(x) * len(values)
    axes.plot(at, values, ".", color=_COLORS[index % len(_COLORS)], alpha=0.35, mew=0)


def _over_hours(curves: list[_Curve], single: dict[str, list[float]]) -> Drawn:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        x = np.array([found["annotator_hours"] for found in curve.settings])
        _line(axes, x, curves, index, _miou)
        for at, found in zip(x, curve.settings, strict=True):
            _dots(axes, [at], single[setting(found["levels"])], index)
        for place, (name, found) in enumerate(curve.references.items()):
            color = _COLORS[(index if len(curves) > 1 else place + 1) % len(_COLORS)]
            look: dict[str, Any] = {"color": color, "marker": _REFERENCES[name], "mfc": "none", "ls": ""}
            at, error = [found["annotator_hours"]], _error(*_miou(found))
            axes.errorbar(at, [found["miou"]], error, capsize=3 + 3 * place, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="hours of an annotator", ylabel="mIoU")
    _key(figure, curves, "marker")
    return Drawn(figure, f"mIoU over the hours that the labels take. {_WHAT}")


def _classes(about: dict[str, Any], curves: list[_Curve], unit: str) -> Drawn:
    names = list(curves[0].settings[0]["iou"])
    rows, columns = math.ceil(len(names) / 3), min(3, len(names))
    figure = Figure(figsize=(9, 2.6 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("IoU")
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel(unit)
    for name, axes in zip(names, grid.flat, strict=False):

        def score(found: dict[str, Any], name: str = name) -> tuple[Any, Any]:
            return found["iou"][name], found["iou_interval"][name]

        _bands(axes, curves, score)
        for index in range(len(curves)):
            _line(axes, _x(about, curves, index), curves, index, score)
        axes.set_title(name, size="medium")
        _budget_ticks(axes, about)
    _key(figure, curves)
    return Drawn(figure, "IoU of each class over the budget, with 95 % intervals.")


def _settings(summary: dict[str, Any], single: dict[str, list[float]]) -> Drawn:
    found = summary["settings"]
    figure = Figure(figsize=(7, 1.0 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, one in enumerate(found):
        _interval(axes, row, *_miou(one), filled=True)
        runs = single[setting(one["levels"])]
        _dots(axes, runs, [row + 0.2] * len(runs), 0)
    _rows(axes, [setting(one["levels"]) for one in found])
    axes.set(xlabel="mIoU")
    return Drawn(figure, f"mIoU of each setting. {_WHAT}")


def _differences(summary: dict[str, Any]) -> Drawn:
    found = summary["differences"]
    figure = Figure(figsize=(7, 1.0 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=_INK, lw=1)
    for row, one in enumerate(found):
        _interval(axes, row, one["difference"], one["interval"], filled=one["claim"])
    _rows(axes, [difference_name(one) for one in found])
    axes.set(xlabel="difference in mIoU")
    return Drawn(
        figure,
        "Paired differences of the same seed, points and tiles, with 95 % intervals; filled where a claim is made.",
    )


def _interval(axes: Axes, row: int, value: float, interval: list[float] | None, *, filled: bool) -> None:
    face = _COLORS[0] if filled else "none"
    axes.errorbar([value], [row], xerr=_error(value, interval), fmt="o", color=_COLORS[0], mfc=face, capsize=3)


def _error(value: float, interval: list[float] | None) -> np.ndarray | None:
    """Float `[2, 1]`, how far an interval goes below and above its value."""
    return None if interval is None else np.abs(np.array(interval) - value)[:, None]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _tiles_axis(about: dict[str, Any], arms: Sequence[Arm]) -> str | None:
    """The axis whose levels are numbers of tiles, if any."""
    for axis in about["axes"]:
        opened: dict[str, set[int]] = {}
        for arm in arms:
            opened.setdefault(arm.run.levels[axis], set()).add(arm.points["num_tiles"])
        numbers = [next(iter(seen)) for seen in opened.values() if len(seen) == 1]
        if axis != about["budget_axis"] and len(opened) == len({*numbers}) > 1:
            return axis
    return None


def _iso_cost(about: dict[str, Any], arms: Sequence[Arm], summary: dict[str, Any], axis: str) -> Drawn:
    tiles = {arm.run.levels[axis]: arm.points["num_tiles"] for arm in arms}
    found = [one for one in summary["settings"] if about["budgets"][one["levels"][about["budget_axis"]]] is not None]
    x = np.array([tiles[one["levels"][axis]] for one in found], float)
    y = np.array([about["budgets"][one["levels"][about["budget_axis"]]] for one in found], float)
    miou = np.array([one["miou"] for one in found])
    hours = np.array([one["annotator_hours"] for one in found])
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    lines = axes.tricontour(x, y, hours, levels=_nice(hours), colors=_INK, linewidths=0.8, linestyles="--")
    axes.clabel(lines, fmt=lambda level: f"{level:g} h", fontsize=8)
    dots = axes.scatter(x, y, c=miou, s=520, cmap="cividis", zorder=3)
    for at, up, value in zip(x, y, miou, strict=True):
        dark = value < (miou.min() + miou.max()) / 2
        axes.text(
            at, up, f"{value:.2f}", color="white" if dark else "black", ha="center", va="center", size=8, zorder=4
        )
    figure.colorbar(dots, label="mIoU")
    axes.set_xscale("log")
    _budget_ticks(axes, about)
    return Drawn(figure, "mIoU by tiles opened and points on each; along a dashed line the labels take as many hours.")


def _nice(values: np.ndarray) -> list[float]:
    """1, 2 and 5 times powers of ten between the least and the largest of values."""
    powers = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    levels = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [level for level in levels if values.min() < level < values.max()]


def _watermark(figure: Figure, words: str) -> None:
    if words:
        width, height = figure.get_size_inches()
        angle = math.degrees(math.atan2(height, width)) / 2
        size = min(30, 100 * width / len(words))
        figure.text(0.5, 0.5, words, size=size, rotation=angle, ha="center", va="center", alpha=0.16, weight="bold")

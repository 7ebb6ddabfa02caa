"""An ablation's scores over a budget axis -> figures: over points, over hours, by class, and at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from pcejax import drawing, label_options
from pcejax.ablation_results import Arm, setting
from pcejax.drawing import Drawn

RUNS_AND_INTERVALS = "Dots are single runs; intervals of 95 % are over tiles, point draws and seeds."

_DASHES = {"dense": "--", "dense_balanced": ":"}
_REFERENCES = {"dense": "s", "dense_balanced": "D"}


class Curve(NamedTuple):
    """Settings that differ in their budget alone, the lowest first, and the references beside them."""

    held: dict[str, str]  # levels of the other axes
    budgets: list[int]
    settings: list[dict[str, Any]]  # of the summary, one for each budget
    references: dict[str, dict[str, Any]]


def curves_of(about: dict[str, Any], summary: dict[str, Any]) -> list[Curve]:
    """The curves of a budget axis, at each combination of the other axes' levels; none of fewer than two budgets."""
    axis, budgets = about["budget_axis"], about["budgets"]
    if sum(budget is not None for budget in budgets.values()) < 2:
        return []
    curves: dict[str, Curve] = {}
    for found in sorted(summary["settings"], key=lambda found: budgets[found["levels"][axis]] or 0):
        held = {name: level for name, level in found["levels"].items() if name != axis}
        curve = curves.setdefault(setting(held), Curve(held, [], [], {}))
        level = found["levels"][axis]
        if budgets[level] is not None:
            curve.budgets.append(budgets[level])
            curve.settings.append(found)
        curve.references.update({name: found for name, at in about["references"].items() if at == level})
    return [curve for curve in curves.values() if curve.settings]


def unit_of(arms: Sequence[Arm]) -> str:
    """The unit of a budget, in words."""
    annotators = {arm.points["annotator"] for arm in arms} - {*label_options.DENSE}
    if annotators <= {"balanced", "file"}:
        return "points per class and tile"
    return {("uniform",): "points per tile", ("component",): "points per component"}.get(tuple(annotators), "budget")


def _line(axes: Axes, x: np.ndarray, curves: list[Curve], index: int, score: Callable[[Any], tuple[Any, Any]]) -> None:
    """The curve at `index` over `x`; score gives value and interval of a setting.

    Intervals are a band, or bars where the bands of several curves would hide each other.
    """
    color, marker = drawing.color(index), drawing.marker(index)
    scores = [score(found) for found in curves[index].settings]
    values = np.array([value for value, _ in scores], float)
    low, high = np.array([interval or (np.nan, np.nan) for _, interval in scores], float).T
    if len(curves) == 1:
        axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    else:
        axes.errorbar(x, values, [values - low, high - values], color=color, ls="", elinewidth=1, capsize=2, alpha=0.6)
    axes.plot(x, values, color=color, marker=marker)


def _x(curves: list[Curve], index: int) -> np.ndarray:
    """The budgets of the curve at `index`, those of several a little apart for the eye."""
    return np.array(curves[index].budgets) * 1.03 ** (index - (len(curves) - 1) / 2)


def miou_of(found: dict[str, Any]) -> tuple[float, list[float] | None]:
    """The mIoU of a setting and its interval."""
    return found["miou"], found["interval"]


def _dots(axes: Axes, x: np.ndarray, curves: list[Curve], index: int, single: Mapping[str, Sequence[float]]) -> None:
    for at, found in zip(x, curves[index].settings, strict=True):
        values = single[setting(found["levels"])]
        drawing.dots(axes, [at] * len(values), values, index)


def _bands(axes: Axes, curves: list[Curve], score: Callable[[Any], tuple[Any, Any]]) -> None:
    """The references as horizontal lines, with the bands of their intervals where there is one curve."""
    for index, curve in enumerate(curves):
        for place, (name, found) in enumerate(curve.references.items()):
            value, interval = score(found)
            color = drawing.color(index if len(curves) > 1 else place + 1)
            if value is not None:
                axes.axhline(value, color=color, ls=_DASHES[name], lw=1.3)
            if interval and len(curves) == 1:
                axes.axhspan(*interval, color=color, alpha=0.1, lw=0)


def _key(figure: Figure, curves: list[Curve], references: str = "line") -> None:
    """Names the curves and references, below the figure, where nothing lies under it."""
    several, handles = len(curves) > 1, []
    for index, curve in enumerate(curves):
        label = setting(curve.held) or "points"
        color, marker = drawing.color(index), drawing.marker(index)
        handles.append(Line2D([], [], color=color, marker=marker, label=label))
    names = list(dict.fromkeys(name for curve in curves for name in curve.references))
    for place, name in enumerate(names):
        color = drawing.INK if several else drawing.color(place + 1)
        look: dict[str, Any] = (
            {"ls": _DASHES[name]} if references == "line" else {"ls": "", "marker": _REFERENCES[name]}
        )
        handles.append(Line2D([], [], color=color, label=name, mfc="none", **look))
    if len(handles) > 1:
        long = max(len(str(handle.get_label())) for handle in handles) > 20
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if long else 4)


def _budget_ticks(axes: Axes, curves: list[Curve]) -> None:
    budgets = sorted({budget for curve in curves for budget in curve.budgets})
    axes.set_xscale("log")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()


def over_budget(
    curves: list[Curve], single: Mapping[str, Sequence[float]], fits: Sequence[dict[str, Any]], unit: str
) -> Drawn:
    """mIoU over the budget; `single` are the runs' by setting, `fits` the summary's saturation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _bands(axes, curves, miou_of)
    for index, curve in enumerate(curves):
        x = _x(curves, index)
        _line(axes, x, curves, index, miou_of)
        _dots(axes, x, curves, index, single)
        for fit in fits:
            if fit["held"] == curve.held and fit["limit"] is not None:
                fine = np.geomspace(x[0], x[-1])
                fitted = fit["limit"] - fit["shape"]["drop"] * fine ** -fit["shape"]["rate"]
                axes.plot(fine, fitted, color=drawing.INK, lw=0.8, ls=(0, (1, 2)))
    _budget_ticks(axes, curves)
    axes.set(xlabel=unit, ylabel="mIoU")
    _key(figure, curves)
    told = f"mIoU over the budget. {RUNS_AND_INTERVALS}"
    if any(curve.references for curve in curves):
        told += " Horizontal: what dense masks of the same tiles teach."
    if any(fit["limit"] is not None for fit in fits):
        told += " Thin dots: the curve fitted to tell where it levels off."
    return Drawn(figure, told)


def over_hours(curves: list[Curve], single: Mapping[str, Sequence[float]]) -> Drawn:
    """mIoU over the hours of an annotator, references among them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        x = np.array([found["annotator_hours"] for found in curve.settings])
        _line(axes, x, curves, index, miou_of)
        _dots(axes, x, curves, index, single)
        for place, (name, found) in enumerate(curve.references.items()):
            color = drawing.color(index if len(curves) > 1 else place + 1)
            look: dict[str, Any] = {"color": color, "marker": _REFERENCES[name], "mfc": "none", "ls": ""}
            at, error = [found["annotator_hours"]], drawing.error(*miou_of(found))
            axes.errorbar(at, [found["miou"]], error, capsize=3 + 3 * place, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="hours of an annotator", ylabel="mIoU")
    _key(figure, curves, "marker")
    return Drawn(figure, f"mIoU over the hours that the labels take. {RUNS_AND_INTERVALS}")


def by_class(curves: list[Curve], unit: str) -> Drawn:
    """IoU of each class over the budget."""
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
            _line(axes, _x(curves, index), curves, index, score)
        axes.set_title(name, size="medium")
        _budget_ticks(axes, curves)
    _key(figure, curves)
    return Drawn(figure, "IoU of each class over the budget, with 95 % intervals.")


def tiles_of(about: dict[str, Any], arms: Sequence[Arm]) -> dict[str, int]:
    """The tiles opened, by the level of the one axis beside the budget that decides them; {} where there is none."""
    others = [axis for axis in about["axes"] if axis != about["budget_axis"]]
    opened: dict[str, set[int]] = {}
    for arm in arms:
        opened.setdefault(arm.run.levels[others[0]] if others else "", set()).add(arm.points["num_tiles"])
    numbers = {level: max(seen) for level, seen in opened.items() if len(seen) == 1}
    return numbers if len(others) == 1 and len({*numbers.values()}) == len(opened) > 1 else {}


def iso_cost(about: dict[str, Any], arms: Sequence[Arm], curves: list[Curve], tiles: Mapping[str, int]) -> Drawn:
    """mIoU on the plane of tiles opened and budget, over lines of equal hours; `tiles` are those of `tiles_of`."""
    opened = [tiles[level] for curve in curves for level in curve.held.values()]
    x = np.repeat(np.array(opened, float), [len(curve.budgets) for curve in curves])
    y = np.array([budget for curve in curves for budget in curve.budgets], float)
    miou = np.array([found["miou"] for curve in curves for found in curve.settings])
    per_tile = _clicks_per_tile(about, arms)
    across, up = (np.geomspace(values.min() / 1.6, values.max() * 1.6, 60) for values in (x, y))
    seconds = about["seconds"]
    hours = across * (seconds["tile"] + seconds["click"] * per_tile * up[:, None]) / 3600
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="tiles opened", ylabel=unit_of(arms))
    lines = axes.contour(
        across, up, hours, levels=_nice(hours), colors=drawing.INK, linewidths=0.8, linestyles="--", alpha=0.7
    )
    axes.clabel(lines, fmt=lambda level: f"{level:g} h", fontsize=8)
    dots = axes.scatter(x, y, c=miou, s=560, cmap="cividis", zorder=3)
    for at, height, value in zip(x, y, miou, strict=True):
        ink = "white" if value < (miou.min() + miou.max()) / 2 else "black"
        axes.text(at, height, f"{value:.2f}", color=ink, ha="center", va="center", size=8, zorder=4)
    figure.colorbar(dots, label="mIoU")
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        ticks = sorted({*values})
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(False)
    told = f"reckoned with the {per_tile:.1f} clicks that a tile got for a point of the budget"
    return Drawn(figure, f"mIoU by tiles opened and points; the labels take as long along a dashed line, {told}.")


def _clicks_per_tile(about: dict[str, Any], arms: Sequence[Arm]) -> float:
    """Clicks that a tile got for each unit of the budget: fewer than there are classes, since few tiles have all."""
    shares = []
    for arm in arms:
        budget = about["budgets"][arm.run.levels[about["budget_axis"]]]
        if budget is not None:
            shares.append(sum(arm.points["point_counts"].values()) / (arm.points["num_tiles"] * budget))
    return float(np.mean(shares))


def _nice(values: np.ndarray) -> list[float]:
    """1, 2 and 5 times powers of ten between the least and the largest of values."""
    powers = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    levels = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [level for level in levels if values.min() < level < values.max()]

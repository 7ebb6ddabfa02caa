"""An ablation's summary -> its figures: curves over a budget, or settings beside each other, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcejax import ablation_curves, drawing
from pcejax.ablation_results import Arm, setting
from pcejax.drawing import Drawn


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
    curves = ablation_curves.curves_of(about, summary)
    drawn = {}
    with matplotlib.rc_context(drawing.LOOK):
        if curves:
            unit = ablation_curves.unit_of(arms)
            drawn["miou_over_budget"] = ablation_curves.over_budget(curves, single, summary["saturation"], unit)
            drawn["iou_over_budget"] = ablation_curves.by_class(curves, unit)
            drawn["miou_over_hours"] = ablation_curves.over_hours(curves, single)
        else:
            drawn["settings"] = _settings(summary, single)
        tiles = ablation_curves.tiles_of(about, arms)
        if curves and tiles:
            drawn["iso_cost"] = ablation_curves.iso_cost(about, arms, curves, tiles)
        if summary["differences"]:
            drawn["differences"] = _differences(summary)
        for figure, _ in drawn.values():
            drawing.watermark(figure, about["watermark"])
    return drawn


def difference_name(difference: dict[str, Any]) -> str:
    """Such as "points: 3 minus 1, model=deep"."""
    held = f", {setting(difference['held'])}" if difference["held"] else ""
    return f"{difference['axis']}: {difference['level']} minus {difference['against']}{held}"


def _settings(summary: dict[str, Any], single: dict[str, list[float]]) -> Drawn:
    found = summary["settings"]
    figure = Figure(figsize=(7, 1.0 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, one in enumerate(found):
        _interval(axes, row, *ablation_curves.miou_of(one), filled=True)
        runs = single[setting(one["levels"])]
        drawing.dots(axes, runs, [row + 0.2] * len(runs), 0)
    _rows(axes, [setting(one["levels"]) for one in found])
    axes.set(xlabel="mIoU")
    return Drawn(figure, f"mIoU of each setting. {ablation_curves.RUNS_AND_INTERVALS}")


def _differences(summary: dict[str, Any]) -> Drawn:
    found = summary["differences"]
    figure = Figure(figsize=(7, 1.0 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=drawing.INK, lw=1)
    for row, one in enumerate(found):
        _interval(axes, row, one["difference"], one["interval"], filled=one["claim"])
    _rows(axes, [difference_name(one) for one in found])
    axes.set(xlabel="difference in mIoU")
    return Drawn(
        figure,
        "Paired differences of the same seed, points and tiles, with 95 % intervals; filled where a claim is made.",
    )


def _interval(axes: Axes, row: int, value: float, interval: list[float] | None, *, filled: bool) -> None:
    face = drawing.color(0) if filled else "none"
    axes.errorbar(
        [value], [row], xerr=drawing.error(value, interval), fmt="o", color=drawing.color(0), mfc=face, capsize=3
    )


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")

"""A model as a drawing: boxes down and up again, made from the layers that the model itself reports."""

from __future__ import annotations

import textwrap
from typing import Any

import flax.linen as nn
import ml_collections
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pcejax.models import summary

# Inches.
_BOX = (1.3, 0.46)
_ROW = 0.76  # from one level to the next
_ENCODER, _UNIT, _DECODER, _PYRAMID, _OUT = 1.55, 3.58, 5.5, 7.0, 9.0  # centres of what stands there
_UNIT_WIDTH, _BRANCH = 2.2, 0.2

_COLORS = {"encoder": "#d6e6f5", "decoder": "#d9efd9", "fusion": "#fde3c4", "other": "#e8e8e8"}
_INK, _SKIP = "#333333", "#8c8c8c"


def draw(name: str, model: nn.Module, config: ml_collections.ConfigDict, size: int) -> Figure:
    """The figure of `model`, which `config` (a run's `config.model`) describes, for an image of `size` pixels a side.

    Levels are rows; beside a box's features stand its blocks and parameters.
    """
    shape = (1, size, size, 3)
    layers = summary.layers(model, shape)
    parts = {"/".join(layer.path): layer for layer in summary.parts_of(layers)}
    at_bottleneck, joins, goes_up = (name in parts for name in ("fusion_bottleneck", "fusion_pyramid", "decoder_0"))
    rows = {level: -_ROW * level for level in range(-1, config.depth + 1)}
    rows[config.depth] -= 0.3 * at_bottleneck  # the unit is higher than a row
    text = textwrap.wrap(summary.describe(summary.model_summary(model, config, shape)), 104)
    width = (_OUT if joins else _DECODER) + _UNIT_WIDTH / 2 + 0.1
    key = _key(config)
    foot = (_unit_height("fusion_bottleneck", layers) if at_bottleneck else _BOX[1]) / 2 + 0.3
    top, bottom = rows[-1] + 0.9 + 0.17 * len(text), rows[config.depth] - foot - 0.15 * len(key)
    figure = Figure(figsize=(width, top - bottom), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(bottom, top))
    axes.axis("off")
    axes.text(0.15, top - 0.13, name, size=11, weight="bold", va="top", color=_INK)
    axes.text(0.15, top - 0.38, "\n".join(text), size=8, va="top", color=_INK)
    axes.text(0.15, bottom + 0.1, "\n".join(key), size=7, va="bottom", color=_INK, linespacing=1.4)
    axes.text(_ENCODER, rows[-1] + 0.33, "encoder", size=9, ha="center", weight="bold", color=_INK)
    if goes_up:
        axes.text(_DECODER, rows[-1] + 0.33, "decoder", size=9, ha="center", weight="bold", color=_INK)

    first = min(level for level in range(config.depth + 1) if f"encoder/level_{level}" in parts)
    _box(axes, _ENCODER, rows[first - 1], "other", "image", f"{size}×{size}, 3 bands")
    for level in range(config.depth + 1):
        side = size // 2**level
        axes.text(0.15, rows[level], f"level {level}\n{side}×{side}", size=7.5, va="center", color=_INK)
        if level >= first:
            _part(axes, _ENCODER, rows[level], "encoder", layers, parts[f"encoder/level_{level}"])
            _down(axes, _ENCODER, rows[level - 1], rows[level])
        if goes_up and level < config.depth:
            _part(axes, _DECODER, rows[level], "decoder", layers, parts[f"decoder_{level}"])
            if level >= first:
                start, end = _ENCODER + _BOX[0] / 2, _DECODER - _BOX[0] / 2
                _arrow(axes, (start, rows[level]), (end, rows[level]), _SKIP)
        if goes_up and 0 < level < config.depth:
            _up(axes, rows[level] + _BOX[1] / 2, rows[level - 1], parts[f"upsample_{level - 1}"])

    low, entry = rows[config.depth], _ENCODER + _BOX[0] / 2
    if at_bottleneck:
        _arrow(axes, (entry, low), (_UNIT - _UNIT_WIDTH / 2, low))
        _unit(axes, _UNIT, low, "fusion_bottleneck", layers, config)
        entry = _UNIT + _UNIT_WIDTH / 2
    if goes_up:
        axes.plot([entry, _DECODER], [low, low], color=_INK, lw=1, solid_capstyle="round")
        _up(axes, low, rows[config.depth - 1], parts[f"upsample_{config.depth - 1}"])
        starts = dict.fromkeys(range(config.depth), _DECODER + _BOX[0] / 2) | {config.depth: _DECODER}
    else:
        starts = dict.fromkeys(range(first, config.depth), _ENCODER + _BOX[0] / 2) | {config.depth: entry}
    if joins:
        _joined(axes, rows, starts, layers, parts, config)
    else:
        _up(axes, rows[0] + _BOX[1] / 2, rows[-1])
        _head(axes, _DECODER, rows[-1], parts["head"])
    return figure


def _joined(
    axes: Axes,
    rows: dict[int, float],
    starts: dict[int, float],
    layers: list[summary.Layer],
    parts: dict[str, summary.Layer],
    config: ml_collections.ConfigDict,
) -> None:
    """From each level, at `starts`, over the pyramid to the unit, if there is one, and to the head below it."""
    left, right = _PYRAMID - 0.5, _PYRAMID + 0.5
    for level, start in starts.items():
        _arrow(axes, (start, rows[level]), (left, rows[level]))
    finest = min(starts)
    high, low = rows[finest] + _BOX[1] / 2, rows[config.depth] - _BOX[1] / 2
    _rectangle(axes, _PYRAMID, (high + low) / 2, 1.0, high - low, _COLORS["fusion"])
    pyramid = parts["fusion_pyramid"]
    joined = "concatenated,\n1×1, norm, ReLU" if config.fusion.fuse == "concat" else "summed"
    told = f"each level\n1×1, doubled\nto level {finest};\n{joined}"
    axes.text(_PYRAMID, (high + low) / 2 + 0.2, "pyramid", size=8, ha="center", weight="bold", color=_INK)
    axes.text(_PYRAMID, (high + low) / 2 + 0.1, told, size=7, ha="center", va="top", color=_INK)
    told = f"{pyramid.shape[-1]} features\n{_short(pyramid.parameters)}"
    axes.text(_PYRAMID, low + 0.12, told, size=7, ha="center", color=_INK)
    if "fusion_decoder" not in parts:
        _arrow(axes, (right, rows[finest]), (_OUT - _BOX[0] / 2, rows[finest]))
        _head(axes, _OUT, rows[finest], parts["head"])
        return
    y = rows[finest] + _BOX[1] / 2 - _unit_height("fusion_decoder", layers) / 2
    _arrow(axes, (right, y), (_OUT - _UNIT_WIDTH / 2, y))
    _unit(axes, _OUT, y, "fusion_decoder", layers, config)
    below = y - _unit_height("fusion_decoder", layers) / 2
    _arrow(axes, (_OUT, below), (_OUT, below - 0.3))
    _head(axes, _OUT, below - 0.3 - _BOX[1] / 2, parts["head"])


def _branches(name: str, layers: list[summary.Layer]) -> list[summary.Layer]:
    return [
        layer
        for layer in layers
        if len(layer.path) == 2 and layer.path[0] == name and layer.path[1].startswith(("branch_", "control_"))
    ]


def _unit_height(name: str, layers: list[summary.Layer]) -> float:
    return (_BRANCH + 0.03) * len(_branches(name, layers)) + 0.38


def _unit(
    axes: Axes, x: float, y: float, name: str, layers: list[summary.Layer], config: ml_collections.ConfigDict
) -> None:
    """A multi-scale unit: its branches one above the other, then how they are fused, then the 1x1 convolution."""
    branches, height = _branches(name, layers), _unit_height(name, layers)
    unit = next(layer for layer in layers if layer.path == (name,))
    title = "plain control" if config.fusion.plain_control else "multi-scale"
    left = x - _UNIT_WIDTH / 2
    _rectangle(axes, x, y, _UNIT_WIDTH, height, _COLORS["fusion"])
    axes.text(left + 0.08, y + height / 2 - 0.06, title, size=8, va="top", weight="bold", color=_INK)
    axes.text(
        left + _UNIT_WIDTH - 0.08,
        y + height / 2 - 0.07,
        _short(unit.parameters),
        size=7,
        va="top",
        ha="right",
        color=_INK,
    )
    middle = y - 0.1  # of the branches
    for index, branch in enumerate(branches):
        row = middle + ((len(branches) - 1) / 2 - index) * (_BRANCH + 0.03)
        _rectangle(axes, left + 0.66, row, 1.16, _BRANCH, "white")
        told = f"{_seen(index, branch, len(branches), config.fusion)}: {branch.shape[-1]}"
        axes.text(left + 0.66, row, told, size=7, ha="center", va="center", color=_INK)
    tall = (_BRANCH + 0.03) * len(branches) - 0.03
    fuse = "in turn" if config.fusion.plain_control else config.fusion.fuse
    _rectangle(axes, left + 1.4, middle, 0.2, tall, "white")
    axes.text(left + 1.4, middle, fuse, size=7, ha="center", va="center", rotation=90, color=_INK)
    _arrow(axes, (left + 1.5, middle), (left + 1.65, middle))
    _rectangle(axes, left + 1.89, middle, 0.46, 0.34, "white")
    axes.text(left + 1.89, middle, f"1×1\n{unit.shape[-1]}", size=7, ha="center", va="center", color=_INK)


def _seen(index: int, branch: summary.Layer, count: int, fusion: Any) -> str:
    """What a branch does, in a few words."""
    if branch.path[1].startswith("control_"):
        return ("1×1", "3×3")[index]
    if index == 0:
        return "1×1"
    if fusion.branches == "dilated" and index < count - 1:
        return f"3×3, rate {fusion.rates[index - 1]}"
    return "mean of all" if branch.shape[0] == 1 else f"means of {branch.shape[0]}×{branch.shape[1]}"


def _part(axes: Axes, x: float, y: float, kind: str, layers: list[summary.Layer], part: summary.Layer) -> None:
    blocks = {layer.path[: len(part.path) + 1] for layer in layers if layer.path[: len(part.path)] == part.path}
    count = sum(path[-1].startswith("block_") for path in blocks)
    told = f"{count} block{'s' * (count > 1)}, {_short(part.parameters)}"
    _box(axes, x, y, kind, f"{part.shape[-1]} features", told)


def _head(axes: Axes, x: float, y: float, head: summary.Layer) -> None:
    _box(axes, x, y, "other", f"{head.shape[-1]} logits", f"1×1, {_short(head.parameters)}")


def _box(axes: Axes, x: float, y: float, kind: str, title: str, told: str) -> None:
    _rectangle(axes, x, y, *_BOX, _COLORS[kind])
    axes.text(x, y + 0.09, title, size=8.5, ha="center", va="center", weight="bold", color=_INK)
    axes.text(x, y - 0.1, told, size=7, ha="center", va="center", color=_INK)


def _rectangle(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    style = "round,pad=0,rounding_size=0.04"
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=color, edgecolor=_INK, lw=0.7))


def _down(axes: Axes, x: float, above: float, below: float) -> None:
    _arrow(axes, (x, above - _BOX[1] / 2), (x, below + _BOX[1] / 2))


def _up(axes: Axes, start: float, above: float, upsample: summary.Layer | None = None) -> None:
    _arrow(axes, (_DECODER, start), (_DECODER, above - _BOX[1] / 2))
    if upsample is not None:
        y = above - _BOX[1] / 2 - (_ROW - _BOX[1]) / 2
        axes.text(_DECODER + 0.07, y, f"×2, {_short(upsample.parameters)}", size=6.5, va="center", color=_INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = _INK) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops=style)


def _short(parameters: int) -> str:
    """10208 -> "10.2 k"."""
    if parameters < 1000:
        return str(parameters)
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.3g} k"


def _key(config: ml_collections.ConfigDict) -> list[str]:
    norm = {"group": ", group norm", "batch": ", batch norm", "none": ""}[config.norm]
    block = f"two 3×3 convolutions{norm}, ReLU{', and the input added' if config.residual else ''}"
    up = {
        "transposed": "2×2 transposed convolution",
        "bilinear": "1×1 convolution, bilinear interpolation",
        "nearest": "1×1 convolution, each pixel four times",
    }[config.upsample]
    plain, goes_up = config.encoder == "plain", config.decoder == "convolutions"
    lines = [f"block: {block}" if plain else f"decoder's block: {block}"] if plain or goes_up else []
    if not plain:
        lines.append(
            "encoder's block: 1×1, depthwise and 1×1 convolution, batch norm, ReLU6; level 1 begins with a 3×3"
        )
    way_up = f"up (×2): {up}; grey: concatenated" if goes_up else "up: bilinear interpolation, the logits' too"
    if tuple(config.scales) != (1,):
        sides = ", ".join(f"1/{scale}" if scale > 1 else "1" for scale in config.scales)
        lines.append(
            f"the encoder, drawn once, sees the image at {sides} of its sides; equal strides stand side by side"
        )
    lines.append(f"down: {'max-pooling 2×2' if plain else 'strides of 2'}; {way_up}")
    of_branches = "; after a colon, a branch's features" if config.fusion.at else ""
    return [*lines, f"numbers with k and M are parameters{of_branches}"]

"""How tiles are labelled: `config.points`, checked, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pcejax.errors import UserError
from pcejax.legend import Legend

DRAWN = ("uniform", "balanced", "component")
"""Annotators that draw points."""

POINTS = (*DRAWN, "file")
"""Annotators whose labels are points, drawn or a person's."""

DENSE = ("dense", "dense_balanced")
"""Annotators that give the whole mask."""

ANNOTATORS = (*POINTS, "scribble", "block", *DENSE)

PLACEMENTS = ("random", "interior", "boundary")

_READ_BY: dict[str, tuple[tuple[str, ...], Any]] = {
    "held_out": (POINTS, 0),
    "placement": (DRAWN, "random"),
    "min_distance_px": (DRAWN, 0),
    "click_jitter_px": (DRAWN, 0),
    "label_noise": (DRAWN, 0.0),
    "point_radius": (POINTS, 0),
    "file": (("file",), ""),
}
"""Fields that other annotators do not read: which do, and the value that asks for nothing."""

_LEAST = {
    "budget": 0,
    "held_out": 0,
    "boundary_px": 1,
    "min_distance_px": 0,
    "min_area": 1,
    "click_jitter_px": 0,
    "label_noise": 0,
    "point_radius": 0,
    "scribble_width": 1,
    "block_px": 1,
}


class LabelOptions(NamedTuple):
    """The fields of `config.points`; configs/default.py says what each means."""

    annotator: str
    budget: int
    held_out: int
    file: str
    seed: int
    placement: str
    boundary_px: int
    min_distance_px: int
    min_area: int
    click_jitter_px: int
    label_noise: float
    label_confusion: tuple[tuple[float, ...], ...]
    point_radius: int
    scribble_width: int
    scribble_share: float
    block_px: int


def label_options(fields: Mapping[str, Any]) -> LabelOptions:
    """The options in `config.points`.

    Raises:
      UserError: a value is out of its range, or asks for what the annotator does not do.
    """
    options = LabelOptions(**fields)
    for name, value, known in (
        ("annotator", options.annotator, ANNOTATORS),
        ("placement", options.placement, PLACEMENTS),
    ):
        if value not in known:
            raise UserError(f"points.{name}={value!r}; expected one of {[*known]}")
    for name, least in _LEAST.items():
        if not getattr(options, name) >= least:  # not < least: NaN is refused too
            raise UserError(f"points.{name}={getattr(options, name)}; expected {least} or more")
    if not options.label_noise <= 1:
        raise UserError(f"points.label_noise={options.label_noise}; expected a share of points from 0 to 1")
    if not 0 < options.scribble_share <= 1:
        raise UserError(
            f"points.scribble_share={options.scribble_share}; expected a share of the centre line above 0, up to 1"
        )
    if not options.budget and options.annotator != "file":
        raise UserError("points.budget=0; expected 1 or more, or all the points of the annotator 'file'")
    if options.held_out and 0 < options.budget <= options.held_out:
        raise UserError(
            f"points.held_out={options.held_out} of points.budget={options.budget}; expected fewer than the budget: "
            "points held out are part of it, and some have to teach"
        )
    for name, (readers, nothing) in _READ_BY.items():
        if options.annotator not in readers and getattr(options, name) != nothing:
            raise UserError(
                f"points.{name}={getattr(options, name)!r} does nothing for points.annotator="
                f"{options.annotator!r}; expected {nothing!r}, or one of the annotators {[*readers]}"
            )
    return options


def confusion(options: LabelOptions, legend: Legend) -> np.ndarray:
    """float64 `[known, known]`: row c holds the chances of what a wrong click on class c is called; rows sum to 1.

    Raises:
      UserError: `points.label_confusion` is no such matrix for the legend.
    """
    known = legend.num_known
    if not options.label_confusion:
        return (1.0 - np.eye(known)) / (known - 1)
    wrong = f"points.label_confusion={options.label_confusion}; expected "
    try:
        matrix = np.array(options.label_confusion, np.float64)
    except (TypeError, ValueError):  # ragged, or no numbers
        matrix = np.zeros(())
    if matrix.shape != (known, known):
        raise UserError(f"{wrong}{known} rows of {known} values, one for each known class, or () for all alike")
    if not (np.isfinite(matrix).all() and (matrix >= 0).all() and matrix.any(1).all() and not np.trace(matrix)):
        raise UserError(
            f"{wrong}values of 0 or more, 0 on the diagonal and not all 0 in a row: a noisy point gets another class"
        )
    return matrix / matrix.sum(1, keepdims=True)


def describe(options: LabelOptions) -> str:
    """What teaches a run, in a few words, with the unit of the budget."""
    large = f"connected component of at least {options.min_area} px"
    if options.annotator not in POINTS:
        return {
            "scribble": f"a stroke of {options.scribble_width} px along {options.scribble_share:.0%} of each {large}",
            "block": f"a block of {options.block_px}x{options.block_px} px per class and tile",
            "dense": "dense masks",
            "dense_balanced": "dense masks, the classes of a tile weighted alike",
        }[options.annotator]
    unit = {"uniform": "tile", "balanced": "class and tile", "component": large, "file": "class and tile"}
    text = f"{options.budget} points per {unit[options.annotator]}" if options.budget else "all points"
    text += f" of {options.file or 'the dataset'}" if options.annotator == "file" else ""
    text += f", the last {options.held_out} held out" if options.held_out else ""
    placed = {"random": "", "interior": ", interior", "boundary": f", within {options.boundary_px} px of a border"}
    text += placed[options.placement]
    for value, told in (
        (options.min_distance_px, f"at least {options.min_distance_px} px apart"),
        (options.click_jitter_px, f"clicked up to {options.click_jitter_px} px off"),
        (options.label_noise, f"{options.label_noise:.0%} of them of a wrong class"),
        (options.point_radius, f"discs of radius {options.point_radius} px"),
    ):
        text += f", {told}" if value else ""
    return text

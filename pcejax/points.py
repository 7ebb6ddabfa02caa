"""Annotators that click: a dense mask -> points as a person could have clicked them.

Points are drawn once per run on the whole tile at native resolution, as a pure function of
(points.seed, tile id, annotator, mask): never per crop or epoch, which would leak the dense mask.

A point's rank is its place in the order of its stratum, which no budget changes: budget k is
`rank < k`, so the budgets of a seed are nested, and so are their first k - h, which teach where h are
held out. Where a point is clicked and what it is called are functions of its own key, so nesting
survives bad clicks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from pcejax import discs, keys, label_options, placements
from pcejax.label_options import LabelOptions
from pcejax.legend import Legend


class Points(NamedTuple):
    """n points of a tile, in the order of their rank: row, col, class_id, rank, int32 `[n]` each, native pixels."""

    row: np.ndarray
    col: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray


class Drawn(NamedTuple):
    """The points of a tile, and the classes that got fewer of them than the budget."""

    points: Points
    underfull: tuple[int, ...]  # class ids, ascending


def uniform(mask: np.ndarray, min_area: int, legend: Legend) -> list[np.ndarray]:
    """One stratum, all known pixels of the mask uint8 `[H, W]`: the budget is points per tile."""
    known = np.flatnonzero(mask < legend.num_known)
    return [known] if known.size else []


def balanced(mask: np.ndarray, min_area: int, legend: Legend) -> list[np.ndarray]:
    """One stratum for each known class in the mask uint8 `[H, W]`: the budget is points per class and tile."""
    strata = (np.flatnonzero(mask == class_id) for class_id in range(legend.num_known))
    return [stratum for stratum in strata if stratum.size]


def component(mask: np.ndarray, min_area: int, legend: Legend) -> list[np.ndarray]:
    """One stratum for each connected component of a known class in the mask uint8 `[H, W]`.

    Components are 8-connected; those of fewer than `min_area` pixels get no point. The budget is
    points per component.
    """
    strata = []
    for class_id in range(legend.num_known):
        labelled, _ = scipy.ndimage.label(mask == class_id, np.ones((3, 3), int))
        areas = np.bincount(labelled.reshape(-1))
        for number, box in enumerate(scipy.ndimage.find_objects(labelled), 1):
            if areas[number] >= min_area:
                row, col = np.nonzero(labelled[box] == number)
                strata.append((row + box[0].start) * mask.shape[1] + col + box[1].start)
    return strata


ANNOTATORS: dict[str, Callable[[np.ndarray, int, Legend], list[np.ndarray]]] = {
    "uniform": uniform,
    "balanced": balanced,
    "component": component,
}
"""The strata, flat pixels int64 `[n]` each, that an annotator's budget counts points in, by its name."""


def draw(mask: np.ndarray, tile_id: str, options: LabelOptions, legend: Legend) -> Drawn:
    """The points of a mask uint8 `[H, W]`; all candidates of a stratum that has fewer than the budget.

    A minimum distance holds between any two points of a tile, as they were meant, before jitter.
    Unknown and IGNORE are never drawn.
    """
    strata = ANNOTATORS[options.annotator](mask, options.min_area, legend)
    distance = placements.border_distance(mask) if options.placement != "random" else None
    candidates = (
        placements.candidates(
            stratum,
            placement=options.placement,
            distance=distance,
            boundary_px=options.boundary_px,
            seed=options.seed,
            tile_id=tile_id,
        )
        for stratum in strata
    )
    if options.min_distance_px > 1:
        drawn = placements.first_apart(
            list(candidates), options.budget, mask.shape[1], mask.size, options.min_distance_px
        )
    else:
        drawn = [placements.first(each, options.budget) for each in candidates]
    flat = mask.reshape(-1)
    short = [s for s, got in zip(strata, drawn, strict=True) if len(got) < options.budget]
    underfull = np.flatnonzero(np.bincount(np.concatenate([*(flat[s] for s in short), np.zeros(0, np.uint8)])))
    pixels = np.concatenate([*drawn, np.zeros(0, np.int64)])
    rank = np.concatenate([*(np.arange(len(got)) for got in drawn), np.zeros(0, np.int64)])
    order = np.argsort(rank, kind="stable")
    return Drawn(_clicked(mask, pixels[order], rank[order], tile_id, options, legend), tuple(underfull.tolist()))


def taken(clicks: Points | None, options: LabelOptions) -> Drawn:
    """The first `budget` of a person's points of each class, all for budget 0; none on a tile that has no clicks."""
    if clicks is None:
        nothing = np.zeros(0, np.int32)
        return Drawn(Points(nothing, nothing, nothing, nothing), ())
    if not options.budget:
        return Drawn(clicks, ())
    kept = clicks.rank < options.budget
    classes, counts = np.unique(clicks.class_id[kept], return_counts=True)
    return Drawn(Points(*(values[kept] for values in clicks)), tuple(classes[counts < options.budget].tolist()))


def split(points: Points, options: LabelOptions) -> tuple[Points, Points]:
    """Of a tile's points up to the budget, those that teach, and those that are held out: the last of each stratum.

    The ranks that teach are those below `budget - held_out`, so a stratum of fewer points has fewer held out, or none.
    Where a person's points are all taken (budget 0), the last of each class are held out, never its first.
    """
    budget = options.budget or np.bincount(points.class_id)[points.class_id]
    teaches = points.rank < np.maximum(1, budget - options.held_out)
    return Points(*(values[teaches] for values in points)), Points(*(values[~teaches] for values in points))


def _clicked(
    mask: np.ndarray, pixels: np.ndarray, rank: np.ndarray, tile_id: str, options: LabelOptions, legend: Legend
) -> Points:
    """The points that a person makes of the pixels, flat int64 `[n]`, that were meant."""
    row, col = np.divmod(pixels, mask.shape[1])
    class_id = mask.reshape(-1)[pixels]
    if options.click_jitter_px:
        reach = options.click_jitter_px
        offsets = np.argwhere(discs.disc(reach)) - reach
        chosen = offsets[keys.pixel_keys(options.seed, tile_id, pixels, "jitter") % np.uint64(len(offsets))]
        row = np.clip(row + chosen[:, 0], 0, mask.shape[0] - 1)
        col = np.clip(col + chosen[:, 1], 0, mask.shape[1] - 1)
    if options.label_noise:
        noisy = keys.unit(keys.pixel_keys(options.seed, tile_id, pixels, "noise")) < options.label_noise
        chances = np.cumsum(label_options.confusion(options, legend), 1)
        chances /= chances[:, -1:]
        u = keys.unit(keys.pixel_keys(options.seed, tile_id, pixels, "confusion"))
        class_id = np.where(noisy, (chances[class_id] <= u[:, None]).sum(1), class_id)
    return Points(*(values.astype(np.int32) for values in (row, col, class_id, rank)))

"""Where in a stratum points lie: anywhere, rather in the middle, or along the border; and how far apart.

A stratum is what a budget counts points in: the tile, a class of it, or a connected component. Its
candidates are put in one order that does not depend on the budget, and a budget takes the first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from pcejax import discs, keys


class Candidates(NamedTuple):
    """The pixels that a stratum's points may be, flat int64 `[n]`, and the key float64 or uint64 `[n]` to sort by."""

    pixels: np.ndarray
    sort_keys: np.ndarray


def border_distance(mask: np.ndarray) -> np.ndarray:
    """float64 `[H, W]`: how far each pixel of a mask uint8 `[H, W]` lies from its component's border.

    1 for a pixel with one of another value among its eight neighbours, and 1 more for each pixel of
    Euclidean distance from the nearest of those. The tile's edge is no border, since the land goes
    on beyond it; infinite where a tile has no border at all.
    """
    inside = scipy.ndimage.maximum_filter(mask, 3, mode="nearest") == scipy.ndimage.minimum_filter(
        mask, 3, mode="nearest"
    )
    if inside.all():
        return np.full(mask.shape, np.inf)
    return 1.0 + scipy.ndimage.distance_transform_edt(inside)


def candidates(
    stratum: np.ndarray,
    *,
    placement: str,
    distance: np.ndarray | None,
    boundary_px: int,
    seed: int,
    tile_id: str,
) -> Candidates:
    """The candidates of a stratum, flat int `[n]`, under a placement.

    random: every pixel equally likely.
    interior: drawn without replacement with weights w = distance from the border, by exponential races
      -log(1 - u) / w (Efraimidis and Spirakis, 2006, "Weighted random sampling with a reservoir"): the
      smallest keys are such a sample for any budget. With equal weights the order is that of "random".
    boundary: every pixel equally likely of those within `boundary_px` of the border.

    Args:
      stratum: row * W + col.
      placement: as above.
      distance: what `border_distance` gives, where the placement is not "random".
      boundary_px: native pixels.
      seed: `points.seed`.
      tile_id: the tile's.
    """
    if placement == "random":
        return Candidates(stratum, keys.pixel_keys(seed, tile_id, stratum))
    assert distance is not None
    depth = distance.reshape(-1)[stratum]
    if placement == "boundary":
        stratum = stratum[depth <= boundary_px]
        return Candidates(stratum, keys.pixel_keys(seed, tile_id, stratum))
    # No border anywhere: all pixels are as far from it.
    weight = np.where(np.isinf(depth), 1.0, depth)
    return Candidates(stratum, -np.log1p(-keys.unit(keys.pixel_keys(seed, tile_id, stratum))) / weight)


def first(candidates: Candidates, budget: int) -> np.ndarray:
    """The `budget` candidates of the smallest keys, in the keys' order; all of them where there are fewer."""
    pixels, sort_keys = candidates
    if pixels.size > budget:
        chosen = np.argpartition(sort_keys, budget)[:budget]
        pixels, sort_keys = pixels[chosen], sort_keys[chosen]
    return pixels[np.argsort(sort_keys, kind="stable")]


def first_apart(strata: list[Candidates], budget: int, width: int, size: int, min_distance_px: int) -> list[np.ndarray]:
    """Up to `budget` candidates of each stratum, any two of a tile at least `min_distance_px` apart.

    Greedy, rank by rank: first each stratum in turn gets its point of rank 0, then of rank 1, and so on,
    always its next candidate that is far enough from all points so far. So whether a point of rank k is
    taken depends on lower ranks, and on earlier strata at rank k, but never on the budget.

    Args:
      strata: of one tile.
      budget: points per stratum.
      width: W of the tile.
      size: H * W of the tile.
      min_distance_px: Euclidean, between centres of pixels.
    """
    too_near = np.zeros((size // width, width), bool)
    # Squared distances are whole numbers, so below d^2 is up to d^2 - 1.
    nearer = discs.disc(math.sqrt(min_distance_px**2 - 1))
    orders = [pixels[np.argsort(sort_keys, kind="stable")] for pixels, sort_keys in strata]
    place = [0] * len(orders)
    drawn: list[list[int]] = [[] for _ in orders]
    for _ in range(budget):
        for index, order in enumerate(orders):
            place[index] = _next_free(too_near.reshape(-1), order, place[index])
            if place[index] < order.size:
                drawn[index].append(int(order[place[index]]))
                discs.stamp(too_near, nearer, *divmod(drawn[index][-1], width))
        if all(at >= order.size for at, order in zip(place, orders, strict=True)):
            break
    return [np.array(pixels, np.int64) for pixels in drawn]


def _next_free(too_near: np.ndarray, order: np.ndarray, start: int) -> int:
    """The first place in `order` from `start` whose pixel is free, or its length."""
    step = 64
    while start < order.size:
        free = np.flatnonzero(~too_near[order[start : start + step]])
        if free.size:
            return start + int(free[0])
        start, step = start + step, step * 2
    return order.size

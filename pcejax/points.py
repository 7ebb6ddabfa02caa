"""Annotators: a dense mask -> points as a person could have clicked them -> a label tile.

Points are drawn once per run on the whole tile at native resolution, as a pure function of
(points.seed, tile id, annotator, mask): never per crop or epoch, which would leak the dense mask.

Every pixel of a tile has a 64-bit key, a hash of (seed, tile id, pixel). A point's rank is its key's
place among the pixels of its stratum, so the ranks of a stratum are one permutation of it and budget k
is `rank < k`: the budgets of a seed are nested. The hash is written out here, not taken from a random
number generator, so that points stay the same over machines and library versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend


class Points(NamedTuple):
    """n points of a tile, in the order of their rank: row, col, class_id, rank, int32 `[n]` each, native pixels."""

    row: np.ndarray
    col: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray


def pixel_keys(seed: int, tile_id: str, num_pixels: int) -> np.ndarray:
    """uint64 `[num_pixels]`: SplitMix64 (Steele et al., 2014) from a start that hashes (seed, tile id)."""
    digest = hashlib.blake2b(f"{seed}:{tile_id}".encode(), digest_size=8).digest()
    state = np.arange(1, num_pixels + 1, dtype=np.uint64)
    state *= np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(int.from_bytes(digest, "little"))
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def _first(pixels: np.ndarray, keys: np.ndarray, budget: int) -> np.ndarray:
    """The `budget` of `pixels` with the smallest keys, in the keys' order."""
    if pixels.size > budget:
        pixels = pixels[np.argpartition(keys[pixels], budget)[:budget]]
    return pixels[np.argsort(keys[pixels], kind="stable")]


def _points_of_strata(mask: np.ndarray, keys: np.ndarray, strata: Iterable[np.ndarray], budget: int) -> Points:
    drawn = [_first(stratum, keys, budget) for stratum in strata]
    pixels = np.concatenate([*drawn, np.zeros(0, np.int64)])
    rank = np.concatenate([*(np.arange(len(d)) for d in drawn), np.zeros(0, np.int64)])
    order = np.argsort(rank, kind="stable")
    row, col = np.divmod(pixels[order], mask.shape[1])
    class_id = mask.reshape(-1)[pixels[order]]
    return Points(*(values.astype(np.int32) for values in (row, col, class_id, rank[order])))


def uniform(mask: np.ndarray, *, budget: int, seed: int, tile_id: str, legend: Legend) -> Points:
    """`budget` points per tile, every known pixel of the mask uint8 `[H, W]` equally likely."""
    known = np.flatnonzero(mask < legend.num_known)
    return _points_of_strata(mask, pixel_keys(seed, tile_id, mask.size), [known], budget)


def balanced(mask: np.ndarray, *, budget: int, seed: int, tile_id: str, legend: Legend) -> Points:
    """`budget` points per class present in the mask uint8 `[H, W]`; all pixels of a class that has fewer."""
    strata = (np.flatnonzero(mask == class_id) for class_id in range(legend.num_known))
    return _points_of_strata(mask, pixel_keys(seed, tile_id, mask.size), strata, budget)


ANNOTATORS: dict[str, Callable[..., Points]] = {"uniform": uniform, "balanced": balanced}
"""Point annotators by `config.points.annotator`; "dense" is the one beside them that draws no points."""


def annotate(
    mask: np.ndarray,
    tile_id: str,
    *,
    annotator: str,
    budget: int,
    seed: int,
    legend: Legend,
    factor: int,
    train_unknown: bool,
) -> tuple[np.ndarray, Points | None]:
    """The label tile uint8 `[ceil(H / factor), ceil(W / factor)]` of a mask uint8 `[H, W]`, and the points in it.

    "dense" gives the mask itself, thinned to every factor-th pixel, and no points.

    Raises:
      UserError: no annotator of that name, or a budget below 1.
    """
    if annotator == "dense":
        last_class = legend.num_classes if train_unknown else legend.num_known
        label = mask[factor // 2 :: factor, factor // 2 :: factor]
        label = np.pad(
            label,
            [(0, -(-n // factor) - m) for n, m in zip(mask.shape, label.shape, strict=True)],
            constant_values=IGNORE,
        )
        return np.where(label < last_class, label, IGNORE).astype(np.uint8), None
    if annotator not in ANNOTATORS:
        raise UserError(f"points.annotator={annotator!r}; expected one of {[*ANNOTATORS, 'dense']}")
    if budget < 1:
        raise UserError(f"points.budget={budget}; expected 1 or more")
    points = ANNOTATORS[annotator](mask, budget=budget, seed=seed, tile_id=tile_id, legend=legend)
    return rasterise(points, mask.shape, factor), points


def rasterise(points: Points, shape: tuple[int, ...], factor: int) -> np.ndarray:
    """The label tile uint8 `[ceil(H / factor), ceil(W / factor)]`: class ids at the points, IGNORE elsewhere.

    `shape` is the tile's native `(H, W)`. A point whose coarse pixel is taken by one of lower rank moves
    to the nearest free pixel, so none is lost, and what rank k gets does not depend on later ranks.
    """
    label = np.full([-(-n // factor) for n in shape], IGNORE, np.uint8)
    if len(points.row) > label.size:
        raise UserError(
            f"{len(points.row)} points do not fit on the {label.size} pixels of a tile reduced {factor} times; "
            "raise data.scale or lower points.budget"
        )
    for row, col, class_id in zip(points.row // factor, points.col // factor, points.class_id, strict=True):
        if label[row, col] != IGNORE:
            row, col = _nearest_free(label, row, col)
        label[row, col] = class_id
    return label


def _nearest_free(label: np.ndarray, row: int, col: int) -> tuple[int, int]:
    """The unlabelled pixel nearest to (row, col), the first in reading order among equals."""
    reach = 1
    while True:
        top, left = max(0, row - reach), max(0, col - reach)
        free = np.argwhere(label[top : row + reach + 1, left : col + reach + 1] == IGNORE) + (top, left)
        if len(free):
            distance = ((free - (row, col)) ** 2).sum(1)
            # A pixel outside the square may be nearer than one in its corner.
            if distance.min() <= reach**2 or reach >= max(label.shape):
                return tuple(int(v) for v in free[distance.argmin()])  # type: ignore[return-value]
        reach *= 2


def near_points(points: Points, shape: tuple[int, ...], buffer_px: int) -> np.ndarray:
    """bool `[H, W]`: pixels within `buffer_px` native pixels, in row and in column, of a point."""
    near = np.zeros(shape, bool)
    for row, col in zip(points.row, points.col, strict=True):
        near[max(0, row - buffer_px) : row + buffer_px + 1, max(0, col - buffer_px) : col + buffer_px + 1] = True
    return near

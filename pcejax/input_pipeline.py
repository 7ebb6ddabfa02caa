"""The plan: which crops each step sees. A pure function of (seed, step), so resuming is starting at a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import grain.python as grain
import ml_collections
import numpy as np

from pcejax import tiles
from pcejax.errors import UserError
from pcejax.legend import IGNORE

MAX_ANCHORS = 1000
"""Anchors kept per tile and class: enough for any point budget, few enough for dense label tiles."""


class Anchors(NamedTuple):
    """Labelled pixels that crops are laid around, by class: tile, row, col int32 `[n]` each."""

    by_class: list[np.ndarray]  # int32 [n, 3], one array a class that has labels


def find_anchors(labels: list[np.ndarray], seed: int) -> Anchors:
    """The labelled pixels of label tiles uint8 `[h, w]`, at most MAX_ANCHORS drawn per tile and class."""
    rng = np.random.default_rng([seed, 1])
    found: dict[int, list[np.ndarray]] = {}
    for tile, label in enumerate(labels):
        flat = np.flatnonzero(label != IGNORE)
        classes = label.reshape(-1)[flat]
        for class_id in np.unique(classes):
            pixels = flat[classes == class_id]
            if pixels.size > MAX_ANCHORS:
                pixels = rng.choice(pixels, MAX_ANCHORS, replace=False)
            row, col = np.divmod(pixels, label.shape[1])
            found.setdefault(int(class_id), []).append(np.stack([np.full_like(row, tile), row, col], 1))
    return Anchors([np.concatenate(found[class_id]).astype(np.int32) for class_id in sorted(found)])


def make_plan(
    step: int, *, seed: int, batch: int, crop: int, sizes: np.ndarray, anchors: Anchors, anchored_share: float
) -> np.ndarray:
    """The global batch of `step`: int32 `[batch, 4]`, a row (tile, row, col, seed) for each crop.

    `round(batch * anchored_share)` crops hold an anchor: its class is drawn first, all classes alike,
    then one of its anchors, then the crop's place around it. The others lie anywhere on any tile.

    Args:
      step: counts from 0.
      seed: the run's seed.
      batch: crops in the batch.
      crop: side of a crop, pixels at the training scale.
      sizes: int `[tiles, 2]`, height and width of each tile.
      anchors: what `find_anchors` found.
      anchored_share: share of the crops laid around an anchor, in [0, 1].
    """
    rng = np.random.default_rng([seed, 0, step])
    tile = rng.integers(0, len(sizes), batch)
    corner = rng.random((batch, 2)) * (sizes[tile] - crop + 1)
    class_index = rng.integers(0, len(anchors.by_class), batch)
    pick = rng.random(batch)
    offset = rng.random((batch, 2)) * crop
    # Spread over the rows, so that every device gets its share.
    anchored = rng.permutation(batch) < round(batch * anchored_share)
    for index in np.flatnonzero(anchored):
        candidates = anchors.by_class[class_index[index]]
        tile[index], *place = candidates[int(pick[index] * len(candidates))]
        corner[index] = np.clip(np.array(place) - np.floor(offset[index]), 0, sizes[tile[index]] - crop)
    crop_seed = rng.integers(0, 2**31, batch)
    return np.column_stack([tile, corner.astype(np.int64), crop_seed]).astype(np.int32)


class _PlanSource:
    """What grain reads: item k is the plan of step k."""

    def __init__(self, config: ml_collections.ConfigDict, tile_set: tiles.TileSet):
        self._num_steps = config.train.num_steps
        self._sizes = np.array([label.shape for label in tile_set.labels])
        self._arguments = {
            "seed": config.seed,
            "batch": config.train.batch_size,
            "crop": config.data.crop,
            "anchors": find_anchors(tile_set.labels, config.seed),
            "anchored_share": config.data.anchored_share,
        }

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> np.ndarray:
        return make_plan(step, sizes=self._sizes, **self._arguments)


def check(config: ml_collections.ConfigDict, tile_set: tiles.TileSet) -> None:
    """Checks that plans can be made.

    Raises:
      UserError: a crop is larger than a tile, or the anchored share is no share.
    """
    for tile_id, label in zip(tile_set.tile_ids, tile_set.labels, strict=True):
        if min(label.shape) < config.data.crop:
            height, width = label.shape
            raise UserError(
                f"data.crop={config.data.crop} is larger than tile {tile_id}, {height}x{width} pixels at "
                f"data.scale={config.data.scale}; expected at most {min(label.shape)}"
            )
    if not 0.0 <= config.data.anchored_share <= 1.0:
        raise UserError(f"data.anchored_share={config.data.anchored_share}; expected a share from 0 to 1")


def plans(config: ml_collections.ConfigDict, tile_set: tiles.TileSet, first_step: int) -> Iterator[np.ndarray]:
    """The plans of the steps from `first_step` to the run's last, made ahead by grain's thread."""
    source = grain.MapDataset.source(_PlanSource(config, tile_set))[first_step:]
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=32)))

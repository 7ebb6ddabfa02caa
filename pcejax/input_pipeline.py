"""The plan: which crops each step sees. A pure function of (seed, step), so resuming is starting at a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import grain.python as grain
import jax
import ml_collections
import numpy as np

from pcejax import parallel, tiles
from pcejax.errors import UserError
from pcejax.legend import IGNORE

MAX_ANCHORS = 1000
"""Anchors kept per tile and class: enough for any point budget, few enough for dense label tiles."""


class Anchors(NamedTuple):
    """Labelled pixels that crops are laid around, by class: tile, row, col int32 `[n]` each."""

    by_class: list[np.ndarray]  # int32 [n, 3], one array a class that has labels


def find_anchors(labels: list[np.ndarray], seed: int, most: int = MAX_ANCHORS) -> Anchors:
    """The labelled pixels of label tiles uint8 `[h, w]`, at most so many drawn per tile and class."""
    rng = np.random.default_rng([seed, 1])
    found: dict[int, list[np.ndarray]] = {}
    for tile, label in enumerate(labels):
        flat = np.flatnonzero(label != IGNORE)
        classes = label.reshape(-1)[flat]
        for class_id in np.unique(classes):
            pixels = flat[classes == class_id]
            if pixels.size > most:
                pixels = rng.choice(pixels, most, replace=False)
            row, col = np.divmod(pixels, label.shape[1])
            found.setdefault(int(class_id), []).append(np.stack([np.full_like(row, tile), row, col], 1))
    return Anchors([np.concatenate(found[class_id]).astype(np.int32) for class_id in sorted(found)])


def make_plan(
    step: int,
    *,
    seed: int,
    batch: int,
    crop: int,
    sizes: np.ndarray,
    anchors: Anchors,
    anchored_share: float,
    num_labelled: int,
    unlabelled_share: float,
) -> np.ndarray:
    """The global batch of `step`: int32 `[batch, 4]`, a row (tile, row, col, seed) for each crop.

    `round(batch * unlabelled_share)` crops lie anywhere on tiles without labels. `round(anchored_share * others)` of
    the others hold an anchor: its class is drawn first, all classes alike, then one of its anchors, then the crop's
    place around it. The rest lie anywhere on any labelled tile.

    Args:
      step: counts from 0.
      seed: the run's seed.
      batch: crops in the batch.
      crop: side of a crop, pixels at the training scale.
      sizes: int `[tiles, 2]`, height and width of each tile.
      anchors: what `find_anchors` found.
      anchored_share: share of the labelled tiles' crops that are laid around an anchor, in [0, 1].
      num_labelled: tiles with labels, which come first.
      unlabelled_share: share of the crops cut from the tiles after them, in [0, 1].
    """
    rng = np.random.default_rng([seed, 0, step])
    tile = rng.integers(0, num_labelled, batch)
    # Spread over the rows, so that every device gets its share.
    place_in_turn = rng.permutation(batch)
    unlabelled = place_in_turn >= batch - round(batch * unlabelled_share)
    anchored = place_in_turn < round(np.count_nonzero(~unlabelled) * anchored_share)
    tile[unlabelled] = rng.integers(num_labelled, len(sizes), np.count_nonzero(unlabelled))
    corner = rng.random((batch, 2)) * (sizes[tile] - crop + 1)
    class_index = rng.integers(0, len(anchors.by_class), batch)
    pick = rng.random(batch)
    offset = rng.random((batch, 2)) * crop
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
        self._sizes = np.array([image.shape[:2] for image in tile_set.images])
        self._arguments = {
            "seed": config.seed,
            "batch": config.train.batch_size,
            "crop": config.data.crop,
            "anchors": find_anchors(tile_set.labels, config.seed),
            "anchored_share": config.data.anchored_share,
            "num_labelled": len(tile_set.labels),
            "unlabelled_share": config.data.unlabelled_share,
        }

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> np.ndarray:
        return make_plan(step, sizes=self._sizes, **self._arguments)


def check(config: ml_collections.ConfigDict, tile_set: tiles.TileSet) -> None:
    """Checks that plans can be made.

    Raises:
      UserError: a crop is larger than a tile, or a share is no share.
    """
    unlabelled = len(tile_set.images) - len(tile_set.tile_ids)
    names = [f"tile {tile_id}" for tile_id in tile_set.tile_ids] + ["an unlabelled tile"] * unlabelled
    for name, image in zip(names, tile_set.images, strict=True):
        height, width = image.shape[:2]
        if min(height, width) < config.data.crop:
            raise UserError(
                f"data.crop={config.data.crop} is larger than {name}, {height}x{width} pixels at "
                f"data.scale={config.data.scale}; expected at most {min(height, width)}"
            )
    for field in ("anchored_share", "unlabelled_share"):
        if not 0.0 <= config.data[field] <= 1.0:
            raise UserError(f"data.{field}={config.data[field]}; expected a share from 0 to 1")
    if bool(config.data.unlabelled_share) != bool(config.data.unlabelled_split):
        raise UserError(
            f"data.unlabelled_share={config.data.unlabelled_share} and data.unlabelled_split="
            f"{config.data.unlabelled_split!r}; expected both or none: how many crops, and of which tiles"
        )


def plans(config: ml_collections.ConfigDict, tile_set: tiles.TileSet, first_step: int) -> Iterator[np.ndarray]:
    """The plans of the steps from `first_step` to the run's last, made ahead by grain's thread."""
    source = grain.MapDataset.source(_PlanSource(config, tile_set))[first_step:]
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=32)))


def batches(
    config: ml_collections.ConfigDict, tile_set: tiles.TileSet, first_step: int
) -> Iterator[tuple[np.ndarray, tiles.Batch]]:
    """This process's rows of each plan and the crops that they name, cut ahead by grain's threads."""

    def cut(plan: np.ndarray) -> tuple[np.ndarray, tiles.Batch]:
        rows = parallel.process_rows(plan)
        return rows, tiles.cut_on_host(tile_set, rows, config.data.crop)

    threads = config.data.host_threads
    if threads < 1:
        raise UserError(f"data.host_threads={threads}; expected 1 or more")
    source = grain.MapDataset.source(_PlanSource(config, tile_set))[first_step:].map(cut)
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def feed(
    config: ml_collections.ConfigDict, tile_set: tiles.TileSet, first_step: int
) -> Iterator[tuple[tiles.Tiles | tiles.Batch, jax.Array]]:
    """What each step from `first_step` on takes, on the devices: its source and its plan.

    The source is the resident tiles, the same at every step, or with `data.tiles="host"` the step's crops.
    """
    if config.data.tiles == "device":
        resident = tiles.place(tile_set)
        for plan in plans(config, tile_set, first_step):
            yield resident, parallel.shard_rows(parallel.process_rows(plan))
    else:
        for rows, batch in batches(config, tile_set, first_step):
            yield jax.tree.map(parallel.shard_rows, batch), parallel.shard_rows(rows)

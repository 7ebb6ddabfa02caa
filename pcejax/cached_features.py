"""What a frozen encoder sees of labelled pixels, computed once: instead of crops, steps take pixels of it.

An encoder that stays as it is sees the same in every epoch. Each tile is moved and lit in some ways, goes through the
encoder by windows of `data.crop` pixels that overlap as those of mapping do, and of each labelled pixel the levels are
kept as they are interpolated there ("hypercolumns": Hariharan et al., 2015), from the window that it is farthest inside
of. To the rest of training these are tiles one pixel wide, and crops of one pixel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import augment, datasets, input_pipeline, terms, tiles
from pcejax.errors import UserError
from pcejax.frozen_features import interpolated
from pcejax.legend import IGNORE
from pcejax.tiled_inference import window_starts
from pcejax.train_state import named_key

MAX_PIXELS = 200
"""Kept of a tile's pixels of a class: all points, part of a dense mask."""

OnTile = Callable[[int, int], None]
See = Callable[[Any, jax.Array, np.ndarray, np.ndarray], tuple[list[jax.Array | None], jax.Array]]


def check(config: ml_collections.ConfigDict) -> None:
    """Checks that a run whose `data.cached_views` is above 0 can learn from pixels.

    Raises:
      UserError: fewer views than one, a part of the encoder moves, there is a decoder, or the loss asks for more than
        labelled pixels.
    """
    if config.data.cached_views < 1:
        raise UserError(f"data.cached_views={config.data.cached_views}; expected 1 or more, or 0 for steps of crops")
    pixelwise = ("partial_cross_entropy", "hard_pixel_cross_entropy", "partial_dice")
    known: dict[str, tuple[Any, ...]] = {
        "model.frozen_statistics": (True,),
        "model.frozen_stages": (config.model.depth if config.model.encoder != "plain" else config.model.depth + 1,),
        "model.decoder": ("none",),
        "model.dropout": (0.0,),
        "model.fusion.at": ("",),
        "data.unlabelled_share": (0.0,),
        **{f"loss.{name}.weight": (0.0,) for name in terms.TERMS if name not in pixelwise},
    }
    for field, allowed in known.items():
        if (value := operator.attrgetter(field)(config)) not in allowed:
            raise UserError(
                f"{field}={value!r} with data.cached_views={config.data.cached_views}; expected {allowed[0]!r}: "
                "what is computed once is of a frozen encoder, and of labelled pixels alone; or set data.cached_views=0"
            )


def as_they_are(keys: jax.Array, image: jax.Array, label: jax.Array) -> augment.Views:
    """In the place of `augment.augment`: views are chosen by the plan."""
    return augment.Views(image, label, image, image)


def of_pixels(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The run's config as its plans are made by, where a crop is a labelled pixel."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.data.crop = 1
        changed.data.anchored_share = 1.0
    return changed


def compute(
    config: ml_collections.ConfigDict,
    tile_set: tiles.TileSet,
    model: nn.Module,
    variables: Any,
    bands: datasets.Bands,
    on_tile: OnTile,
) -> tuple[tiles.TileSet, tuple[int, ...]]:
    """The labelled pixels of a run's tiles as an encoder sees them.

    Args:
      config: the run's.
      tile_set: of the run.
      model: of images.
      variables: with those of its encoder.
      bands: of the tiles.
      on_tile: called with (tiles done, tiles in all).

    Returns:
      A tile for each view of each tile: "images" float32 `[n, 1, F]` of its `n` labelled pixels, labels uint8
      `[n, 1]`; and the features of each level, whose sum is F.
    """
    see = _make_see(config, model, bands)
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    dims: tuple[int, ...] = ()
    for index, (image, label) in enumerate(zip(tile_set.images, tile_set.labels, strict=True)):
        kept = _some(label, config.seed)
        for view in range(config.data.cached_views):
            key = jax.random.fold_in(named_key(jax.random.key(config.seed), "views"), view)
            found = [*_features(see, variables, jax.random.fold_in(key, index), image, kept, config)]
            features, classes = (np.concatenate(parts) for parts in zip(*((f, c) for f, c, _ in found), strict=True))
            dims = found[0][2]
            images.append(features[:, None])
            labels.append(classes[:, None])
        on_tile(index + 1, len(tile_set.labels))
    views = config.data.cached_views

    def repeated(values: list[Any]) -> list[Any]:
        return [value for value in values for _ in range(views)]

    ids, weights, points = (repeated(values) for values in (tile_set.tile_ids, tile_set.weights, tile_set.points))
    held_out, underfull = repeated(tile_set.held_out), repeated(tile_set.underfull)
    return tiles.TileSet(ids, images, labels, weights, points, held_out, underfull), dims


def _some(label: np.ndarray, seed: int) -> np.ndarray:
    """The label tile, with MAX_PIXELS of each class at most."""
    kept = np.full_like(label, IGNORE)
    for pixels in input_pipeline.find_anchors([label], seed, MAX_PIXELS).by_class:
        row, col = pixels[:, 1], pixels[:, 2]
        kept[row, col] = label[row, col]
    return kept


def _make_see(config: ml_collections.ConfigDict, model: nn.Module, bands: datasets.Bands) -> See:
    """`(variables, key, image [1, S, S, bands], label [1, S, S]) -> levels, label`, moved and lit by the key."""

    def see(
        variables: Any, key: jax.Array, image: np.ndarray, label: np.ndarray
    ) -> tuple[list[jax.Array | None], jax.Array]:
        light: dict[str, Any] = dict(config.augment)
        views = augment.augment(key[None], tiles.scale_image(image, bands), jnp.asarray(label), **light)
        levels: Any = model.apply(variables, views.image, train=False, method="levels")
        return [None if level is None else level[0] for level in levels], views.label[0]

    return jax.jit(see)


def _features(
    see: See,
    variables: Any,
    key: jax.Array,
    image: np.ndarray,
    label: np.ndarray,
    config: ml_collections.ConfigDict,
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, ...]]]:
    """Features float32 `[n, F]`, classes uint8 `[n]` and the features of each level, by windows of a tile."""
    size = config.data.crop
    starts = [window_starts(side, size, min(config.inference.overlap, size - 1)) for side in label.shape]
    owner = [_owner(of_axis, side, size) for of_axis, side in zip(starts, label.shape, strict=True)]
    for row, top in enumerate(starts[0]):
        for col, left in enumerate(starts[1]):
            window = np.s_[top : top + size, left : left + size]
            mine = np.ix_(owner[0][window[0]] == row, owner[1][window[1]] == col)
            own = np.full((size, size), IGNORE, np.uint8)
            own[mine] = label[window][mine]
            if (own == IGNORE).all():
                continue
            levels, moved = jax.device_get(see(variables, key, image[window][None], own[None]))
            at = np.nonzero(moved != IGNORE)
            parts = [interpolated(x, at[0], at[1], 2**index) for index, x in enumerate(levels) if x is not None]
            yield np.concatenate(parts, -1), moved[at], tuple(part.shape[-1] for part in parts)


def _owner(starts: list[int], side: int, size: int) -> np.ndarray:
    """int `[side]`: the window along a side that each pixel is farthest inside of."""
    inside = np.arange(side)[:, None] - np.array(starts)
    return np.minimum(inside, size - 1 - inside).argmax(1)

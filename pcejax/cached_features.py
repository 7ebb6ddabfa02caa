"""What a frozen encoder sees of labelled pixels, computed once: instead of crops, steps take pixels of it.

An encoder that stays as it is sees the same in every epoch. Each tile is moved and lit in some ways, goes through the
encoder by windows of `data.crop` pixels that overlap as those of mapping do, and of each labelled pixel the levels are
kept as they are interpolated there ("hypercolumns": Hariharan et al., 2015), from the window that it is farthest inside
of. They stay in `data.cache_dir` for other runs. To the rest of training these are tiles one pixel wide, and crops of
one pixel.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from pcejax import augment, datasets, feature_cache, input_pipeline, terms, tiles
from pcejax.errors import UserError
from pcejax.frozen_features import interpolated
from pcejax.legend import IGNORE
from pcejax.points import Points
from pcejax.tiled_inference import window_starts
from pcejax.train_state import named_key

MAX_PIXELS = 200
"""Kept of a tile's pixels of a class, or as many as the class has points there: part of a mask, a stroke or a disc."""

OnTile = Callable[[int, int], None]
Seen = tuple[list[np.ndarray | None], np.ndarray]
See = Callable[[jax.Array, np.ndarray, np.ndarray], Seen]


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


def windows_of(
    config: ml_collections.ConfigDict, tile_set: tiles.TileSet, plan: np.ndarray
) -> tuple[tiles.TileSet, np.ndarray]:
    """What the encoder sees of a plan int32 `[b, 4]` of labelled pixels: for crops of `data.crop`, tiles and a plan.

    A tile that is smaller than a window is filled up to one; each pixel's window is the one that it is kept from.
    """
    size, plan = config.data.crop, plan.copy()
    for entry in plan:
        for axis, side in enumerate(tile_set.labels[entry[0]].shape, 1):
            starts, owner = _windows(config, side)
            entry[axis] = starts[owner[entry[axis]]]
    images = [_filled(image, size) for image in tile_set.images]
    labels = [_filled(label, size, IGNORE) for label in tile_set.labels]
    return tile_set._replace(images=images, labels=labels), plan


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
    views = config.data.cached_views
    lowered = _lower(config, model, variables, bands, tile_set.images[0])

    @functools.cache
    def compiled() -> Callable[..., Any]:
        return lowered.compile()

    def see(key: jax.Array, image: np.ndarray, numbers: np.ndarray) -> Seen:
        return jax.device_get(compiled()(variables, key, image, numbers))

    dims = tuple(level.shape[-1] for level in lowered.out_info[0] if level is not None)
    encoder = jax.device_get(jax.tree.leaves({kind: tree["encoder"] for kind, tree in variables.items()}))
    seen_with = feature_cache.digest(lowered.as_text(), config.inference.overlap, config.seed, views, *encoder)
    folder = Path(config.data.cache_dir).expanduser() / config.data.name / "features"
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for index, tile_id in enumerate(tile_set.tile_ids):
        image, label = tile_set.images[index], tile_set.labels[index]
        pixels = _some(label, tile_set.points[index], config.seed)
        path = folder / f"{tile_id}-{feature_cache.digest(seen_with, image)}.npz"
        of_pixels = functools.partial(_features, see, sum(dims), config, tile_id, image)
        features = feature_cache.gather(path, pixels, of_pixels)
        images += [of_view[:, None] for of_view in features]
        labels += [label.ravel()[pixels][:, None]] * len(features)
        on_tile(index + 1, len(tile_set.labels))

    def repeated(values: list[Any]) -> list[Any]:
        return [value for value in values for _ in range(views)]

    ids, weights, points = (repeated(values) for values in (tile_set.tile_ids, tile_set.weights, tile_set.points))
    held_out, underfull = repeated(tile_set.held_out), repeated(tile_set.underfull)
    return tiles.TileSet(ids, images, labels, weights, points, held_out, underfull), dims


def _some(label: np.ndarray, points: Points | None, seed: int) -> np.ndarray:
    """Labelled pixels int64 `[n]`, row * W + column: of each class at most MAX_PIXELS, or as many as its points."""
    most = max(MAX_PIXELS, np.bincount(points.class_id).max(initial=0)) if points is not None else MAX_PIXELS
    found = input_pipeline.find_anchors([label], seed, most).by_class
    at = np.concatenate([np.empty((0, 3), np.int64), *found])
    return np.unique(at[:, 1] * label.shape[1] + at[:, 2])


def _lower(
    config: ml_collections.ConfigDict, model: nn.Module, variables: Any, bands: datasets.Bands, image: np.ndarray
) -> jax.stages.Lowered:
    """`(variables, key, image [1, S, S, bands], numbers of pixels int32 [1, S, S]) -> levels, numbers`, both moved."""

    def see(
        variables: Any, key: jax.Array, image: jax.Array, numbers: jax.Array
    ) -> tuple[list[jax.Array | None], jax.Array]:
        light: dict[str, Any] = dict(config.augment)
        views = augment.augment(key[None], tiles.scale_image(image, bands), numbers, **light)
        levels: Any = model.apply(variables, views.image, train=False, method="levels")
        return [None if level is None else level[0] for level in levels], views.label[0]

    shape = (1, config.data.crop, config.data.crop)
    window = jax.ShapeDtypeStruct((*shape, image.shape[-1]), image.dtype)
    return jax.jit(see).lower(variables, jax.random.key(0), window, jax.ShapeDtypeStruct(shape, np.int32))


def _features(
    see: See, num: int, config: ml_collections.ConfigDict, tile_id: str, image: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """Features float32 `[views, n, num]` of a tile's pixels int64 `[n]`."""
    numbers = np.full(image.shape[:2], -1, np.int32)
    numbers.flat[pixels] = np.arange(len(pixels))
    key = named_key(jax.random.key(config.seed), f"views of {tile_id}")
    features = np.empty((config.data.cached_views, len(pixels), num), np.float32)
    for view, of_view in enumerate(features):
        for at, of_window in _by_windows(see, jax.random.fold_in(key, view), config, image, numbers):
            of_view[at] = of_window
    return features


def _by_windows(
    see: See, key: jax.Array, config: ml_collections.ConfigDict, image: np.ndarray, numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers `[n]` of a tile's pixels and their features float32 `[n, F]`, of each window that has some."""
    size = config.data.crop
    image, numbers = _filled(image, size), _filled(numbers, size, -1)
    starts, owner = zip(*(_windows(config, side) for side in numbers.shape), strict=True)
    for row, top in enumerate(starts[0]):
        for col, left in enumerate(starts[1]):
            window = np.s_[top : top + size, left : left + size]
            mine = np.ix_(owner[0][window[0]] == row, owner[1][window[1]] == col)
            own = np.full((size, size), -1, np.int32)
            own[mine] = numbers[window][mine]
            if (own < 0).all():
                continue
            levels, moved = see(key, image[window][None], own[None])
            at = np.nonzero(moved >= 0)
            parts = [interpolated(x, at[0], at[1], 2**index) for index, x in enumerate(levels) if x is not None]
            yield moved[at], np.concatenate(parts, -1)


def _filled(tile: np.ndarray, size: int, beyond: int | None = None) -> np.ndarray:
    """A tile `[H, W, ...]` with sides of `size` or more: beyond its borders a number, or its reflection, as in maps."""
    sides = [(0, max(0, size - side)) for side in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
    return np.pad(tile, sides, mode="symmetric") if beyond is None else np.pad(tile, sides, constant_values=beyond)


def _windows(config: ml_collections.ConfigDict, side: int) -> tuple[list[int], np.ndarray]:
    """Where windows start along a side, and int `[side]`: the window of each pixel."""
    size = config.data.crop
    starts = window_starts(side, size, min(config.inference.overlap, size - 1))
    return starts, _owner(starts, side, size)


def _owner(starts: list[int], side: int, size: int) -> np.ndarray:
    """int `[side]`: the window along a side that each pixel is farthest inside of."""
    inside = np.arange(side)[:, None] - np.array(starts)
    return np.minimum(inside, size - 1 - inside).argmax(1)

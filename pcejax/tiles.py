"""Decoded tiles, resident on the device, and the crops that a plan cuts from them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pcejax import datasets, keys, label_options, parallel, point_files, tile_cache
from pcejax.ahead import ahead
from pcejax.annotators import Annotation, annotate
from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend
from pcejax.points import Points

DECODER_THREADS = 4
"""Pillow decodes outside Python's lock; more threads than cores cost memory alone."""


class RawTile(NamedTuple):
    """A tile as the dataset holds it: id, encoded image (see `datasets.decode_image`), encoded mask."""

    tile_id: str
    image_bytes: Any
    mask_bytes: bytes
    bands: datasets.Bands = datasets.RGB
    clicks: Points | None = None  # of the run's file of points

    def shape(self) -> tuple[int, int]:
        """(H, W), native resolution."""
        with Image.open(io.BytesIO(self.mask_bytes)) as header:
            return header.height, header.width

    def image(self) -> np.ndarray:
        """`[H, W, bands]` in the bands' type, native resolution."""
        return datasets.decode_image(self.image_bytes, self.bands)

    def mask(self) -> np.ndarray:
        """uint8 `[H, W]`: class id or IGNORE."""
        return np.asarray(Image.open(io.BytesIO(self.mask_bytes)))


class TileSet(NamedTuple):
    """The training tiles of a run on the host: what `place` puts on the device, and who they are."""

    tile_ids: list[str]
    images: list[np.ndarray]  # [h, w, bands] in the bands' type, at the training scale; unlabelled tiles' at the end
    labels: list[np.ndarray]  # uint8 [h, w], class id or IGNORE
    weights: list[np.ndarray]  # float32 [C], class weights of each tile
    points: list[Points | None]  # as clicked, those that teach; None for annotators that click none
    held_out: list[Points | None]  # those that do not
    underfull: list[tuple[int, ...]]  # classes that got fewer points than the budget

    def hash(self) -> str:
        """SHA-256 of tile ids, label tiles and weights: two runs with equal hashes were taught by the same labels."""
        digest = hashlib.sha256()
        for tile_id, label, weights in zip(self.tile_ids, self.labels, self.weights, strict=True):
            digest.update(f"{tile_id}:{label.shape}:".encode())
            digest.update(label.tobytes())
            digest.update(weights.tobytes())
        return digest.hexdigest()


class Tiles(NamedTuple):
    """On the device: images `[N, H, W, bands]` in the bands' type, padded with 0, labels uint8 `[N, H, W]`, padded
    with IGNORE, and class weights of each tile float32 `[N, C]`."""

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Batch(NamedTuple):
    """Crops: image `[B, S, S, bands]` in the bands' type, label uint8 `[B, S, S]`: class id or IGNORE, and class
    weights of each crop's tile float32 `[B, C]`."""

    image: jax.Array
    label: jax.Array
    weights: jax.Array


def reduction(scale: float) -> int:
    """How many native pixels a side of a training pixel spans: 1, 2 or 4 for `data.scale` 1, 1/2, 1/4."""
    if scale not in (1.0, 0.5, 0.25):
        raise UserError(f"data.scale={scale}; expected 1, 0.5 or 0.25")
    return round(1 / scale)


def reduce_image(image: np.ndarray, factor: int) -> np.ndarray:
    """An image `[H, W, bands]` of any type, each side reduced `factor` times by averaging blocks of pixels."""
    if factor == 1:
        return image

    def reduce(plane: np.ndarray) -> np.ndarray:
        if plane.dtype == np.uint8:
            return np.asarray(Image.fromarray(plane).reduce(factor))
        mean = np.asarray(Image.fromarray(plane.astype(np.float32)).reduce(factor))
        return (np.rint(mean) if np.issubdtype(plane.dtype, np.integer) else mean).astype(plane.dtype)

    return np.stack([reduce(image[..., band]) for band in range(image.shape[-1])], -1)


def read(
    builder: tfds.core.DatasetBuilder, split: str, config: ml_collections.ConfigDict | None = None
) -> list[RawTile]:
    """The tiles of `split` ("train", "train[:6]+train[8:]", ...) in the dataset's order, still encoded.

    They come with their real points where `config`, a run's, is taught by a file of points.

    Raises:
      UserError: no such split, no tile in it, or a bad file of points.
    """
    clicks = _clicks(builder, config) if config is not None and config.points.annotator == "file" else {}
    skip = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split, decoders=skip)
        rows = [source[index] for index in range(len(source))]
    except (ValueError, KeyError, IndexError, AssertionError) as error:
        raise UserError(
            f"split {split!r} of {builder.info.full_name}: {str(error).splitlines()[0]}; "
            f"expected one of {sorted(builder.info.splits)}, or a slice such as train[:6]"
        ) from error
    if not rows:
        raise UserError(f"split {split!r} of {builder.info.full_name} holds no tile; widen the slice")
    bands = datasets.bands_of(builder)
    ids = [row["tile_id"].decode() for row in rows]
    return [
        RawTile(tile_id, row["image"], row["mask"], bands, clicks.get(tile_id))
        for tile_id, row in zip(ids, rows, strict=True)
    ]


def _clicks(builder: tfds.core.DatasetBuilder, config: ml_collections.ConfigDict) -> dict[str, Points]:
    """The points of the file that the run names, or else of the one that the dataset was prepared with."""
    frames, legend, seed = datasets.frames_of(builder), datasets.legend_of(builder), config.points.seed
    if config.points.file:
        return point_files.read_points(config.points.file, frames, legend, seed, datasets.ids_of(builder))
    stored = builder.info.metadata.get("points")
    if not stored:
        raise UserError(
            f"points.file is empty and {builder.info.full_name} was prepared without points; "
            "expected a .csv, .geojson or .gpkg of points in points.file"
        )
    pixels = {tile_id: {(row, col): class_id for row, col, class_id in rows} for tile_id, rows in stored.items()}
    return {tile_id: point_files.ranked(pixels[tile_id], tile_id, frames[tile_id], seed) for tile_id in pixels}


def read_labelled(builder: tfds.core.DatasetBuilder, config: ml_collections.ConfigDict) -> list[RawTile]:
    """The tiles of `data.train_split` that teach the run, `data.num_labelled_tiles` of them, in the dataset's order.

    Raises:
      UserError: as `read`, or more tiles are asked for than there are.
    """
    raw, count = read(builder, config.data.train_split, config), config.data.num_labelled_tiles
    if config.points.annotator == "file":
        raw = [tile for tile in raw if tile.clicks is not None]
    if not 0 <= count <= len(raw):
        raise UserError(
            f"data.num_labelled_tiles={count}; expected 1 to {len(raw)}, the tiles of "
            f"data.train_split={config.data.train_split!r}, or 0 for all"
        )
    chosen = keys.first_tiles([tile.tile_id for tile in raw], count or len(raw), config.points.seed)
    return [raw[index] for index in chosen]


def labels_of(
    tile: RawTile, config: ml_collections.ConfigDict, legend: Legend, factor: int | None = None
) -> Annotation:
    """What teaches of `tile` in the run that `config` describes.

    Its label tile is at the training scale, or reduced `factor` times: 1 for native resolution.
    """
    return annotate(
        tile.mask(),
        tile.tile_id,
        tile.clicks,
        label_options.label_options(config.points),
        legend=legend,
        factor=factor or reduction(config.data.scale),
        train_unknown=config.train_unknown,
    )


def load(config: ml_collections.ConfigDict, on_tile: Callable[[int, int], None] = lambda done, total: None) -> TileSet:
    """Decodes the training tiles of `config` once and draws their points; the masks are dropped.

    Args:
      config: the run's config.
      on_tile: called with (tiles done, tiles in all).

    Raises:
      UserError: the dataset, split or annotator does not fit, or the tiles do not fit the device.
    """
    options = label_options.label_options(config.points)
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend = datasets.legend_of(builder)
    label_options.confusion(options, legend)
    raw = read_labelled(builder, config)
    unlabelled = read(builder, config.data.unlabelled_split) if config.data.unlabelled_split else []
    both = sorted({tile.tile_id for tile in raw} & {tile.tile_id for tile in unlabelled})
    if both:
        raise UserError(
            f"data.unlabelled_split={config.data.unlabelled_split!r}: tile {both[0]} is labelled, as a tile of "
            f"data.train_split={config.data.train_split!r}; expected other tiles"
        )
    factor = reduction(config.data.scale)
    shapes = [tuple(-(-n // factor) for n in tile.shape()) for tile in (*raw, *unlabelled)]
    cache = Path(config.data.cache_dir).expanduser() / config.data.name
    if config.data.tiles == "device":
        _check_fit(shapes, raw[0].bands, config)
    elif config.data.tiles == "host":
        _check_cache(cache, [*raw, *unlabelled], shapes, factor)
    else:
        raise UserError(f"data.tiles={config.data.tiles!r}; expected 'device' or 'host'")

    def decode(tile: RawTile) -> np.ndarray:
        def reduced() -> np.ndarray:
            return reduce_image(tile.image(), factor)

        if config.data.tiles == "device":
            return reduced()
        return tile_cache.mapped(tile_cache.path_of(cache, tile.tile_id, tile.image_bytes, factor), reduced)

    def decode_labelled(tile: RawTile) -> tuple[np.ndarray, Annotation]:
        return decode(tile), labels_of(tile, config, legend)

    images, annotations = [], []
    with ThreadPoolExecutor(DECODER_THREADS) as pool:
        for image, annotation in pool.map(decode_labelled, raw):
            images.append(image)
            annotations.append(annotation)
            on_tile(len(images), len(shapes))
        for image in pool.map(decode, unlabelled):
            images.append(image)
            on_tile(len(images), len(shapes))
    tile_set = tile_set_of(raw, images, annotations)
    if all((label == IGNORE).all() for label in tile_set.labels):
        raise UserError(
            f"data.train_split={config.data.train_split!r}: no tile has a labelled pixel; use a split with masks"
        )
    return tile_set


def tile_set_of(raw: list[RawTile], images: list[np.ndarray], annotations: list[Annotation]) -> TileSet:
    """Labelled tiles and what teaches of each; without images, [], what is asked of the labels alone is there."""
    labels, clicked, held_out, weights, underfull = (list(field) for field in zip(*annotations, strict=True))
    return TileSet([tile.tile_id for tile in raw], images, labels, weights, clicked, held_out, underfull)


def _check_fit(shapes: list[tuple[int, ...]], bands: datasets.Bands, config: ml_collections.ConfigDict) -> None:
    count, (height, width) = len(shapes), (max(shape[axis] for shape in shapes) for axis in (0, 1))
    needed = count * height * width * (bands.pixel_bytes + 1)  # the label takes one
    offered = int(parallel.device_memory() * config.data.device_memory_share)
    if needed > offered:
        raise UserError(
            f"{count} tiles of {height}x{width} at data.scale={config.data.scale} need {needed / 1e9:.2f} GB on each "
            f"device; expected at most {offered / 1e9:.2f} GB, {config.data.device_memory_share} of its memory "
            "(data.device_memory_share); set data.tiles=host, lower data.scale or take fewer tiles by data.train_split"
        )


def _check_cache(cache: Path, raw: list[RawTile], shapes: list[tuple[int, ...]], factor: int) -> None:
    sizes = [height * width * tile.bands.pixel_bytes for tile, (height, width) in zip(raw, shapes, strict=True)]
    there = [tile_cache.path_of(cache, tile.tile_id, tile.image_bytes, factor).exists() for tile in raw]
    missing = sum(size for size, found in zip(sizes, there, strict=True) if not found)
    print(f"tile cache: {sum(sizes) / 1e9:.2f} GB in {cache}, {missing / 1e9:.2f} GB of it to write", flush=True)
    tile_cache.check_space(cache, missing)


def place(tile_set: TileSet) -> Tiles:
    """The tiles on every local device, padded to the largest."""
    count = len(tile_set.images)
    height, width = (max(image.shape[axis] for image in tile_set.images) for axis in (0, 1))

    def pad(arrays: list[np.ndarray], value: int) -> np.ndarray:
        stacked = np.full((count, height, width, *arrays[0].shape[2:]), value, arrays[0].dtype)
        for target, array in zip(stacked, arrays, strict=False):
            target[: array.shape[0], : array.shape[1]] = array
        return stacked

    images, labels = pad(tile_set.images, 0), pad(tile_set.labels, IGNORE)
    weights = np.ones((count, len(tile_set.weights[0])), np.float32)
    weights[: len(tile_set.weights)] = tile_set.weights
    return parallel.replicate(Tiles(images, labels, weights))  # type: ignore[arg-type]


def cut(tiles: Tiles, plan: jax.Array, size: int) -> Batch:
    """The crops of `size` x `size` pixels that the plan int32 `[B, 4]` names (tile, row, col, seed)."""

    def crop(entry: jax.Array) -> tuple[jax.Array, jax.Array]:
        tile, row, col, zero = entry[0], entry[1], entry[2], jnp.zeros((), entry.dtype)
        image = jax.lax.dynamic_slice(tiles.images, (tile, row, col, zero), (1, size, size, tiles.images.shape[-1]))
        label = jax.lax.dynamic_slice(tiles.labels, (tile, row, col), (1, size, size))
        return image[0], label[0]

    if size == 1:
        tile, row, col, _ = plan.T
        of_pixel = (tile, row, col)
        image, label = (array[of_pixel][:, None, None] for array in (tiles.images, tiles.labels))
        return Batch(image, label, tiles.weights[tile])
    # One slice a crop: under vmap XLA makes them one gather, which copies pixel by pixel on CPUs.
    images, labels = zip(*(crop(plan[index]) for index in range(plan.shape[0])), strict=True)
    return Batch(jnp.stack(images), jnp.stack(labels), tiles.weights[plan[:, 0]])


def cut_on_host(tile_set: TileSet, plan: np.ndarray, size: int) -> Batch:
    """What `cut` gives, as numpy arrays, of tiles that are not on the device."""
    images, labels = [], []
    weights = np.ones((len(plan), len(tile_set.weights[0])), np.float32)
    for index, (tile, row, col, _) in enumerate(plan):
        window = np.s_[row : row + size, col : col + size]
        images.append(tile_set.images[tile][window])
        if tile < len(tile_set.labels):
            labels.append(tile_set.labels[tile][window])
            weights[index] = tile_set.weights[tile]
        else:
            labels.append(np.full((size, size), IGNORE, np.uint8))
    return Batch(np.stack(images), np.stack(labels), weights)  # type: ignore[arg-type]


def scale_image(image: Any, bands: datasets.Bands = datasets.RGB) -> jax.Array:
    """`[..., bands]` in the bands' type -> float32 in [0, 1]: what augmentation and models take."""
    shape = (1,) * (image.ndim - 1) + (-1,)
    low, high = (jnp.asarray(value, jnp.float32).reshape(shape) for value in (bands.low, bands.high))
    return jnp.clip((jnp.asarray(image, jnp.float32) - low) / (high - low), 0.0, 1.0)


def decoded(raw: list[RawTile]) -> Iterator[tuple[RawTile, np.ndarray, np.ndarray]]:
    """(tile, image, mask) of each tile at native resolution, the next one decoded ahead."""
    return ahead((tile, tile.image(), tile.mask()) for tile in raw)

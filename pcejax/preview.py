"""What a config would teach by, before it does: a sheet of crops as training sees them, and its points as files."""

from __future__ import annotations

from pathlib import Path

import jax
import ml_collections
import numpy as np
from PIL import Image, ImageDraw

from pcejax import (
    augment,
    cached_features,
    datasets,
    input_pipeline,
    label_options,
    pictures,
    point_files,
    steps,
    tiles,
)
from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend

CROPS = 12
"""Crops on the sheet, two rows of them; fewer where a batch has fewer."""

_CELL = 192  # px, side of a crop on the sheet
_FEW = 2000  # labelled pixels; above, each is drawn as it is, not as a disc


def draw_sheet(config: ml_collections.ConfigDict, path: Path) -> None:
    """Draws the first crops of the first step with their labels, above each its place, below it its augmented view.

    Where steps take pixels, by `data.cached_views`, it draws the windows through which the encoder sees them.

    Raises:
      UserError: config and dataset do not fit.
    """
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend, bands = datasets.legend_of(builder), datasets.bands_of(builder)
    tile_set = tiles.load(config)
    if config.data.cached_views:
        cached_features.check(config)
    seen_config = cached_features.of_pixels(config) if config.data.cached_views else config
    input_pipeline.check(seen_config, tile_set)
    plan = next(input_pipeline.plans(seen_config, tile_set, 0))[:CROPS]
    if config.data.cached_views:
        tile_set, plan = cached_features.windows_of(config, tile_set, plan)
    crops = tiles.cut_on_host(tile_set, plan, config.data.crop)
    keys = steps.row_keys(jax.random.key(config.seed), "augment", plan)
    views = augment.augment(keys, tiles.scale_image(crops.image, bands), crops.label, **config.augment)
    images, labels = np.asarray(views.image), np.asarray(views.label)
    unit = datasets.Bands("float32", (0.0,) * bands.num, (1.0,) * bands.num)
    columns = -(-len(plan) // 2)
    sheet = Image.new("RGB", (columns * (_CELL + 4) - 4, 2 * (2 * _CELL + 28)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, (tile, row, col, _) in enumerate(plan):
        x, y = index % columns * (_CELL + 4), index // columns * (2 * _CELL + 28)
        name = tile_set.tile_ids[tile] if tile < len(tile_set.tile_ids) else "unlabelled"
        labelled = int((crops.label[index] != IGNORE).sum())
        pen.text((x + 2, y + 4), f"{name} {row},{col}: {labelled}", fill=(0, 0, 0))
        plain = pictures.as_rgb(np.asarray(crops.image[index]), bands)
        sheet.paste(_with_labels(plain, np.asarray(crops.label[index]), legend), (x, y + 20))
        sheet.paste(_with_labels(pictures.as_rgb(images[index], unit), labels[index], legend), (x, y + 24 + _CELL))
    sheet.save(path)


def _with_labels(image: np.ndarray, label: np.ndarray, legend: Legend) -> Image.Image:
    """A crop uint8 `[S, S, 3]` as a cell of the sheet, its labelled pixels as discs where they are few."""
    labelled = np.argwhere(label != IGNORE)
    if len(labelled) > _FEW:
        image = np.where((label != IGNORE)[..., None], pictures.color_map(label, legend) // 2 + image // 2, image)
    cell = Image.fromarray(image.astype(np.uint8)).resize((_CELL, _CELL), Image.Resampling.NEAREST)
    if len(labelled) <= _FEW:
        pen = ImageDraw.Draw(cell)
        for row, col in labelled:
            y, x = (_CELL * (place + 0.5) / len(label) for place in (row, col))
            color = legend.colors[label[row, col]]
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color, outline=(0, 0, 0))
    return cell


def write_points(config: ml_collections.ConfigDict, path: Path) -> int:
    """Writes the points that would teach the run, as `point_files.write_points` does; returns how many.

    Raises:
      UserError: the annotator clicks no points, or config and dataset do not fit.
    """
    options = label_options.label_options(config.points)
    if options.annotator not in label_options.POINTS:
        raise UserError(
            f"points.annotator={options.annotator!r} clicks no points; expected one of {[*label_options.POINTS]}"
        )
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend = datasets.legend_of(builder)
    points = {
        tile.tile_id: drawn
        for tile in tiles.read_labelled(builder, config)
        if (drawn := tiles.labels_of(tile, config, legend).points) is not None
    }
    point_files.write_points(path, points, datasets.frames_of(builder), legend)
    return sum(len(drawn.row) for drawn in points.values())

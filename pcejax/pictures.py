"""Images, label maps and points as pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from pcejax.annotators import Annotation
from pcejax.datasets import Bands, is_picture
from pcejax.legend import IGNORE, Legend

_GREY = (96, 96, 96)
_GAP = 6  # pixels between the panels of a sheet


def color_map(ids: np.ndarray, legend: Legend) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of class ids uint8 `[H, W]`; IGNORE is grey."""
    colors = np.full((256, 3), _GREY, np.uint8)
    colors[: legend.num_classes] = legend.palette
    assert legend.num_classes <= IGNORE
    return colors[ids]


def as_rgb(image: np.ndarray, bands: Bands) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of an image `[H, W, bands]`: its first three bands, or its first in grey."""
    if is_picture(bands):
        return image
    chosen = [0, 1, 2] if bands.num >= 3 else [0, 0, 0]
    low, high = np.array(bands.low, np.float32)[chosen], np.array(bands.high, np.float32)[chosen]
    return (np.clip((image[..., chosen] - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def overlay(image: np.ndarray, ids: np.ndarray, legend: Legend, opacity: float = 0.4) -> np.ndarray:
    """The classes' colours laid over the image: uint8 `[H, W, 3]` from uint8 `[H, W, 3]` and ids `[H, W]`."""
    return np.asarray(Image.blend(Image.fromarray(image), Image.fromarray(color_map(ids, legend)), opacity))


def confidence(probability: np.ndarray) -> np.ndarray:
    """The largest softmax probability float `[H, W]` in grey, uint8 `[H, W, 3]`: black at 0, white at 1."""
    return np.repeat((np.clip(probability, 0, 1) * 255).astype(np.uint8)[..., None], 3, -1)


def with_annotation(image: np.ndarray, annotation: Annotation, legend: Legend) -> np.ndarray:
    """The image uint8 `[H, W, 3]` under its annotation at native resolution, in the classes' colours.

    A point is a ringed disc whose size is for the eye; strokes and patches are as they are.
    """
    points, label = annotation.points, annotation.label
    if points is None:
        return np.where((label != IGNORE)[..., None], color_map(label, legend), image)
    radius = max(2, max(image.shape) // 150)  # below 2 the ring leaves no colour
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    for row, col, class_id in zip(points.row, points.col, points.class_id, strict=True):
        box = (int(col) - radius, int(row) - radius, int(col) + radius, int(row) + radius)
        draw.ellipse(box, fill=legend.colors[class_id], outline=(0, 0, 0), width=max(1, radius // 3))
    return np.asarray(drawn)


def side_by_side(panels: list[np.ndarray], side: int = 384) -> Image.Image:
    """Panels uint8 `[H, W, 3]` in a row, each fitted into a square of `side` pixels."""
    sheet = Image.new("RGB", (len(panels) * (side + _GAP) - _GAP, side), (255, 255, 255))
    for index, panel in enumerate(panels):
        square = Image.fromarray(panel).resize((side, side), Image.Resampling.BOX)
        sheet.paste(square, (index * (side + _GAP), 0))
    return sheet


def panel(sheet: Image.Image, index: int) -> Image.Image:
    """The panel at `index` of what `side_by_side` gave."""
    side = sheet.height
    return sheet.crop((index * (side + _GAP), 0, index * (side + _GAP) + side, side))

"""What stands on the ground and changes no class: roads, trees and roofs."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from pcejax.datasets.landscape_features import Settlement
from pcejax.datasets.landscape_scene import URBAN, Scene, quad


def objects(scene: Scene, ids: np.ndarray, ground: np.ndarray, settlements: list[Settlement]) -> np.ndarray:
    """Paints roads, trees and roofs on `ground` float32 `[3, size, size]`; a new array like it."""
    picture = Image.fromarray(np.ascontiguousarray(np.clip(ground, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    pen = ImageDraw.Draw(picture)
    _road(scene, pen)
    _trees(scene, pen, ids)
    for settlement in settlements:
        for block in settlement.blocks:
            _houses(scene, pen, ids, block, settlement.density)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)).astype(np.float32)


def _road(scene: Scene, pen: ImageDraw.ImageDraw) -> None:
    """Roads and footpaths from edge to edge."""
    rng, size = scene.rng, scene.size
    for _ in range(max(1, round(size / 500))):
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * size
        ends[0, 0], ends[1, 0] = -20, size + 20
        t = np.linspace(0, 1, 12)[:, None]
        path = ends[0] + t * (ends[1] - ends[0]) + np.sin(t * rng.uniform(2, 9)) * rng.normal(0, 25, 2)
        if rng.random() < 0.5:
            path = path[:, ::-1]
        color = tuple(int(c) for c in scene.ground(rng.uniform(0, 0.2), rng.uniform(0.8, 1.3)))
        pen.line([tuple(p) for p in path], fill=color, width=int(rng.integers(3, 9)), joint="curve")


def _trees(scene: Scene, pen: ImageDraw.ImageDraw, ids: np.ndarray) -> None:
    """Bushes and trees: many on rangeland and in settlements, some in rows along fields, none on water."""
    rng, size = scene.rng, scene.size
    likely = np.array([0.3, 0.03, 1.0, 0.0, 0.0, 0.03, 0.0])
    spots = rng.uniform(0, size, (round(size * size / 550), 2))
    chance = rng.random(len(spots))
    rows, columns = spots.astype(int).T
    for (y, x), radius in zip(
        spots[chance < likely[ids[rows, columns]]], rng.gamma(2.0, 1.1, len(spots)) + 1.5, strict=False
    ):
        _crown(scene, pen, x, y, radius)


def _crown(scene: Scene, pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """A tree of a few boughs, with its shadow."""
    down, right = (0.35 * radius * step for step in scene.sun)
    dark, base, lit = (tuple(int(c * f) for c in scene.green) for f in (0.45, 0.7, 0.9))
    boughs = scene.rng.normal(0, 0.55 * radius, (4, 2)) + (x, y)
    for shift, size, color in ((1.0, 0.8, dark), (0.0, 0.75, base), (-0.5, 0.4, lit)):
        for bough_x, bough_y in boughs:
            cx, cy, r = bough_x + right * shift, bough_y + down * shift, radius * size
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=color)


def _stands_on(ids: np.ndarray, point: np.ndarray, land_class: int) -> bool:
    """Whether `point` (x, y) lies in the tile and on that class."""
    column, row = (int(x) for x in np.floor(point))
    return 0 <= row < len(ids) and 0 <= column < len(ids) and ids[row, column] == land_class


def _houses(
    scene: Scene, pen: ImageDraw.ImageDraw, ids: np.ndarray, block: tuple[np.ndarray, ...], density: float
) -> None:
    """Two rows of houses back to back, each with its shadow and a second tone on its roof."""
    rng = scene.rng
    origin, along, across = block
    length, depth = math.hypot(*along), math.hypot(*across)
    u, v = along / length, across / depth
    shadow = np.array(scene.sun[::-1]) * 1.6
    for side in range(2):
        at = rng.uniform(0, 6)
        while at < length - 10:
            width, deep = rng.uniform(11, 26), rng.uniform(0.6, 1.0) * depth / 2
            width = min(width, length - at)
            corner = origin + at * u + (v * (depth / 2) if side else v * (depth / 2 - deep))
            middle = corner + (width * u + deep * v) / 2
            if rng.random() < density and _stands_on(ids, middle, URBAN):
                tone = rng.uniform(0.75, 1.75)
                roof = scene.ground(0, tone) if rng.random() < 0.5 else np.full(3, 118.0) * tone
                color = tuple(int(min(c, 250)) for c in roof)
                pen.polygon(quad(corner + shadow, width * u, deep * v), fill=tuple(int(c * 0.3) for c in scene.soil))
                pen.polygon(quad(corner, width * u, deep * v), fill=color)
                other = tuple(int(c * 0.82) for c in color)
                pen.polygon(quad(corner, width * u, deep / 2 * v), fill=other)
            at += width + rng.uniform(0, 5)

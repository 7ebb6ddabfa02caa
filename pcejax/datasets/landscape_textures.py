"""How a landscape looks: noise, the surface of patches, clouds, and the atmosphere and sensor above them.

Fields are float32 `[size, size]`; colours are float32 on the scale 0 .. 255.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Patch:
    """What one patch of ground is made of. Amplitudes of brightness are relative, hues are in units of colour."""

    land_class: int
    color: np.ndarray  # float32 [3]
    grain: float = 0.03  # noise of 1 px
    clumps: float = 0.0  # noise of about 6 px
    blotches: float = 0.0  # noise of about 40 px, in brightness
    mottle: float = 0.0  # noise of about 40 px, between soil (+) and green (-)
    crowns: float = 0.0  # tree crowns where chance put them
    rows: float = 0.0  # ridges across `angle`
    lattice: float = 0.0  # plants on a grid along `angle`
    period: float = 8.0  # px from row to row
    angle: float = 0.0  # radians


_SOIL_MINUS_GREEN = np.array([26.0, 8.0, 6.0], np.float32)


def noise(rng: np.random.Generator, size: int, cell: float) -> np.ndarray:
    """Smooth noise whose bumps are `cell` px wide: float32 `[size, size]`, mean about 0, deviation about 0.8."""
    extent = size / cell
    grid = rng.standard_normal((math.ceil(extent) + 4,) * 2, dtype=np.float32)
    x, y = rng.random(2) + 1.0
    box = (x, y, x + extent, y + extent)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=box))


def _broad_noise(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> np.ndarray:
    """Octaves of noise, drawn at an eighth of the resolution since nothing in them is finer: deviation about 1."""
    small = -(-size // 8) + 1
    octaves = np.zeros((small, small), np.float32)
    for i, cell in enumerate(cells):
        octaves += noise(rng, small, cell / 8) / (1 + i)
    box = (0.0, 0.0, size / 8, size / 8)
    return np.asarray(Image.fromarray(octaves).resize((size, size), Image.Resampling.BILINEAR, box=box))


def _lit(height: np.ndarray, sun: tuple[int, int]) -> np.ndarray:
    """Height `[H, W]` with its slopes towards the sun bright and those behind in shade; same shape, wraps round."""
    return height - np.roll(height, sun, (0, 1))


def surface(patches: list[Patch], patch_map: np.ndarray, sun: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The bare ground and what grows on it: float32 `[3, size, size]`.

    `patch_map` int32 `[size, size]` indexes `patches`; `sun` is the offset in px (rows, columns) that a shadow falls.
    """
    size = len(patch_map)
    index = patch_map.astype(np.intp)

    def per_pixel(values: list[float]) -> np.ndarray:
        return np.take(np.array(values, np.float32), index, mode="clip")

    clumps = noise(rng, size, 6)
    trees = noise(rng, size, 5) + 0.6 * clumps
    broad = _broad_noise(rng, size, (90, 34))
    brightness = per_pixel([p.grain for p in patches]) * (rng.random((size, size), dtype=np.float32) - 0.5) * 3.4
    brightness += per_pixel([p.clumps for p in patches]) * clumps
    brightness += per_pixel([p.blotches for p in patches]) * broad
    crowns = _lit(trees, sun) + np.minimum(trees, 0.2) * 1.1
    brightness += per_pixel([p.crowns for p in patches]) * crowns
    hue = per_pixel([p.mottle for p in patches]) * (broad + 0.5 * clumps)

    # Ridges and plants, in cycles along and across the rows; a little noise bends them as ploughs do.
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    along = per_pixel([2 * math.pi * math.cos(p.angle) / p.period for p in patches])
    across = per_pixel([2 * math.pi * math.sin(p.angle) / p.period for p in patches])
    bend = 0.4 * broad
    ridges = np.cos(along * xs + across * ys + bend)
    brightness += per_pixel([p.rows for p in patches]) * ridges
    plants = ridges + np.cos(along * ys - across * xs + bend) + 0.5 * trees
    brightness += per_pixel([p.lattice for p in patches]) * (0.8 * _lit(plants, sun) + np.minimum(plants, 0.3) * 0.7)

    np.clip(brightness, -0.75, 0.9, out=brightness)
    brightness += 1.0
    ground = np.empty((3, size, size), np.float32)
    for band in range(3):
        color = per_pixel([float(p.color[band]) for p in patches])
        ground[band] = color * brightness + hue * _SOIL_MINUS_GREEN[band]
    return ground


def add_clouds(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Covers part of `image` float32 `[3, size, size]` in place and darkens the ground in the clouds' shade.

    Returns: bool `[size, size]`, where the ground cannot be told.
    """
    size = image.shape[1]
    field = _broad_noise(rng, size, (320, 130, 60))
    edge = np.quantile(field[::4, ::4], rng.uniform(0.82, 0.93))
    cover = np.clip((field - edge) * 2.0 + 0.4, 0, 0.97)
    shade = 1.0 - 0.45 * np.roll(cover, (int(rng.integers(40, 90)), int(rng.integers(-90, 90))), (0, 1))
    white = 232.0 + 14.0 * np.clip(field, -1, 1)
    for band in range(3):
        image[band] *= shade
        image[band] += cover * (white - image[band])
    return cover > 0.55


def atmosphere(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` float32 `[3, size, size]` through haze, a colour cast and a sensor: uint8 `[size, size, 3]`.

    Changes `image`. Strength of light, cast, contrast and haze belong to the tile; haze also drifts within it.
    """
    size = image.shape[1]
    gains = math.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.06, 3))
    veil_color = np.array([128, 132, 138]) + rng.normal(0, 10, 3)
    veil = rng.uniform(0.02, 0.24) + 0.06 * _broad_noise(rng, size, (500, 250))
    np.clip(veil, 0.02, 0.6, out=veil)
    grain = (rng.random((size, size), dtype=np.float32) - 0.5) * 7.0
    seen = np.empty((size, size, 3), np.uint8)
    for band in range(3):
        plane = image[band]
        # The point spread of the sensor: no edge is sharper than two pixels.
        plane[1:] = 0.5 * (plane[1:] + plane[:-1])
        plane[:, 1:] = 0.5 * (plane[:, 1:] + plane[:, :-1])
        plane *= np.float32(gains[band])
        plane += veil * (np.float32(veil_color[band]) - plane)
        plane += grain
        seen[..., band] = np.clip(plane, 0, 255)
    return seen

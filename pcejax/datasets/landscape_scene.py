"""A scene while it is laid out: its map of patches, and the soil and the green that all its colours come from."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from pcejax.datasets.landscape_textures import Patch
from pcejax.legend import DEEPGLOBE

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(DEEPGLOBE.num_classes)

_SOILS = ((152, 108, 72), (150, 126, 90), (128, 116, 88), (136, 114, 82))
_GREENS = ((66, 88, 50), (74, 96, 58), (78, 92, 50), (60, 80, 56))


@dataclasses.dataclass
class Scene:
    """A scene while it is laid out."""

    rng: np.random.Generator
    size: int
    soil: np.ndarray  # float32 [3]
    green: np.ndarray  # float32 [3]
    dryness: float  # 0: fields are green; 1: fields are bare
    sun: tuple[int, int]  # px (rows, columns) from a thing to its shadow
    patches: list[Patch] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.map = Image.new("I", (self.size, self.size))
        self.pen = ImageDraw.Draw(self.map)

    def add(self, patch: Patch) -> int:
        """The number of a new patch, which is what the pen draws with."""
        self.patches.append(patch)
        return len(self.patches) - 1

    def ground(self, greenness: float, shade: float = 1.0) -> np.ndarray:
        """A colour float32 `[3]` between the tile's soil (0) and its green (1)."""
        mixed = self.soil + greenness * (self.green - self.soil)
        return (mixed * shade * (1 + self.rng.normal(0, 0.025, 3))).astype(np.float32)


def new_scene(rng: np.random.Generator, size: int) -> Scene:
    """An empty scene of `size` px with its own soil, green, season and sun."""
    soil = np.array(_SOILS[rng.integers(len(_SOILS))]) * (1 + rng.normal(0, 0.05, 3))
    green = np.array(_GREENS[rng.integers(len(_GREENS))]) * (1 + rng.normal(0, 0.05, 3))
    sun = (int(rng.integers(2, 4)), int(rng.choice([-3, -2, 2, 3])))
    return Scene(rng, size, soil.astype(np.float32), green.astype(np.float32), float(rng.random()), sun)


def count(seed: int, index: int, land_class: int, mean: float) -> int:
    """How many of something stand on this tile: `mean` over tiles, spread evenly over any few consecutive ones.

    Each class walks the unit interval by its own irrational step, so that no run of tiles goes without it for long.
    """
    start = np.random.default_rng((seed, land_class, 1)).random()
    step = math.sqrt((2, 3, 5, 7, 11, 13, 17)[land_class])
    return int(mean + (start + index * step) % 1.0)


def quad(origin: np.ndarray, along: np.ndarray, across: np.ndarray) -> list[tuple[float, float]]:
    """The corners of a parallelogram from a corner and two sides, float `[2]` each, in px (x, y)."""
    return [tuple(origin), tuple(origin + along), tuple(origin + along + across), tuple(origin + across)]

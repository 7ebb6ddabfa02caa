"""Scenes in which only context tells two classes apart, and their twins in which nothing does.

An instrument: with them it is tested whether an ablation finds an effect that is there, and claims none that is not.
A scene is agriculture with clearings on a jittered grid. Each has, from its middle outwards:

  core       16 px a side, water or barren, which look the same
  rangeland  12 px all round, farther than a U-Net of depth 1 sees (9 px)
  frame      6 px wide, urban or forest

Frames are urban or forest by a coin. In `context` scenes the core is water within urban and barren within forest; in
`no_context` scenes another coin says. The two kinds have the same images for the same arguments.
"""

from __future__ import annotations

import numpy as np

from pcejax.datasets import landscape_textures as textures
from pcejax.datasets.landscape_scene import AGRICULTURE, BARREN, FOREST, RANGELAND, URBAN, WATER

CORE, MOAT, FRAME, PITCH = 16, 12, 6, 64
"""px: side of a core, widths around it, and from one clearing's middle to the next one's."""

_JITTER = 4  # px that a clearing lies off its place in the grid at most

_COLORS = {AGRICULTURE: (176, 164, 96), RANGELAND: (120, 150, 86), URBAN: (190, 180, 186), FOREST: (48, 84, 52)}
_CORE_COLOR = (96, 104, 122)


def draw_tile(seed: int, index: int, size: int, *, informative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tile `index` of the world `seed`, a square of `size` px.

    Args:
      seed: of the world, 0 or more.
      index: of the tile, 0 or more; each is another scene.
      size: px; there is a clearing for each whole 64.
      informative: whether a core's class follows from its frame, `context`, or is independent of it, `no_context`.

    Returns:
      Image uint8 `[size, size, 3]` and class ids uint8 `[size, size]`, always the same ones for the same arguments.
    """
    rng = np.random.default_rng((seed, index))
    across = size // PITCH
    places = np.indices((across, across)).reshape(2, -1).T
    middles = (places * 2 + 1) * (size // (2 * across)) + rng.integers(-_JITTER, _JITTER + 1, places.shape)
    frames, coins = rng.integers(0, 2, (2, len(places)))
    ids = np.full((size, size), AGRICULTURE, np.uint8)
    image = np.empty((3, size, size), np.float32)
    image[:] = _color(_COLORS[AGRICULTURE], rng)
    for middle, frame, coin in zip(middles, frames, coins, strict=True):
        layers = (
            ((URBAN, FOREST)[frame], CORE // 2 + MOAT + FRAME, _COLORS[(URBAN, FOREST)[frame]]),
            (RANGELAND, CORE // 2 + MOAT, _COLORS[RANGELAND]),
            ((WATER, BARREN)[frame if informative else coin], CORE // 2, _CORE_COLOR),
        )
        for land_class, reach, color in layers:
            square = tuple(slice(center - reach, center + reach) for center in middle)
            ids[square] = land_class
            image[(slice(None), *square)] = _color(color, rng)
    image *= 1 + 0.06 * textures.noise(rng, size, 6)
    return textures.atmosphere(image, rng), ids


def _color(mean: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A colour float32 `[3, 1, 1]` near `mean`."""
    return (np.array(mean) * (1 + rng.normal(0, 0.04, 3))).astype(np.float32)[:, None, None]

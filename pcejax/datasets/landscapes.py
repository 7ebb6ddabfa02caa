"""Procedural landscapes at 0.5 m/px with DeepGlobe's seven classes.

A scene is a map of patches and a table of what each patch is made of: a field, a street, a river. The class
of a pixel is the class of its patch, so the truth is exact; trees, roofs and roads are painted over it and belong
to the patch that they stand on. Lengths are pixels, so a smaller tile shows less of the same world.

Colours are shared on purpose: every class takes its colour from the same soil and green, which change from tile
to tile. What tells classes apart is shape, orientation and layout. The scenes are an instrument and a
demonstration: nothing measured on them is a finding about the world.
"""

from __future__ import annotations

import numpy as np

from pcejax.datasets import landscape_textures as textures
from pcejax.datasets.landscape_features import features, river
from pcejax.datasets.landscape_fields import fields
from pcejax.datasets.landscape_objects import objects
from pcejax.datasets.landscape_scene import UNKNOWN, WATER, count, new_scene

_RIVERS = 0.45
"""Rivers on a tile of 768 px, in the mean."""

_CLOUDED = 0.2
"""Share of tiles with clouds."""


def draw_tile(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tile `index` of the world `seed`, a square of `size` px at 0.5 m/px.

    Args:
      seed: of the world, 0 or more.
      index: of the tile, 0 or more. Each is another scene; a few consecutive ones show every class but unknown.
      size: px.

    Returns:
      Image uint8 `[size, size, 3]` and class ids uint8 `[size, size]`, always the same ones for the same arguments.
    """
    rng = np.random.default_rng((seed, index))
    scene = new_scene(rng, size)
    fields(scene)
    settlements = features(scene, seed, index)
    for _ in range(count(seed, index, WATER, _RIVERS * size / 768)):
        river(scene)
    patch_map = np.asarray(scene.map)
    ids = np.array([patch.land_class for patch in scene.patches], np.uint8)[patch_map]
    ground = textures.surface(scene.patches, patch_map, scene.sun, rng)
    image = objects(scene, ids, ground, settlements)
    if count(seed, index, UNKNOWN, _CLOUDED):
        ids[textures.add_clouds(image, rng)] = UNKNOWN
    return textures.atmosphere(image, rng), ids

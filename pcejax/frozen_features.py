"""Features of single pixels from a pretrained encoder that is not trained: what a linear head is taught on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pcejax import tiles
from pcejax.datasets import Bands
from pcejax.models import encoders, pretrained

ENCODER = "efficientnet-lite0"

Sampler = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Features float32 `[n, F]` of the pixels in rows and columns int `[n]`, native pixels of the sampler's image."""


def sampler(image: np.ndarray, factor: int, bands: Bands) -> Sampler:
    """Of an image `[H, W, bands]`: all levels of ImageNet's EfficientNet-Lite0, seen at 1 / factor, side by side.

    Features between those of a level are interpolated ("hypercolumns": Hariharan et al., 2015).

    Raises:
      UserError: the weights are not installed.
    """
    reduced = tiles.scale_image(tiles.reduce_image(image, factor), bands)
    bottom, right = (-size % 2**encoders.MAX_DEPTH for size in reduced.shape[:2])
    padded = jnp.pad(reduced, ((0, bottom), (0, right), (0, 0)), mode="edge")
    levels = [np.asarray(level[0]) for level in _encoder(bands.num)(padded[None])]

    def sample(row: np.ndarray, col: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [interpolated(level, row, col, factor * 2**index) for index, level in enumerate(levels, 1)], -1
        )

    return sample


def interpolated(level: np.ndarray, row: np.ndarray, col: np.ndarray, stride: int) -> np.ndarray:
    """float32 `[n, C]`: a map `[h, w, C]` whose pixels are `stride` native ones wide, at native rows and columns `[n]`.

    Bilinear, half-pixel centres, edges clamped.
    """
    at = [np.clip((pos + 0.5) / stride - 0.5, 0, size - 1) for pos, size in zip((row, col), level.shape, strict=False)]
    (top, left), (down, right) = (np.floor(pos).astype(int) for pos in at), (np.ceil(pos).astype(int) for pos in at)
    below, beside = ((pos % 1)[:, None].astype(np.float32) for pos in at)
    above = (1 - beside) * level[top, left] + beside * level[top, right]
    under = (1 - beside) * level[down, left] + beside * level[down, right]
    return (1 - below) * above + below * under


@functools.cache
def _encoder(bands: int) -> Callable[[jax.Array], list[jax.Array]]:
    """The encoder, compiled: image `[1, H, W, bands]` in [0, 1] -> its levels, the finest first."""
    tensors = pretrained.read_tensors(pretrained.checked(ENCODER))
    converted = pretrained.convert(tensors, ENCODER, encoders.MAX_DEPTH, bands)
    variables = {kind: tree["encoder"] for kind, tree in converted.items()}
    encoder = encoders.EfficientNetLite(ENCODER, encoders.MAX_DEPTH, jnp.float32)
    return jax.jit(lambda image: encoder.apply(variables, image, train=False)[1:])

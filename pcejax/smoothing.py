"""Maps less speckled than their pixels: class probabilities averaged over a Gaussian neighbourhood.

Land cover is drawn in patches, and what a few points taught errs pixel by pixel inside of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LEAST = 1e-30  # of a probability, whose logarithm is taken


def smoothed(eval_step: Callable[..., jax.Array], sigma: float) -> Callable[..., jax.Array]:
    """`eval_step` of variables and images `[b, h, w, bands]`, with `smooth` after it."""
    if not sigma:
        return eval_step

    def step(variables: Any, images: jax.Array) -> jax.Array:
        return smooth(eval_step(variables, images), (images != 0).any(-1), sigma)

    return step


def smooth(logits: jax.Array, has_data: jax.Array, sigma: float) -> jax.Array:
    """Logarithms of the class probabilities float32 `[b, h, w, C]`, each a Gaussian mean of `sigma` pixels.

    Neither beyond the border nor where there is no data is anything averaged. Means are taken at every half sigma, and
    interpolated between, which is off by less than 0.01.

    Args:
      logits: `[b, h, w, C]`.
      has_data: bool `[b, h, w]`.
      sigma: above 0.
    """
    # The share of a mean that has data is averaged beside the classes.
    p = has_data[..., None] * jnp.concatenate([jax.nn.softmax(logits), jnp.ones_like(logits[..., :1])], -1)
    height, width = (_matrices(side, sigma) for side in p.shape[1:3])
    for axis, matrix in ((1, height[0]), (2, width[0]), (1, height[1]), (2, width[1])):
        p = jnp.moveaxis(jnp.tensordot(matrix, p, (1, axis)), 0, axis)
    return jnp.log(jnp.maximum(p[..., :-1] / jnp.maximum(p[..., -1:], _LEAST), _LEAST))


def _matrices(side: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[m, side]`, means at m places along a side, and `[side, m]`, what is linear between them."""
    spacing = max(1, int(sigma / 2))
    pixels, places = np.arange(side), np.arange(min(spacing, side) // 2, side, spacing)
    weights = np.exp(-((places[:, None] - pixels) ** 2) / (2 * sigma**2))
    between = [np.interp(pixels, places, row) for row in np.eye(len(places))]
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32), np.stack(between, 1).astype(np.float32)

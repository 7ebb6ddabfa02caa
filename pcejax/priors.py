"""Maps that follow a scene's own shares of classes, of which no label tells.

Points that are balanced teach as if all classes were equally frequent, and in every scene some are not. What a window's
pixels are mostly sure of tells its shares, and these tell what its doubtful pixels are: expectation maximisation by
Saerens, Latinne and Decaestecker, 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple
Procedure".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_STRIDE = 8  # of the rows and columns whose pixels tell the shares
_ITERATIONS = 30  # of expectation maximisation; on DeepGlobe's tiles ten gave the same maps
_LEAST = 1e-3  # pixels that each class has anyway: none is ever impossible, and images without data have equal shares


def adapted(eval_step: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`eval_step` of variables and images `[b, h, w, bands]`, with `adapt` to each of them after it."""

    def step(variables: Any, images: jax.Array) -> jax.Array:
        return adapt(eval_step(variables, images), (images != 0).any(-1))

    return step


def adapt(logits: jax.Array, has_data: jax.Array) -> jax.Array:
    """Logarithms of class probabilities float32 `[b, h, w, C]` under each image's own shares of classes.

    Args:
      logits: `[b, h, w, C]`, taught as if all classes were equally frequent.
      has_data: bool `[b, h, w]`, whose pixels tell the shares; where none does, they stay equal.
    """
    log_p, num_classes = jax.nn.log_softmax(logits), logits.shape[-1]
    p, weight = jnp.exp(log_p[:, ::_STRIDE, ::_STRIDE]), has_data[:, ::_STRIDE, ::_STRIDE, None]

    def update(_: int, shares: jax.Array) -> jax.Array:
        posterior = p * shares[:, None, None]
        posterior = weight * posterior / posterior.sum(-1, keepdims=True)
        return (posterior.sum((1, 2)) + _LEAST) / (weight.sum((1, 2)) + num_classes * _LEAST)

    equal = jnp.full((len(p), num_classes), 1 / num_classes, p.dtype)
    shares = jax.lax.fori_loop(0, _ITERATIONS, update, equal)
    return jax.nn.log_softmax(log_p + jnp.log(shares)[:, None, None])

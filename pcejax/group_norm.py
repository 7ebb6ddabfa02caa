"""Group normalisation (Wu & He, 2018, "Group Normalization") whose gradient takes two passes over the image.

One sums what each channel needs, one computes the image's gradient. As JAX derives it from the mean and the variance of
groups it takes two to three times as long on CPUs: docs/performance.md.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

EPSILON = 1e-6
"""Added to variances, as Flax has it."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """`[B, H, W, C]`, scale and bias `[C]` -> the same shape and type; each image's groups of channels have mean 0 and
    variance 1 before `scale` and `bias`. Computed in float32 at least.
    """
    mean, inverse = _statistics(x, groups)
    return _scaled(x, mean, inverse * scale.astype(inverse.dtype).reshape(1, -1), bias)


def _statistics(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and inverse standard deviation of each channel's group: `[B, C]`."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _over_groups(wide.mean((1, 2)), groups)
    variance = jnp.maximum(_over_groups(jnp.square(wide).mean((1, 2)), groups) - jnp.square(mean), 0)
    return mean, jax.lax.rsqrt(variance + EPSILON)


def _over_groups(of_channels: jax.Array, groups: int) -> jax.Array:
    """`[B, C]`: the mean of the channel's group."""
    batch, channels = of_channels.shape
    means = of_channels.reshape(batch, groups, channels // groups).mean(-1)
    return jnp.repeat(means, channels // groups, axis=-1)


def _scaled(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    batch, channels = mean.shape
    offset = bias.astype(mean.dtype).reshape(1, -1) - mean * factor
    at_pixels = (batch, 1, 1, channels)
    return (x.astype(mean.dtype) * factor.reshape(at_pixels) + offset.reshape(at_pixels)).astype(x.dtype)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    mean, inverse = _statistics(x, groups)
    return _scaled(x, mean, inverse * scale.astype(inverse.dtype).reshape(1, -1), bias), (x, scale, mean, inverse)


def _backward(
    groups: int, residuals: tuple[jax.Array, jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = residuals
    wide, from_above = x.astype(mean.dtype), gradient.astype(mean.dtype)
    factor = scale.astype(mean.dtype).reshape(1, -1)
    pixels = x.shape[1] * x.shape[2]
    of_bias = from_above.sum((1, 2))
    of_scale = ((from_above * wide).sum((1, 2)) - mean * of_bias) * inverse  # by the normalised image
    # What moves a group's mean and its variance.
    through_mean, through_variance = (_over_groups(part * factor, groups) / pixels for part in (of_bias, of_scale))
    of_pixel = jnp.square(inverse) * through_variance
    at_pixels = (len(x), 1, 1, x.shape[-1])
    of_x = from_above * (inverse * factor).reshape(at_pixels) - wide * of_pixel.reshape(at_pixels)
    of_x += (mean * of_pixel - inverse * through_mean).reshape(at_pixels)
    return of_x.astype(x.dtype), of_scale.sum(0).astype(scale.dtype), of_bias.sum(0).astype(scale.dtype)


group_norm.defvjp(_forward, _backward)

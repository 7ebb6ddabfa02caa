"""Augmentation on the device: geometry of image and label together, photometry of the image alone."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pcejax.errors import UserError

MAX_BLUR = 1.5
"""Standard deviation of the strongest blur, pixels."""


def dihedral(x: jax.Array, element: jax.Array) -> jax.Array:
    """Flips and quarter turns: element 0 to 7 int `[B]` of the square's symmetry group; x `[B, S, S, ...]`."""

    def where(bit: int, moved: jax.Array, kept: jax.Array) -> jax.Array:
        chosen = (element >> bit & 1).astype(bool)
        return jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), moved, kept)

    x = where(0, jnp.swapaxes(x, 1, 2), x)
    x = where(1, jnp.flip(x, 1), x)
    return where(2, jnp.flip(x, 2), x)


def _adjust(
    key: jax.Array, image: jax.Array, *, brightness: float, color: float, contrast: float, hue: float
) -> jax.Array:
    """One image `[H, W, bands]`; see `photometric`."""
    of_brightness, of_color, of_contrast, of_hue = jax.random.split(key, 4)
    if contrast:
        mean = image.mean((0, 1), keepdims=True)
        image = mean + (image - mean) * jnp.exp(jax.random.uniform(of_contrast, minval=-contrast, maxval=contrast))
    if hue:
        turn = 2 * math.pi * jax.random.uniform(of_hue, minval=-hue, maxval=hue)
        image = image @ _hue_rotation(turn)
    exponent = jax.random.uniform(of_brightness, (1,), minval=-brightness, maxval=brightness)
    exponent += jax.random.uniform(of_color, image.shape[-1:], minval=-color, maxval=color)
    return image * jnp.exp(exponent)[None, None]


def _hue_rotation(turn: jax.Array) -> jax.Array:
    """float32 `[3, 3]`, to multiply RGB from the right: a turn about the grey axis (Rodrigues' formula)."""
    axis = jnp.full(3, 3**-0.5)
    across = jnp.cross(jnp.eye(3), axis[None])
    return jnp.cos(turn) * jnp.eye(3) + jnp.sin(turn) * across + (1 - jnp.cos(turn)) * jnp.outer(axis, axis)


def _blurred(key: jax.Array, image: jax.Array, share: float) -> jax.Array:
    """One image `[H, W, bands]`, for `share` of the keys through a Gaussian of 0 to MAX_BLUR pixels."""
    of_whether, of_sigma = jax.random.split(key)
    sigma = jax.random.uniform(of_sigma, minval=0.1, maxval=MAX_BLUR)
    reach = math.ceil(2 * MAX_BLUR)
    weight = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / sigma) ** 2)
    weight /= weight.sum()
    blurred = image
    for axis in (0, 1):
        size = image.shape[axis]
        padded = jnp.pad(blurred, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(2 * reach + 1))
        blurred = sum((weight[k] * plane for k, plane in enumerate(shifted)), jnp.zeros_like(image))
    return jnp.where(jax.random.uniform(of_whether) < share, blurred, image)


def photometric(
    keys: jax.Array,
    image: jax.Array,
    *,
    brightness: float,
    color: float,
    contrast: float = 0.0,
    hue: float = 0.0,
    blur: float = 0.0,
) -> jax.Array:
    """Changes the light of each image of `[B, H, W, bands]` in [0, 1], and nothing's place.

    In this order: contrast about each band's mean, hue, brightness and colour, blur. Factors are exp(u), u uniform in
    +- the bound, so that darker and brighter are alike.

    Args:
      keys: random keys `[B]`.
      image: float32.
      brightness: largest exponent of the factor on all bands.
      color: largest exponent of the factor on each band.
      contrast: largest exponent of the factor on the distance from a band's mean over the image.
      hue: largest turn of the colours about grey, in whole turns; three bands alone have a hue.
      blur: share of the images that are blurred, by a Gaussian of up to MAX_BLUR pixels.

    Raises:
      UserError: a hue of other than three bands.
    """
    if hue and image.shape[-1] != 3:
        raise UserError(f"augment.hue={hue} on {image.shape[-1]} bands; expected three, or augment.hue=0.0")
    light, sharpness = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    adjust = functools.partial(_adjust, brightness=brightness, color=color, contrast=contrast, hue=hue)
    image = jax.vmap(adjust)(light, image)
    if blur:
        image = jax.vmap(functools.partial(_blurred, share=blur))(sharpness, image)
    return jnp.clip(image, 0.0, 1.0)


class Views(NamedTuple):
    """What a step sees of its crops; images are float32 `[B, S, S, bands]` in [0, 1], all of one geometry."""

    image: jax.Array  # in another light: what the model learns from
    label: jax.Array  # uint8 [B, S, S], moved with the image
    plain: jax.Array  # in its own light: what terms compare colours on
    other: jax.Array  # in a third light: what a teacher sees


def augment(keys: jax.Array, image: jax.Array, label: jax.Array, *, dihedral_moves: bool, **light: float) -> Views:
    """Random views of each crop, decided by its key alone.

    Args:
      keys: random keys `[B]`, one a crop.
      image: float32 `[B, S, S, bands]` in [0, 1].
      label: uint8 `[B, S, S]`.
      dihedral_moves: whether crops are flipped and turned by quarters.
      light: what `photometric` takes.
    """
    geometry, photometry = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    if dihedral_moves:
        element = jax.vmap(lambda key: jax.random.randint(key, (), 0, 8))(geometry)
        image, label = dihedral(image, element), dihedral(label, element)
    others = jax.vmap(lambda key: jax.random.fold_in(key, 1))(photometry)
    return Views(photometric(photometry, image, **light), label, image, photometric(others, image, **light))

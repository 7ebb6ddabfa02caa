"""Augmentation on the device: geometry of image and label together, photometry of the image alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dihedral(x: jax.Array, element: jax.Array) -> jax.Array:
    """Flips and quarter turns: element 0 to 7 int `[B]` of the square's symmetry group; x `[B, S, S, ...]`."""

    def where(bit: int, moved: jax.Array, kept: jax.Array) -> jax.Array:
        chosen = (element >> bit & 1).astype(bool)
        return jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), moved, kept)

    x = where(0, jnp.swapaxes(x, 1, 2), x)
    x = where(1, jnp.flip(x, 1), x)
    return where(2, jnp.flip(x, 2), x)


def photometric(keys: jax.Array, image: jax.Array, *, brightness: float, color: float) -> jax.Array:
    """Scales each image of `[B, H, W, bands]` in [0, 1]: all bands by one factor, then each by one of its own.

    Factors are exp(u), u uniform in +-brightness and +-color, so that darker and brighter are alike.
    """
    bands = image.shape[-1]

    def factors(key: jax.Array) -> jax.Array:
        common, own = jax.random.split(key)
        exponent = jax.random.uniform(common, (1,), minval=-brightness, maxval=brightness)
        return jnp.exp(exponent + jax.random.uniform(own, (bands,), minval=-color, maxval=color))

    return jnp.clip(image * jax.vmap(factors)(keys)[:, None, None], 0.0, 1.0)


def augment(
    keys: jax.Array, image: jax.Array, label: jax.Array, *, dihedral_moves: bool, brightness: float, color: float
) -> tuple[jax.Array, jax.Array]:
    """One random view of each crop, decided by its key alone.

    Args:
      keys: random keys `[B]`, one a crop.
      image: float32 `[B, S, S, bands]` in [0, 1].
      label: uint8 `[B, S, S]`.
      dihedral_moves: whether crops are flipped and turned by quarters.
      brightness: largest exponent of the factor on all bands; 0 leaves them.
      color: largest exponent of the factor on each band.
    """
    geometry, photometry = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    if dihedral_moves:
        element = jax.vmap(lambda key: jax.random.randint(key, (), 0, 8))(geometry)
        image, label = dihedral(image, element), dihedral(label, element)
    return photometric(photometry, image, brightness=brightness, color=color), label

"""Terms that need no label: what unlabelled pixels can teach.

Like losses they return (sum, weight), to be added over devices and micro-batches and divided once. The weight comes
from the batch alone, never from the logits. Computed in float32 whatever smaller type the logits have, in float64
where they have that. Gradients flow through `logits` alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def _softmax(logits: jax.Array) -> jax.Array:
    return jnp.exp(_log_softmax(logits))


def entropy(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum over pixels of the entropy of the softmax, in nats, and the number of pixels.

    Grandvalet & Bengio, 2004, "Semi-supervised Learning by Entropy Minimization".

    Args:
      logits: `[B, H, W, C]`.

    Returns:
      (sum, weight), scalars; the quotient lies in [0, ln C].
    """
    log_p = _log_softmax(logits)
    pixel = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return jnp.sum(pixel), jnp.asarray(pixel.size, pixel.dtype)


def total_variation(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum over pairs of 4-neighbours of the L1 distance of their softmax, and the number of pairs.

    Javanmardi et al., 2016, "Unsupervised Total Variation Loss for Semi-supervised Deep Learning of Semantic
    Segmentation", in its anisotropic form.

    Args:
      logits: `[B, H, W, C]`.

    Returns:
      (sum, weight), scalars; the quotient lies in [0, 2].
    """
    p = _softmax(logits)
    down, right = p[:, 1:] - p[:, :-1], p[:, :, 1:] - p[:, :, :-1]
    pairs = (down.size + right.size) // p.shape[-1]
    return jnp.sum(jnp.abs(down)) + jnp.sum(jnp.abs(right)), jnp.asarray(pairs, p.dtype)


def gated_crf(
    logits: jax.Array,
    image: jax.Array,
    *,
    radius: int,
    sigma_color: float,
    sigma_position: float,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sum over pairs of near pixels of alike colour of the probability that their classes differ, and the pixels.

    Obukhov et al., 2019, "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation": each pixel i adds
    sum_j k_ij (1 - p_i . p_j) over the other pixels j of its window, with
    k_ij = exp(-|image_i - image_j|^2 / (2 sigma_color^2) - |i - j|^2 / (2 sigma_position^2)).

    Args:
      logits: `[B, H, W, C]`.
      image: `[B, H, W, bands]`, in [0, 1].
      radius: of the square window, in pixels; the window has (2 radius + 1)^2 of them.
      sigma_color: in the unit of `image`.
      sigma_position: pixels.
      valid: bool `[B, H, W]`; pairs with a pixel that is not valid are left out. None for all valid.

    Returns:
      (sum, weight), scalars; the weight is the number of valid pixels, as in the paper.
    """
    p = jnp.moveaxis(_softmax(logits), -1, 0)
    valid = jnp.ones(p.shape[1:], bool) if valid is None else valid
    p = jnp.where(valid[None], p, 0)
    other = jax.lax.stop_gradient(jnp.where(valid[None], 1 - p, 0))
    # An invalid pixel's colour may be anything; NaN times 0 would be NaN.
    color = jnp.where(valid[None], jnp.moveaxis(image, -1, 0), 0).astype(p.dtype)
    color = jax.lax.stop_gradient(color)

    # Each pixel's sum_j k_ij (1 - p_j) is all that value and gradient need, and no kernel has to be kept for it.
    # Channels come first so that the compiler's vectors run along rows.
    height, width = valid.shape[1:]
    sides = ((0, 0), (0, 0), (radius, radius), (radius, radius))
    padded_color, padded_other, disagreement = (jnp.pad(x, sides) for x in (color, other, jnp.zeros_like(other)))
    here = (slice(None), slice(None), slice(radius, radius + height), slice(radius, radius + width))
    for row in range(radius + 1):
        for col in range(-radius, radius + 1):
            if (row, col) <= (0, 0):
                continue  # k is symmetric: half of the window serves both pixels of a pair
            there = (
                *here[:2],
                slice(radius + row, radius + row + height),
                slice(radius + col, radius + col + width),
            )
            distance = jnp.sum((color - padded_color[there]) ** 2, 0, keepdims=True) / (2 * sigma_color**2)
            kernel = jnp.exp(-distance - (row**2 + col**2) / (2 * sigma_position**2))
            disagreement = disagreement.at[here].add(kernel * padded_other[there])
            disagreement = disagreement.at[there].add(kernel * other)
    disagreement = disagreement[here]

    # The sum is quadratic in p: its gradient is twice the disagreement, less what all classes share and softmax drops.
    total = jnp.sum((2 * p - jax.lax.stop_gradient(p)) * disagreement)
    return total, jnp.sum(valid, dtype=p.dtype)


def consistency(logits: jax.Array, teacher_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum over pixels of the squared distance of the student's softmax from the teacher's, and the number of pixels.

    Tarvainen & Valpola, 2017, "Mean teachers are better role models", summed over classes. The teacher is the EMA of
    the student and sees the same geometry.

    Args:
      logits: `[B, H, W, C]`.
      teacher_logits: `[B, H, W, C]`; no gradient flows through them.

    Returns:
      (sum, weight), scalars; the quotient lies in [0, 2].
    """
    difference = _softmax(logits) - jax.lax.stop_gradient(_softmax(teacher_logits))
    pixel = jnp.sum(difference**2, -1)
    return jnp.sum(pixel), jnp.asarray(pixel.size, pixel.dtype)


def pseudo_labels(
    logits: jax.Array, teacher_logits: jax.Array, label_mask: jax.Array, *, confidence: float
) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross entropy with the teacher's class where it is confident, and the number of unlabelled pixels.

    Sohn et al., 2020, "FixMatch": divided by all pixels that could have been taught, so the weight does not depend
    on the teacher.

    Args:
      logits: `[B, H, W, C]`.
      teacher_logits: `[B, H, W, C]`, of the same geometry; no gradient flows through them.
      label_mask: `[B, H, W]`, bool or float; labelled pixels, where it is not 0, are left out.
      confidence: the least softmax probability of the teacher's class at which it teaches.

    Returns:
      (sum, weight), scalars.
    """
    teacher = jax.lax.stop_gradient(_softmax(teacher_logits))
    taught = (label_mask == 0) & (teacher.max(-1) >= confidence)
    log_p = jnp.take_along_axis(_log_softmax(logits), teacher.argmax(-1)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(taught, log_p, 0)), jnp.sum(label_mask == 0, dtype=log_p.dtype)

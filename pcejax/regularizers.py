"""Terms that need no label: what unlabelled pixels can teach.

Like losses they return (sum, weight), to be added over devices and micro-batches and divided once. The weight comes
from the batch alone, never from the logits. Computed in float32 whatever smaller type the logits have, in float64
where they have that. Gradients flow through `logits` alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


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


def _disagreement(
    other: jax.Array,
    color: jax.Array,
    radius: int,
    sigma_color: float,
    sigma_position: float,
) -> jax.Array:
    """`[C, B, H, W]`: sum over j of k_ij other_j, from other = 1 - p `[C, B, H, W]` and color `[bands, B, H, W]`.

    It is all that value and gradient need of a pixel's window: a loop adds it up, and no kernel is kept.
    """
    shape = other.shape
    height, width = shape[2:]
    other = jnp.pad(other, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
    color = jnp.pad(color, ((0, 0), (0, 0), (radius, radius), (2 * radius, 2 * radius)))
    # With the rim above and beside it, so that it holds the first pixel of each pair that has one in the image.
    first = color[:, :, : height + radius, radius : width + 3 * radius]

    def add_pairs(total: jax.Array, offset: jax.Array) -> tuple[jax.Array, None]:
        row, col = offset
        second = jax.lax.dynamic_slice(color, (0, 0, row, radius + col), first.shape)
        # Band by band: a reduction over an axis of three is several times slower on CPUs.
        distance = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / (2 * sigma_color**2)
        kernel = jnp.exp(-distance - (row**2 + col**2) / (2 * sigma_position**2))
        ahead = kernel[:, radius:, radius : radius + width]
        behind = jax.lax.dynamic_slice(kernel, (0, radius - row, radius - col), ahead.shape)

        def neighbour(row: jax.Array, col: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(other, (0, 0, radius + row, radius + col), shape)

        return total + (ahead[None] * neighbour(row, col) + behind[None] * neighbour(-row, -col)), None

    # Half of the window's offsets: k is symmetric, and serves both pixels of a pair.
    offsets = np.array([(row, col) for row in range(radius + 1) for col in range(-radius, radius + 1)])[radius + 1 :]
    total, _ = jax.lax.scan(add_pairs, jnp.zeros(shape, other.dtype), jnp.asarray(offsets))
    return total


def gated_crf(
    logits: jax.Array,
    image: jax.Array,
    *,
    radius: int,
    sigma_color: float,
    sigma_position: float,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sum over near pixels of alike colour of the probability that their classes differ, and the number of pixels.

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
      (sum, weight), scalars; the weight is the number of valid pixels, as in the paper, so a pair counts for both of
      its pixels. First derivatives are exact; second ones are not, since the sum over a window is held fixed.

    Raises:
      ValueError: the shapes do not fit.
    """
    if image.shape[:-1] != logits.shape[:-1] or (valid is not None and valid.shape != logits.shape[:-1]):
        raise ValueError(
            f"logits {logits.shape}, image {image.shape}, valid {None if valid is None else valid.shape}; "
            "expected [B, H, W, C], [B, H, W, bands], [B, H, W]"
        )
    # Channels first: the compiler's vectors then run along rows, which is several times faster on CPUs.
    p, color = jnp.moveaxis(_softmax(logits), -1, 0), jnp.moveaxis(image, -1, 0)
    valid = jnp.ones(p.shape[1:], bool) if valid is None else valid
    # An invalid pixel's values may be anything; NaN times 0 would be NaN.
    p, other, color = (jnp.where(valid[None], x, 0) for x in (p, 1 - p, color.astype(p.dtype)))
    disagreement = _disagreement(
        jax.lax.stop_gradient(other), jax.lax.stop_gradient(color), radius, sigma_color, sigma_position
    )
    # The sum is quadratic in p, so its gradient is twice the disagreement, up to what is equal for all classes and so
    # drops out of the softmax. A loop that is not differentiated keeps nothing for a backward pass.
    total = jnp.sum((2 * p - jax.lax.stop_gradient(p)) * disagreement)
    return total, jnp.sum(valid, dtype=p.dtype)


def _teacher_softmax(teacher_logits: jax.Array, logits: jax.Array) -> jax.Array:
    if teacher_logits.shape != logits.shape:
        raise ValueError(f"teacher_logits {teacher_logits.shape}, logits {logits.shape}; expected equal shapes")
    return jax.lax.stop_gradient(_softmax(teacher_logits))


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
    difference = _softmax(logits) - _teacher_softmax(teacher_logits, logits)
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
    teacher = _teacher_softmax(teacher_logits, logits)
    taught = (label_mask == 0) & (teacher.max(-1) >= confidence)
    log_p = jnp.take_along_axis(_log_softmax(logits), teacher.argmax(-1)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(taught, log_p, 0)), jnp.sum(label_mask == 0, dtype=log_p.dtype)

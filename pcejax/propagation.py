"""Labels carried from their pixels to the likes of them, along paths that cross no border of colour or prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def propagated_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    image: jax.Array,
    teacher_logits: jax.Array,
    *,
    reach: int,
    color_cost: float,
    teacher_cost: float,
    step_cost: float,
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy with each label at the pixels that the cheapest path from a labelled pixel reaches it by.

    A path of `n` steps between neighbours costs the sum of its steps, and a step costs
    `step_cost + color_cost * |smoothed colours' difference| + teacher_cost * |teacher probabilities' difference|`,
    L1 norms both. A pixel takes the label of the labelled pixel that is nearest in this sense, within `reach` steps,
    and the weight exp(-cost): a geodesic distance, as in image matting and interactive segmentation
    (Bai & Sapiro, 2007, "A Geodesic Framework for Fast Interactive Image and Video Segmentation"), over an image and
    what an EMA teacher makes of it.

    Args:
      logits: `[B, H, W, C]`, any float type.
      labels: `[B, H, W]`, integer.
      label_mask: `[B, H, W]`, 0 at unlabelled pixels.
      image: float `[B, H, W, bands]` in [0, 1].
      teacher_logits: `[B, H, W, C]`, of the same geometry.
      reach: steps from a labelled pixel, at most.
      color_cost: of a step, for a difference of 1 summed over the bands.
      teacher_cost: of a step, for a difference of 1 summed over the classes.
      step_cost: of any step.

    Returns:
      (loss_sum, weight_sum); the weight is the number of pixels within `reach` of a labelled one, whatever the cost.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    cost, label = geodesic(
        labels,
        label_mask,
        image.astype(dtype),
        jax.nn.softmax(jax.lax.stop_gradient(teacher_logits).astype(dtype)),
        reach=reach,
        color_cost=color_cost,
        teacher_cost=teacher_cost,
        step_cost=step_cost,
    )
    reached = jnp.isfinite(cost)
    weight = jnp.where(reached, jnp.exp(-cost), 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(dtype)), label[..., None], -1)[..., 0]
    return -jnp.sum(weight * log_p), jnp.sum(reached, dtype=dtype)


def geodesic(
    labels: jax.Array,
    label_mask: jax.Array,
    image: jax.Array,
    probabilities: jax.Array,
    *,
    reach: int,
    color_cost: float,
    teacher_cost: float,
    step_cost: float,
) -> tuple[jax.Array, jax.Array]:
    """Cost float and class int32 `[B, H, W]` of the nearest labelled pixel; infinite beyond `reach` steps."""
    smooth = _box_mean(image)
    cost = jnp.where(label_mask != 0, 0.0, jnp.inf).astype(image.dtype)
    label = jnp.where(label_mask != 0, labels, 0).astype(jnp.int32)
    moves = [(axis, shift) for axis in (1, 2) for shift in (1, -1)]
    steps = [
        step_cost
        + color_cost * jnp.abs(smooth - _moved(smooth, axis, shift, 0.0)).sum(-1)
        + teacher_cost * jnp.abs(probabilities - _moved(probabilities, axis, shift, 0.0)).sum(-1)
        for axis, shift in moves
    ]

    def spread(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best_cost, best_label = state
        for (axis, shift), step in zip(moves, steps, strict=True):
            there = _moved(state[0], axis, shift, jnp.inf) + step
            nearer = there < best_cost
            best_cost = jnp.where(nearer, there, best_cost)
            best_label = jnp.where(nearer, _moved(state[1], axis, shift, 0), best_label)
        return best_cost, best_label

    return jax.lax.fori_loop(0, reach, spread, (cost, label))


def _moved(x: jax.Array, axis: int, shift: int, fill: float) -> jax.Array:
    """`x` moved by one pixel along an axis of `[B, H, W, ...]`: each pixel has its neighbour's value."""
    size = x.shape[axis]
    kept = jax.lax.slice_in_dim(x, 1, size, axis=axis) if shift < 0 else jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
    edge = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), fill)
    return jnp.concatenate([kept, edge] if shift < 0 else [edge, kept], axis)


def _box_mean(image: jax.Array) -> jax.Array:
    """The mean of each 3x3 neighbourhood, edges clamped: texture and noise are no border."""
    for axis in (1, 2):
        size = image.shape[axis]
        padded = jnp.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        image = sum((jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3)), jnp.zeros_like(image)) / 3
    return image

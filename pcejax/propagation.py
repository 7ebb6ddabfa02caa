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
    """Partial cross entropy with the labels of a crop spread over the pixels that cheap paths from them reach.

    A path of `n` steps between neighbours costs the sum of its steps, and a step costs
    `step_cost + color_cost * |smoothed colours' difference| + teacher_cost * |teacher probabilities' difference|`,
    L1 norms both. A pixel takes the label of the labelled pixel that is nearest in this sense, within `reach` steps:
    a geodesic distance, as in interactive segmentation (Bai & Sapiro, 2007, "A Geodesic Framework for Fast
    Interactive Image and Video Segmentation"), over an image and what an EMA teacher makes of it.

    A class weighs in a crop what its labelled pixels weigh there together, however far they spread; among the
    pixels reached from them it is divided in proportion to exp(-cost).

    Args:
      logits: `[B, H, W, C]`, any float type.
      labels: `[B, H, W]`, integer.
      label_mask: `[B, H, W]`, bool or float; 0 at unlabelled pixels.
      image: float `[B, H, W, bands]` in [0, 1].
      teacher_logits: `[B, H, W, C]`, of the same geometry; no gradient flows through them.
      reach: steps from a labelled pixel, at most; 0 leaves each label at its pixel.
      color_cost: of a step, for a difference of 1 summed over the bands.
      teacher_cost: of a step, for a difference of 1 summed over the classes.
      step_cost: of any step.

    Returns:
      (loss_sum, weight_sum), scalars; the weight is the sum of `label_mask`.
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
    spread = jnp.exp(-cost)  # 0 where no path leads
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(dtype)), label[..., None], -1)[..., 0]
    mask = label_mask.astype(dtype)
    loss_sum = jnp.zeros((), dtype)
    for class_id in range(logits.shape[-1]):
        of_class = jnp.where(label == class_id, spread, 0)
        # Where the class has a label, that pixel's cost is 0, and the total 1 or more.
        total = jnp.maximum(of_class.sum((1, 2)), 1)
        mass = jnp.where(label_mask != 0, jnp.where(labels == class_id, mask, 0), 0).sum((1, 2))
        loss_sum -= jnp.sum(mass * (of_class * log_p).sum((1, 2)) / total)
    return loss_sum, mask.sum()


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

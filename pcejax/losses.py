"""Partial cross entropy: cross entropy weighted by a label mask, so that only labelled pixels teach.

Losses return (sum, weight). The step adds both over devices and divides once, so the loss of a batch
does not depend on how its pixels are spread over devices. The weight comes from the batch alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def partial_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross entropy over labelled pixels, and the weight to divide it by.

    Computed in float32 whatever smaller type the logits have, in float64 where they have that.

    The quotient over a batch equals `torch.nn.functional.cross_entropy(..., reduction="mean")` with
    `ignore_index` at the unlabelled pixels, including `weight` and `label_smoothing`.

    Args:
      logits: `[B, H, W, C]`, any float type.
      labels: `[B, H, W]`, integer; read only where `label_mask` is not 0, any value elsewhere.
      label_mask: `[B, H, W]`, bool, or float for soft weights of pixels.
      class_weights: float `[C]`; a pixel's loss and weight are both multiplied by its class's.
      label_smoothing: share of the target that is spread evenly over all C classes, in [0, 1).
      focal_gamma: exponent of the factor (1 - p)^gamma, p the softmax probability of the labelled
        class (Lin et al., 2017, "Focal Loss for Dense Object Detection"); the weight stays without it.

    Returns:
      (loss_sum, weight_sum), scalars. No labelled pixel: both 0, and so is the gradient.

    Raises:
      ValueError: the shapes do not fit.
    """
    if labels.shape != logits.shape[:-1] or label_mask.shape != labels.shape:
        raise ValueError(
            f"logits {logits.shape}, labels {labels.shape}, label_mask {label_mask.shape}; "
            "expected [B, H, W, C], [B, H, W], [B, H, W]"
        )
    num_classes = logits.shape[-1]
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_p = jax.nn.log_softmax(logits.astype(dtype))
    weight = label_mask.astype(dtype)
    # An unlabelled pixel's label may lie outside the classes; a gather there would make 0 * NaN.
    target = jnp.where(label_mask != 0, labels, 0).astype(jnp.int32)
    log_p_target = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
    class_weights = jnp.ones(num_classes, dtype) if class_weights is None else class_weights.astype(dtype)
    pixel_weight = class_weights[target]
    loss = -(1.0 - label_smoothing) * pixel_weight * log_p_target
    if label_smoothing:
        loss -= label_smoothing / num_classes * (log_p @ class_weights)
    if focal_gamma:
        # 1 - p from expm1, with a floor: the power's gradient is infinite at 0 for gamma below 1.
        loss *= jnp.maximum(-jnp.expm1(log_p_target), 1e-12) ** focal_gamma
    return jnp.sum(loss * weight), jnp.sum(pixel_weight * weight)

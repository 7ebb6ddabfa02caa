"""Partial cross entropy and its family: losses in which only labelled pixels teach.

Losses return (sum, weight). The step adds both over devices and micro-batches and divides once, so the loss of a
batch does not depend on how its images are spread. The weight comes from the batch alone, never from the logits.
Everything is computed in float32 whatever smaller type the logits have, in float64 where they have that. No labelled
pixel: sum, weight and gradient are 0.

Shapes: logits `[B, H, W, C]` of any float type; labels `[B, H, W]`, integer, read only where `label_mask` is not 0 and
of any value elsewhere; label_mask `[B, H, W]`, bool, or float for soft weights of pixels; class_weights float `[C]`,
which multiply the loss and the weight of a class's pixels. Every loss raises ValueError where they do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pcejax.errors import UserError


class _Pixels(NamedTuple):
    log_p: jax.Array  # [B, H, W, C], of every class
    target: jax.Array  # int32 [B, H, W], the label, or 0 where there is none
    log_p_target: jax.Array  # [B, H, W]
    mask: jax.Array  # [B, H, W], the pixel's soft weight
    class_weights: jax.Array  # [C]
    weight: jax.Array  # [B, H, W], the soft weight times that of the class


def _pixels(
    logits: jax.Array, labels: jax.Array, label_mask: jax.Array, class_weights: jax.Array | None = None
) -> _Pixels:
    if labels.shape != logits.shape[:-1] or label_mask.shape != labels.shape:
        raise ValueError(
            f"logits {logits.shape}, labels {labels.shape}, label_mask {label_mask.shape}; "
            "expected [B, H, W, C], [B, H, W], [B, H, W]"
        )
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_p = jax.nn.log_softmax(logits.astype(dtype))
    mask = label_mask.astype(dtype)
    # An unlabelled pixel's label may lie outside the classes; a gather there would make 0 * NaN.
    target = jnp.where(label_mask != 0, labels, 0).astype(jnp.int32)
    log_p_target = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
    weights = jnp.ones(logits.shape[-1], dtype) if class_weights is None else class_weights.astype(dtype)
    return _Pixels(log_p, target, log_p_target, mask, weights, weights[target] * mask)


def partial_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    weighted_mean: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross entropy over labelled pixels, and the weight to divide it by.

    The quotient over a batch equals `torch.nn.functional.cross_entropy(..., reduction="mean")` with
    `ignore_index` at the unlabelled pixels, including `weight` and `label_smoothing`. Dense supervision is the same
    with a full mask.

    Args:
      logits: `[B, H, W, C]`.
      labels: `[B, H, W]`.
      label_mask: `[B, H, W]`.
      class_weights: float `[C]`.
      label_smoothing: share of the target that is spread evenly over all C classes, in [0, 1).
      focal_gamma: exponent of the factor (1 - p)^gamma, p the softmax probability of the labelled
        class (Lin et al., 2017, "Focal Loss for Dense Object Detection"); the weight stays without it.
      weighted_mean: whether class weights count in the weight too; without, it is the sum of `label_mask`, and the
        class weights change the size of the loss.

    Returns:
      (loss_sum, weight_sum), scalars.
    """
    pixels = _pixels(logits, labels, label_mask, class_weights)
    loss = -(1.0 - label_smoothing) * pixels.weight * pixels.log_p_target
    if label_smoothing:
        loss -= label_smoothing / logits.shape[-1] * (pixels.log_p @ pixels.class_weights) * pixels.mask
    if focal_gamma:
        # 1 - p from expm1, with a floor: the power's gradient is infinite at 0 for gamma below 1.
        loss *= jnp.maximum(-jnp.expm1(pixels.log_p_target), 1e-12) ** focal_gamma
    return jnp.sum(loss), jnp.sum(pixels.weight if weighted_mean else pixels.mask)


def hard_pixel_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    share: float,
    least: int,
) -> tuple[jax.Array, jax.Array]:
    """Partial cross entropy of the informative pixels: those of each image's labelled ones with the highest loss.

    Online hard-example mining (Shrivastava et al., 2016, "Training Region-based Object Detectors with Online Hard
    Example Mining"). Of an image's n labelled pixels k = round(share * n) are chosen, at least `least`, at most n.
    Pixels are ranked by their plain cross entropy. Where they differ in weight, the hardest are chosen until they
    hold k/n of the image's weight, so that the weight does not depend on which they are. The last to be chosen
    counts for the part that is still missing, and pixels that tie for it share that part evenly.

    Args:
      logits: `[B, H, W, C]`.
      labels: `[B, H, W]`.
      label_mask: `[B, H, W]`.
      class_weights: float `[C]`.
      share: of an image's labelled pixels, in (0, 1]; 1 is the partial cross entropy.
      least: pixels, 1 or more.

    Returns:
      (loss_sum, weight_sum), scalars.
    """
    pixels = _pixels(logits, labels, label_mask, class_weights)
    loss, weight = (array.reshape(len(logits), -1) for array in (-pixels.log_p_target, pixels.weight))
    labelled = jnp.sum(weight > 0, -1)
    chosen = jnp.minimum(jnp.maximum(jnp.round(share * labelled), least), labelled)
    wanted = chosen / jnp.maximum(labelled, 1) * jnp.sum(weight, -1)

    # The loss of the last pixel to be chosen; unlabelled ones come after all others, so that not even the rounding of
    # the running sum depends on them.
    rank = jax.lax.stop_gradient(jnp.where(weight > 0, -loss, jnp.inf))
    ranked, ranked_weight = jax.lax.sort((rank, weight), num_keys=1)
    before = jnp.sum(jnp.cumsum(ranked_weight, -1) < wanted[:, None], -1, keepdims=True)
    last = jnp.take_along_axis(ranked, jnp.minimum(before, rank.shape[-1] - 1), -1)
    harder, tied = rank < last, rank == last
    missing = wanted - jnp.sum(jnp.where(harder, weight, 0), -1)
    tied_weight = jnp.sum(jnp.where(tied, weight, 0), -1)
    part = missing / jnp.where(tied_weight > 0, tied_weight, 1)
    taken = weight * jnp.where(tied, part[:, None], harder)
    return jnp.sum(loss * taken), jnp.sum(wanted)


def partial_dice(
    logits: jax.Array, labels: jax.Array, label_mask: jax.Array, *, class_weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sum of 1 - Dice over the images and the classes labelled in them, and the number of such pairs.

    Soft Dice (Milletari et al., 2016, "V-Net"): 2 sum(p g) / (sum(p^2) + sum(g^2)) over the labelled pixels of an
    image, p the softmax probability of the class and g whether it is the label. It is taken per image, since a
    ratio over the batch would not add up over devices.

    Args:
      logits: `[B, H, W, C]`.
      labels: `[B, H, W]`.
      label_mask: `[B, H, W]`; soft weights multiply a pixel's terms in all three sums.
      class_weights: float `[C]`, of the pairs, not of pixels.

    Returns:
      (loss_sum, weight_sum), scalars.
    """
    pixels = _pixels(logits, labels, label_mask, class_weights)
    p = jnp.exp(pixels.log_p)
    truth = jax.nn.one_hot(pixels.target, logits.shape[-1], dtype=p.dtype)
    mask = pixels.mask[..., None]
    overlap, of_model, of_truth = (jnp.sum(mask * x, (1, 2)) for x in (p * truth, p**2, truth))
    present = of_truth > 0
    dice = 2 * overlap / jnp.where(present, of_model + of_truth, 1)
    weight = jnp.where(present, pixels.class_weights[None], 0)
    return jnp.sum(weight * (1 - dice)), jnp.sum(weight)


def unknown_class_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The naive loss: cross entropy over all pixels, unlabelled ones taken as of the unknown class, the last logit.

    For comparison only: it teaches that nearly everything is unknown. Every pixel weighs the same, whatever its soft
    weight.

    Args:
      logits: `[B, H, W, C]`, the last one of the unknown class.
      labels: `[B, H, W]`.
      label_mask: `[B, H, W]`.

    Returns:
      (loss_sum, weight_sum), scalars; the weight is the number of pixels.
    """
    pixels = _pixels(logits, labels, label_mask)
    everywhere = jnp.where(label_mask != 0, pixels.target, logits.shape[-1] - 1)
    return partial_cross_entropy(logits, everywhere, jnp.ones(labels.shape, bool))


def all_pixel_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_mask: jax.Array, *, class_weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The frequent mistake: cross entropy of the labelled pixels, divided by the number of all pixels.

    For comparison only: it is the partial cross entropy times the share of labelled pixels in the batch, so sparse
    labels teach more slowly and a term on unlabelled pixels drowns them.

    Args:
      logits: `[B, H, W, C]`.
      labels: `[B, H, W]`.
      label_mask: `[B, H, W]`.
      class_weights: float `[C]`, of the sum alone.

    Returns:
      (loss_sum, weight_sum), scalars; the weight is the number of pixels.
    """
    loss_sum, _ = partial_cross_entropy(logits, labels, label_mask, class_weights=class_weights)
    return loss_sum, jnp.full_like(loss_sum, labels.size)


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Class weights from the effective number of labels, (1 - beta) / (1 - beta^n).

    Cui et al., 2019, "Class-Balanced Loss Based on Effective Number of Samples". Beta 0 gives equal weights; towards
    1 they go to the inverse of the counts.

    Args:
      counts: `[C]`, labels of each class.
      beta: in [0, 1).

    Returns:
      float32 `[C]`, of mean 1 over the classes with a label. A class without one gets 0: no pixel can use its weight,
      and label smoothing then spreads nothing to a class that nobody labelled.

    Raises:
      UserError: beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise UserError(f"loss.effective_number_beta={beta}; expected a number from 0 to below 1")
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    # 1 - beta^n would lose its digits where beta^n is near 1.
    effective = -np.expm1(counts * np.log(beta)) if beta else np.ones(len(counts))
    weights = np.where(present, 1 / np.where(present, effective, 1), 0)
    return (weights / max(weights.sum(), 1e-300) * present.sum()).astype(np.float32)

"""The training loss: a sum of terms, each with its weight and its warm-up, from config.loss.

A new term is one function in `losses` or `regularizers`, its line in `TERMS`, and its fields in configs/default.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import losses, propagation, regularizers
from pcejax.errors import UserError

_LABELS = ("logits", "labels", "label_mask")

TERMS: dict[str, tuple[Callable[..., tuple[jax.Array, jax.Array]], tuple[str, ...]]] = {
    "partial_cross_entropy": (losses.partial_cross_entropy, (*_LABELS, "class_weights")),
    "hard_pixel_cross_entropy": (losses.hard_pixel_cross_entropy, (*_LABELS, "class_weights")),
    "partial_dice": (losses.partial_dice, (*_LABELS, "class_weights")),
    "all_pixel_cross_entropy": (losses.all_pixel_cross_entropy, (*_LABELS, "class_weights")),
    "unknown_class_cross_entropy": (losses.unknown_class_cross_entropy, _LABELS),
    "entropy": (regularizers.entropy, ("logits",)),
    "total_variation": (regularizers.total_variation, ("logits",)),
    "gated_crf": (regularizers.gated_crf, ("logits", "image", "valid")),
    "consistency": (regularizers.consistency, ("logits", "teacher_logits")),
    "pseudo_labels": (regularizers.pseudo_labels, ("logits", "teacher_logits", "label_mask")),
    "propagation": (propagation.propagated_cross_entropy, (*_LABELS, "image", "teacher_logits")),
}
"""Each term's function, which returns (sum, weight), and what of the step it asks for; see `steps.make_train_step`.

logits `[B, S, S, C]`; labels uint8 `[B, S, S]`; label_mask float32 `[B, S, S]`, the weight of a labelled pixel and 0
elsewhere; class_weights `[C]`; image `[B, S, S, bands]` in [0, 1], in its own light; valid bool `[B, S, S]`, where the
image has data: datasets give 0 in all bands where it has none; teacher_logits `[B, S, S, C]` of
the running mean of the parameters on the same crops in another light.
"""

_SCHEDULE = ("weight", "start", "warmup_steps")


class Term(NamedTuple):
    """A term of the loss, its options bound."""

    name: str
    function: Callable[..., tuple[jax.Array, jax.Array]]
    needs: tuple[str, ...]


def make_terms(config: ml_collections.ConfigDict) -> tuple[Term, ...]:
    """The terms of `config` (the run's `config.loss`) with a weight above 0, in the order of `TERMS`.

    Raises:
      UserError: no term has a weight, or a schedule makes no sense.
    """
    for name in TERMS:
        for field in _SCHEDULE:
            if config[name][field] < 0:
                raise UserError(f"loss.{name}.{field}={config[name][field]}; expected 0 or more")
    chosen = []
    for name, (function, needs) in TERMS.items():
        if config[name].weight:
            options = {field: value for field, value in config[name].items() if field not in _SCHEDULE}
            chosen.append(Term(name, functools.partial(function, **options), needs))
    if not chosen:
        raise UserError(
            f"loss: no term has a weight above 0; expected one, such as loss.{next(iter(TERMS))}.weight=1.0"
        )
    return tuple(chosen)


def make_schedules(config: ml_collections.ConfigDict) -> np.ndarray:
    """(weight, start, warmup_steps) of each of `make_terms(config)`: float32 `[T, 3]`, data that a step takes."""
    rows = [[config[term.name][field] for field in _SCHEDULE] for term in make_terms(config)]
    return np.array(rows, np.float32)


def weights_at(schedules: jax.Array, step: jax.Array) -> jax.Array:
    """Weights `[T]` of the terms at a step: 0 before `start`, then up to `weight` in equal parts by `warmup_steps`."""
    weight, start, warmup_steps = schedules[:, 0], schedules[:, 1], schedules[:, 2]
    return weight * jnp.clip((step.astype(jnp.float32) - start + 1) / (warmup_steps + 1), 0.0, 1.0)

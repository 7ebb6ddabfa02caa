"""AdamW under a warm-up and cosine schedule, from config.optimizer."""

from __future__ import annotations

import functools
from typing import Any

import jax
import ml_collections
import optax


def make_schedule(config: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 over `warmup_steps`, then a cosine down to 0 at `num_steps`."""
    warmup = min(config.warmup_steps, num_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, num_steps)


def decayed(params: Any) -> Any:
    """True for kernels, False for norms' scales and all biases, as a tree like `params`."""
    return jax.tree.map(lambda param: param.ndim > 1, params)


def in_encoder(params: Any) -> Any:
    """True for all that lies under "encoder", as a tree like `params`."""
    return jax.tree.map_with_path(lambda path, _: path[0].key == "encoder", params)


def roles(params: Any, frozen_stages: int) -> Any:
    """The first levels of the encoder "frozen", all else "moving", as a tree like `params`."""
    levels = sorted(params.get("encoder", {}))[:frozen_stages]

    def role(path: tuple[Any, ...], _: Any) -> str:
        return "frozen" if path[0].key == "encoder" and path[1].key in levels else "moving"

    return jax.tree.map_with_path(role, params)


def make_optimizer(
    config: ml_collections.ConfigDict, num_steps: int, frozen_stages: int = 0
) -> optax.GradientTransformation:
    """Clips gradients by their global norm, then AdamW (Loshchilov & Hutter, 2019) with decay on kernels alone.

    The encoder moves `config.encoder_lr_factor` times as far, decay included; its first `frozen_stages` levels
    stay as they are, and no moments are kept for them.
    """
    moving = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm),
        optax.adamw(make_schedule(config, num_steps), weight_decay=config.weight_decay, mask=decayed),
        optax.masked(optax.scale(config.encoder_lr_factor), in_encoder),
    )
    return optax.partition(
        {"moving": moving, "frozen": optax.set_to_zero()}, functools.partial(roles, frozen_stages=frozen_stages)
    )

"""AdamW under a warm-up and cosine schedule, from config.optimizer."""

from __future__ import annotations

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


def make_optimizer(config: ml_collections.ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Clips gradients by their global norm, then AdamW (Loshchilov & Hutter, 2019) with decay on kernels alone."""
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm),
        optax.adamw(make_schedule(config, num_steps), weight_decay=config.weight_decay, mask=decayed),
    )

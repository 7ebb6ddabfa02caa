"""All that training changes: arrays only, so a checkpoint of it is the run."""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """Arrays by name; `step` int32 counts the updates done; `ema_*` are running means of what they name."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema_params: Any
    ema_batch_stats: Any

    def ema_variables(self) -> dict[str, Any]:
        """What evaluation and prediction apply the model to."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The random stream `name` of a key: a new use of chance takes a new name and disturbs no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def create_train_state(
    model: nn.Module, tx: optax.GradientTransformation, key: jax.Array, image_shape: tuple[int, ...]
) -> TrainState:
    """The state before the first step; `image_shape` is `[B, H, W, bands]`."""
    # Compiled for a CPU as it stands: to optimise a program that runs once takes seconds.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = functools.partial(_init, model, tx, image_shape)
    return jax.jit(init, compiler_options=options)(named_key(key, "init"))


def state_shapes(model: nn.Module, tx: optax.GradientTransformation, image_shape: tuple[int, ...]) -> TrainState:
    """Shape and type of every array of a state, nothing computed: what a checkpoint is restored into."""
    return jax.eval_shape(functools.partial(_init, model, tx, image_shape), jax.random.key(0))


def _init(
    model: nn.Module, tx: optax.GradientTransformation, image_shape: tuple[int, ...], key: jax.Array
) -> TrainState:
    variables = model.init(key, jnp.zeros(image_shape), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(jnp.int32(0), params, batch_stats, tx.init(params), params, batch_stats)

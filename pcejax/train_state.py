"""All that training changes: arrays only, so a checkpoint of it is the run."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
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
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, ...],
    initial: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      model: whose variables are initialised.
      tx: the optimizer.
      key: random key of the run.
      image_shape: `[B, H, W, bands]`.
      initial: arrays that replace initialised ones, in the tree of the model's variables: {"params": ...,
        "batch_stats": ...}, as much of it as there is, such as `pretrained.variables` gives it.

    Raises:
      ValueError: an array in `initial` has no place in the model, or another shape than what it replaces.
    """
    # Compiled for a CPU as it stands: to optimise a program that runs once takes seconds.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = functools.partial(_init, model, tx, image_shape)
    return jax.jit(init, compiler_options=options)(named_key(key, "init"), initial or {})


def state_shapes(model: nn.Module, tx: optax.GradientTransformation, image_shape: tuple[int, ...]) -> TrainState:
    """Shape and type of every array of a state, nothing computed: what a checkpoint is restored into."""
    return jax.eval_shape(functools.partial(_init, model, tx, image_shape), jax.random.key(0), {})


def _init(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    key: jax.Array,
    initial: Mapping[str, Any],
) -> TrainState:
    variables = _replaced(model.init(key, jnp.zeros(image_shape), train=False), initial)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(jnp.int32(0), params, batch_stats, tx.init(params), params, batch_stats)


def _replaced(variables: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    for name, value in flax.traverse_util.flatten_dict(initial, sep="/").items():
        if name not in arrays:
            raise ValueError(f"initial {name}: the model has no such variable; expected one of {sorted(arrays)}")
        if value.shape != arrays[name].shape:
            raise ValueError(f"initial {name}: shape {value.shape}; expected {arrays[name].shape}, as in the model")
        arrays[name] = value.astype(arrays[name].dtype)
    return flax.traverse_util.unflatten_dict(arrays, sep="/")

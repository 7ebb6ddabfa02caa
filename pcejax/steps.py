"""The training step and the evaluation step: pure functions, mapped over devices by `parallel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average

from pcejax import datasets, metrics, parallel, terms, tiles
from pcejax.augment import Views
from pcejax.legend import IGNORE
from pcejax.train_state import TrainState, named_key


class Knobs(NamedTuple):
    """What may differ between runs that share one compilation."""

    key: jax.Array  # the run's random key
    class_weights: jax.Array  # float32 [C]
    schedules: jax.Array  # float32 [T, 3], of the loss's terms: see `terms.make_schedules`


def row_keys(key: jax.Array, name: str, plan: jax.Array | np.ndarray) -> jax.Array:
    """Keys `[b]` for the use `name` of each crop of a plan int32 `[b, 4]`, in a run of random key `key`.

    A crop's own seed comes with the plan, so what is drawn for it does not depend on how rows lie on devices.
    """
    stream = named_key(key, name)
    return jax.vmap(lambda seed: jax.random.fold_in(stream, seed))(plan[:, 3])


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss_terms: Sequence[terms.Term],
    augment: Callable[..., Views],
    *,
    class_names: Sequence[str],
    cut: Callable[[Any, jax.Array], tiles.Batch],
    ema_decay: float,
    balance_crops: bool = False,
    bands: datasets.Bands = datasets.RGB,
) -> Callable[..., tuple[TrainState, metrics.StepMetrics]]:
    """`train_step(state, source, plan, knobs) -> (state, metrics)` for one device of the axis "data".

    Args:
      model: image, train, dropout_keys -> logits; its batch norm, if any, synchronised over the axis.
      tx: applied to the gradient of the loss of the global batch.
      loss_terms: what the loss is the sum of.
      augment: `(keys, image, label) -> views`.
      class_names: of the logits' classes.
      cut: `(source, plan) -> batch`, from what the step gets as its source: resident tiles, or a batch cut before.
      balance_crops: whether the labelled pixels of a class share one weight in each crop, however many they are.
        Points in a cluster come into many anchored crops, and many into each: unbalanced, they drown the others.
      bands: of the images.
      ema_decay: of the running mean of the parameters, approached from below over the first steps.

    Returns:
      The step. Its plan is int32 `[b, 4]`, this device's rows of the global batch.
    """

    def train_step(
        state: TrainState, source: tiles.Tiles | tiles.Batch, plan: jax.Array, knobs: Knobs
    ) -> tuple[TrainState, metrics.StepMetrics]:
        batch = cut(source, plan)
        views = augment(row_keys(knobs.key, "augment", plan), tiles.scale_image(batch.image, bands), batch.label)
        label_mask = views.label != IGNORE
        labelled_of_class = jnp.stack(
            [(views.label == class_id).sum((1, 2)) for class_id in range(len(class_names))], -1
        )
        weights = batch.weights[:, : len(class_names)]
        if balance_crops:
            weights = weights / jnp.maximum(labelled_of_class, 1)
        known = {
            "labels": views.label,
            # Indexed by class: an unlabelled pixel's is 0, whatever class it reads.
            "label_mask": jnp.where(label_mask, jax.vmap(jnp.take)(weights, jnp.where(label_mask, views.label, 0)), 0),
            "class_weights": knobs.class_weights,
            "image": views.plain,
            "valid": (views.plain > 0).any(-1),
        }
        if any("teacher_logits" in term.needs for term in loss_terms):
            teacher_logits = jnp.asarray(model.apply(state.ema_variables(), views.other, train=False))
            known["teacher_logits"] = jax.lax.stop_gradient(teacher_logits)
        term_weights = terms.weights_at(knobs.schedules, state.step)

        def local_loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            keys = row_keys(knobs.key, "dropout", plan)
            logits, changed = model.apply(
                variables, views.image, train=True, dropout_keys=keys, mutable=["batch_stats"]
            )
            values = known | {"logits": logits}
            pairs = [term.function(**{name: values[name] for name in term.needs}) for term in loss_terms]
            sums, local_weights = (jnp.stack(column) for column in zip(*pairs, strict=True))
            # A term's weight comes from the batch, not from the parameters: nothing flows through this sum.
            weight_sums = jax.lax.psum(jax.lax.stop_gradient(local_weights), parallel.AXIS)
            # Nothing of it in the whole batch: sum and gradient are 0, and so is what they are divided by.
            means = sums / jnp.where(weight_sums > 0, weight_sums, 1)
            correct = jnp.sum((jnp.argmax(logits, -1) == views.label) & label_mask)
            return jnp.sum(term_weights * means), (sums, weight_sums, correct, changed.get("batch_stats", {}))

        # This device's part of the loss, and its gradient, added up afterwards: the gradient of a psum would be too
        # large by the number of devices.
        (loss, (sums, weight_sums, correct, batch_stats)), grads = jax.value_and_grad(local_loss, has_aux=True)(
            state.params
        )
        unlabelled_crops = jnp.sum(~label_mask.any((1, 2)))
        grads, loss, sums, correct, labelled_of_class, unlabelled_crops, crops = jax.lax.psum(
            (grads, loss, sums, correct, labelled_of_class.sum(0), unlabelled_crops, len(plan)), parallel.AXIS
        )
        labelled, grad_norm = labelled_of_class.sum(), optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))

        def towards(mean: jax.Array, new: jax.Array) -> jax.Array:
            return mean + (1 - decay).astype(mean.dtype) * (new - mean)

        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=jax.tree.map(towards, state.ema_params, params),
            ema_batch_stats=jax.tree.map(towards, state.ema_batch_stats, batch_stats),
        )
        # Where it is not finite nothing of the update is kept; the host counts such steps, and ends the run.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)._replace(
            step=new_state.step
        )
        one = jnp.float32(1)
        measured = {
            "loss": Average(loss, one),
            **{
                f"loss/{term.name}": Average(total, weight)
                for term, total, weight in zip(loss_terms, sums, weight_sums, strict=True)
            },
            "accuracy": Average(correct, labelled),
            "grad_norm": Average(grad_norm, one),
            "labelled_pixels": Average(labelled, one),
            **{
                f"labelled_pixels/{name}": Average(count, one)
                for name, count in zip(class_names, labelled_of_class, strict=True)
            },
            "unlabelled_crops": Average(unlabelled_crops, crops),
        }
        return kept, measured

    return train_step


def make_eval_step(
    model: nn.Module, bands: datasets.Bands = datasets.RGB
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """`eval_step(variables, images [b, h, w, bands]) -> logits float32 [b, h, w, C]` for one device."""

    def eval_step(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        logits = model.apply(variables, tiles.scale_image(images, bands), train=False)
        return jnp.asarray(logits)

    return eval_step

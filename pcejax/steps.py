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

    key_data: (
        jax.Array
    )  # uint32 [2], of the run's random key: JAX takes typed keys between processes by way of the host
    class_weights: jax.Array  # float32 [C]
    schedules: jax.Array  # float32 [T, 3], of the loss's terms: see `terms.make_schedules`


def row_keys(key: jax.Array, name: str, plan: jax.Array | np.ndarray) -> jax.Array:
    """Keys `[b]` for the use `name` of each crop of a plan int32 `[b, 4]`, in a run of random key `key`.

    A crop's own seed comes with the plan, so what is drawn for it does not depend on how rows lie on devices.
    """
    stream = named_key(key, name)
    return jax.vmap(lambda seed: jax.random.fold_in(stream, seed))(plan[:, 3])


def make_see(
    augment: Callable[..., Views], *, num_classes: int, balance_crops: bool, bands: datasets.Bands | None
) -> Callable[[tiles.Batch, jax.Array, jax.Array], tuple[dict[str, jax.Array], jax.Array]]:
    """`see(batch, plan, key_data)` -> what a step learns from, and the labelled pixels int32 `[b, C]` of each class.

    What terms of the loss may ask for of each row (see `terms.TERMS`), "view", which the model learns from, "other",
    which a teacher sees, and "dropout_keys". Arguments are those of `make_train_step`; key_data is that of `Knobs`.
    """

    def see(batch: tiles.Batch, plan: jax.Array, key_data: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        key = jax.random.wrap_key_data(key_data)
        image = batch.image if bands is None else tiles.scale_image(batch.image, bands)
        views = augment(row_keys(key, "augment", plan), image, batch.label)
        label_mask = views.label != IGNORE
        counts = jnp.stack([(views.label == class_id).sum((1, 2)) for class_id in range(num_classes)], -1)
        weights = batch.weights[:, :num_classes]
        if balance_crops:
            weights = weights / jnp.maximum(counts, 1)
        rows = {
            "view": views.image,
            "other": views.other,
            "dropout_keys": row_keys(key, "dropout", plan),
            "labels": views.label,
            # Indexed by class: an unlabelled pixel's is 0, whatever class it reads.
            "label_mask": jnp.where(label_mask, jax.vmap(jnp.take)(weights, jnp.where(label_mask, views.label, 0)), 0),
            "image": views.plain,
            "valid": (views.plain > 0).any(-1),
        }
        return rows, counts

    return see


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
    accumulation: int = 1,
    bands: datasets.Bands | None = datasets.RGB,
) -> Callable[..., tuple[TrainState, metrics.StepMetrics]]:
    """`train_step(state, source, plan, knobs) -> (state, metrics)` for one device of the axis "data".

    Args:
      model: image, train, dropout_keys -> logits; its batch norm, if any, synchronised over the axis.
      tx: applied to the gradient of the loss of the global batch.
      loss_terms: what the loss is the sum of.
      augment: `(keys, image, label) -> views`.
      class_names: of the logits' classes.
      cut: `(source, plan) -> batch`, from what the step gets as its source: resident tiles, or a batch cut before.
      ema_decay: of the running mean of the parameters, approached from below over the first steps.
      balance_crops: whether the labelled pixels of a class share one weight in each crop, however many they are.
        Points in a cluster come into many anchored crops, and many into each: unbalanced, they drown the others.
      accumulation: micro-batches that a device's rows are taken in, one after the other: less memory, the same
        update. Batch norm's statistics are those of a micro-batch.
      bands: of the images, None where they are features.

    Returns:
      The step. Its plan is int32 `[b, 4]`, this device's rows of the global batch.
    """

    see = make_see(augment, num_classes=len(class_names), balance_crops=balance_crops, bands=bands)

    def evaluate_terms(rows: dict[str, jax.Array], logits: jax.Array, knobs: Knobs) -> tuple[jax.Array, jax.Array]:
        """Sum and weight `[T]` of each term."""
        known = rows | {"logits": logits, "class_weights": knobs.class_weights}
        pairs = [term.function(**{name: known[name] for name in term.needs}) for term in loss_terms]
        sums, weights = zip(*pairs, strict=True)
        return jnp.stack(sums), jnp.stack(weights)

    def with_teacher(rows: dict[str, jax.Array], state: TrainState) -> dict[str, jax.Array]:
        if not any("teacher_logits" in term.needs for term in loss_terms):
            return rows
        teacher_logits = jnp.asarray(model.apply(state.ema_variables(), rows["other"], train=False))
        return rows | {"teacher_logits": jax.lax.stop_gradient(teacher_logits)}

    def train_step(
        state: TrainState, source: tiles.Tiles | tiles.Batch, plan: jax.Array, knobs: Knobs
    ) -> tuple[TrainState, metrics.StepMetrics]:
        rows, counts = see(cut(source, plan), plan, knobs.key_data)

        def apply(params: Any, batch_stats: Any, part: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            keys = part["dropout_keys"]
            return model.apply(variables, part["view"], train=True, dropout_keys=keys, mutable=["batch_stats"])

        # A term's weight comes from the batch, whatever the logits are: it is known, of the global batch, beforehand.
        logits = jax.eval_shape(apply, state.params, state.batch_stats, rows)[0]
        blank = jnp.zeros(logits.shape, logits.dtype)
        weight_sums = jax.lax.psum(evaluate_terms(rows | {"teacher_logits": blank}, blank, knobs)[1], parallel.AXIS)
        # Nothing of it in the whole batch: sum and gradient are 0, and so is what they are divided by.
        shares = terms.weights_at(knobs.schedules, state.step) / jnp.where(weight_sums > 0, weight_sums, 1)

        def local_loss(
            params: Any, batch_stats: Any, part: dict[str, jax.Array]
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, changed = apply(params, batch_stats, part)
            sums, _ = evaluate_terms(with_teacher(part, state), logits, knobs)
            correct = jnp.sum((jnp.argmax(logits, -1) == part["labels"]) & (part["labels"] != IGNORE))
            return jnp.sum(shares * sums), (sums, correct, changed.get("batch_stats", {}))

        # This device's part of the loss, and its gradient, added up afterwards: the gradient of a psum would be too
        # large by the number of devices.
        batch_stats, size, added = state.batch_stats, len(plan) // accumulation, None
        for start in range(0, len(plan), size):
            part = {name: array[start : start + size] for name, array in rows.items()}
            (loss, (sums, correct, batch_stats)), grads = jax.value_and_grad(local_loss, has_aux=True)(
                state.params, batch_stats, part
            )
            one_more = grads, loss, sums, correct
            added = one_more if added is None else jax.tree.map(jnp.add, added, one_more)
            # The next micro-batch waits for this one, so that only one's activations are there.
            added, batch_stats, rows = jax.lax.optimization_barrier((added, batch_stats, rows))
        unlabelled_crops = jnp.sum(counts.sum(-1) == 0)
        (grads, loss, sums, correct), counts, unlabelled_crops, crops = jax.lax.psum(
            (added, counts.sum(0), unlabelled_crops, len(plan)), parallel.AXIS
        )
        labelled, grad_norm, one = counts.sum(), optax.tree.norm(grads), jnp.float32(1)
        measured = {
            "loss": Average(loss, one),
            **{
                f"loss/{term.name}": Average(total, weight)
                for term, total, weight in zip(loss_terms, sums, weight_sums, strict=True)
            },
            "accuracy": Average(correct, labelled),
            "grad_norm": Average(grad_norm, one),
            "labelled_pixels": Average(labelled, one),
            **{f"labelled_pixels/{name}": Average(count, one) for name, count in zip(class_names, counts, strict=True)},
            "unlabelled_crops": Average(unlabelled_crops, crops),
        }
        new = _updated(state, grads, batch_stats, tx, ema_decay)
        # Where it is not finite nothing of the update is kept; the host counts such steps, and ends the run.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        return jax.tree.map(lambda x, old: jnp.where(finite, x, old), new, state)._replace(step=new.step), measured

    return train_step


def _updated(
    state: TrainState, grads: Any, batch_stats: Any, tx: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))

    def towards(mean: jax.Array, new: jax.Array) -> jax.Array:
        return mean + (1 - decay).astype(mean.dtype) * (new - mean)

    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=jax.tree.map(towards, state.ema_params, params),
        ema_batch_stats=jax.tree.map(towards, state.ema_batch_stats, batch_stats),
    )


def make_eval_step(
    model: nn.Module, bands: datasets.Bands = datasets.RGB
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """`eval_step(variables, images [b, h, w, bands]) -> logits float32 [b, h, w, C]` for one device."""

    def eval_step(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        logits = model.apply(variables, tiles.scale_image(images, bands), train=False)
        return jnp.asarray(logits)

    return eval_step

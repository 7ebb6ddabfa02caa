import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pcejax import accuracy, augment, datasets, input_pipeline, models, optimizer, parallel, steps, terms, tiles
from pcejax.errors import UserError
from pcejax.jax_peer import flat
from pcejax.legend import IGNORE

CLASSES, SIDE, STEPS = 3, 32, 4
ABOUT = {"class_weights": {"a": 1.0, "b": 2.0, "c": 0.5}}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed: pip install .[bench]"
)


def config_of(**model):
    config = default.get_config()
    config.model.update({"depth": 2, "width": 4, "pretrained": False} | model)
    config.data.update(crop=SIDE, tiles="host", anchored_share=0.5)
    # Light is changed in float64 where that is on, and crops come in float32.
    config.augment.update(brightness=0.0, color=0.0)
    config.loss.balance_crops = True
    # All of it at work: the norm is cut, decay and the encoder's factor are felt, the rate rises and falls.
    config.optimizer.update(
        learning_rate=0.03, warmup_steps=1, weight_decay=0.3, encoder_lr_factor=0.5, grad_clip_norm=0.1
    )
    config.train.update(num_steps=STEPS, batch_size=4, ema_decay=0.3)
    return config


def tile_set_of():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 40, 3), np.uint8) for _ in range(2)]
    labels = [np.where(rng.random((48, 40)) < 0.05, rng.integers(0, CLASSES, (48, 40)), IGNORE) for _ in range(2)]
    weights = [np.array([1.0, 3.0, 0.5], np.float32), np.ones(CLASSES, np.float32)]
    return tiles.TileSet(
        ["0", "1"], images, [label.astype(np.uint8) for label in labels], weights, [None] * 2, [None] * 2, [[]] * 2
    )


def train_ours(state, config, tile_set):
    tx = optimizer.make_optimizer(config.optimizer, STEPS, config.model.frozen_stages)
    step = steps.make_train_step(
        models.create_model(config.model, CLASSES, axis_name=parallel.AXIS),
        tx,
        terms.make_terms(config.loss),
        functools.partial(augment.augment, **config.augment),
        class_names=list(ABOUT["class_weights"]),
        cut=lambda batch, plan: batch,
        ema_decay=config.train.ema_decay,
        balance_crops=config.loss.balance_crops,
    )
    step = jax.jit(jax.vmap(step, (None, 0, 0, None), (None, None), axis_name=parallel.AXIS))
    knobs = steps.Knobs(
        jax.random.key_data(jax.random.key(config.seed)),
        jnp.array(list(ABOUT["class_weights"].values())),
        jnp.array(terms.make_schedules(config.loss)),
    )
    for plan, batch in input_pipeline.batches(config, tile_set, 0):
        state, _ = step(state, jax.tree.map(lambda x: x[None], batch), plan[None], knobs)
    return state


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "batch"},
        {"norm": "group", "upsample": "bilinear", "frozen_stages": 1},
        {"norm": "batch", "encoder": "efficientnet-lite0", "frozen_stages": 1},
        {"norm": "batch", "encoder": "efficientnet-lite0", "frozen_statistics": True, "decoder": "none"},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_after_some_steps_torch_has_our_weights_statistics_and_their_means(model):
    config, tile_set = config_of(dtype="float64", **model), tile_set_of()
    with jax.enable_x64(True):
        state = accuracy.initial_state(config, CLASSES, datasets.RGB)
        state = jax.tree.map(lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
        # Not those of a fresh start, 0 and 1: what sees a window of zeros would lie on the edge of its ReLU6, where
        # rounding decides who learns.
        rng = np.random.default_rng(1)
        statistics = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.3, x.shape), state.batch_stats)
        state = state._replace(batch_stats=statistics, ema_batch_stats=statistics)
        crops = accuracy.crops(config, tile_set, ABOUT, datasets.RGB)
        arrays, told = accuracy.train_in_torch(state, config, crops, 3, "torch")
        theirs = accuracy.learnt(state, arrays, config)
        ours = train_ours(state, config, tile_set)
    assert len(told["loss"]) == STEPS == theirs.step == ours.step
    trees = ("params", "batch_stats", "ema_params", "ema_batch_stats")
    for tree in trees:
        before, found, expected = (flat(getattr(of, tree)) for of in (state, theirs, ours))
        assert found.keys() == expected.keys()
        for name in expected:
            # A step's own size is 0.01.
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-8, err_msg=f"{tree}/{name}")
        moved = {name for name in expected if np.abs(expected[name] - before[name]).max(initial=0) > 1e-4}
        assert bool(moved) == bool(expected)
    assert np.abs(flat(ours.params)["head/kernel"] - flat(ours.ema_params)["head/kernel"]).max() > 1e-3


def test_a_batch_without_labels_teaches_torch_nothing():
    config, tile_set = config_of(norm="group"), tile_set_of()
    config.optimizer.weight_decay = 0.0
    state = accuracy.initial_state(config, CLASSES, datasets.RGB)
    blank = (
        (image, np.full_like(label, IGNORE), np.zeros_like(weight))
        for image, label, weight in accuracy.crops(config, tile_set, ABOUT, datasets.RGB)
    )
    arrays, told = accuracy.train_in_torch(state, config, blank, 3, "torch")
    assert told["loss"] == [0.0] * STEPS
    for name, array in flat(state.params).items():
        np.testing.assert_array_equal(arrays[f"params/{name}"].astype(np.float32), array)


def test_a_process_that_fails_is_told():
    config = config_of(norm="group")
    state = accuracy.initial_state(config, CLASSES, datasets.RGB)
    with pytest.raises(UserError, match=r"seed 3: the process ended with 1; its error is above"):
        accuracy.train_in_torch(state, config, iter([]), 3, "seed 3")

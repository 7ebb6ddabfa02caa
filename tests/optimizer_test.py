import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from pcejax import models, optimizer


def config_of(**overrides):
    config = default.get_config().optimizer
    config.update(**{"learning_rate": 0.2, "warmup_steps": 10, "weight_decay": 0.5, "grad_clip_norm": 1.0, **overrides})
    return config


def make_params(norm="group"):
    config = default.get_config().model
    config.update(depth=1, width=2, norm=norm)
    image = jnp.zeros((1, 4, 4, 3))
    shapes = jax.eval_shape(lambda: models.create_model(config, 3).init(jax.random.key(0), image, train=False))
    return jax.tree.map(lambda shape: jnp.ones(shape.shape), shapes["params"])


def test_the_schedule_rises_linearly_to_its_peak_and_falls_as_a_cosine_to_zero():
    schedule = optimizer.make_schedule(config_of(), 110)
    for step, share in ((0, 0.0), (5, 0.5), (10, 1.0), (35, (1 + 0.5**0.5) / 2), (60, 0.5), (110, 0.0)):
        assert float(schedule(step)) == pytest.approx(0.2 * share, abs=1e-7)
    rates = [float(schedule(step)) for step in range(111)]
    assert max(rates) == rates[10]
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
def test_a_run_shorter_than_its_warm_up_still_has_a_schedule(num_steps):
    schedule = optimizer.make_schedule(config_of(), num_steps)
    assert float(schedule(num_steps - 1)) == pytest.approx(0.2)
    assert float(schedule(num_steps)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("norm", models.blocks.NORMS)
def test_kernels_alone_are_marked_for_decay(norm):
    marks = flax.traverse_util.flatten_dict(optimizer.decayed(make_params(norm)), sep="/")
    assert {name: mark for name, mark in marks.items() if mark != name.endswith("kernel")} == {}
    assert any(marks.values())
    assert not all(marks.values())


def steps_with_gradient(gradient, params, config, steps, frozen_stages=0):
    tx = optimizer.make_optimizer(config, 100, frozen_stages)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, gradient), params), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def test_decay_shrinks_kernels_by_the_rate_and_leaves_scales_and_biases():
    after = flax.traverse_util.flatten_dict(
        steps_with_gradient(0.0, make_params(), config_of(warmup_steps=0), 1), sep="/"
    )
    for name, value in after.items():
        # Learning rate 0.2 times decay 0.5 of a weight 1, decoupled from the gradient.
        np.testing.assert_allclose(value, 0.9 if name.endswith("kernel") else 1.0, rtol=1e-6, err_msg=name)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(5)}
    tx = optimizer.make_optimizer(config_of(grad_clip_norm=0.3), 100)
    grads = {"a": jnp.full((2, 2), 40.0), "b": jnp.zeros(5)}
    _, state = tx.update(grads, tx.init(params), params)
    first_moment = optax.tree.get(state, "mu")
    # Adam keeps a tenth of the first gradient; clipped, its norm is 0.3.
    assert float(optax.tree.norm(first_moment)) == pytest.approx(0.03, rel=1e-5)
    small = jax.tree.map(lambda g: g / 1000, grads)
    _, state = tx.update(small, tx.init(params), params)
    assert float(optax.tree.norm(optax.tree.get(state, "mu"))) == pytest.approx(0.008, rel=1e-5)


def test_the_first_update_of_a_warm_up_moves_nothing():
    params = make_params()
    after = steps_with_gradient(1.0, params, config_of(), 1)
    jax.tree.map(np.testing.assert_array_equal, after, params)
    moved = steps_with_gradient(1.0, params, config_of(), 2)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).all()), moved, params)))


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def test_the_encoder_moves_by_its_factor_and_the_rest_as_without():
    params, config = make_params(), config_of(warmup_steps=0)
    whole, tenth = (
        flat(steps_with_gradient(0.3, params, config_of(warmup_steps=0, encoder_lr_factor=factor), 1))
        for factor in (1.0, 0.1)
    )
    assert config.encoder_lr_factor == 1
    assert {name.split("/")[0] == "encoder" for name in whole} == {True, False}
    for name in whole:
        expected = 0.1 if name.startswith("encoder/") else 1
        np.testing.assert_allclose(1 - tenth[name], expected * (1 - whole[name]), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("stages", "frozen"), [(1, ("encoder/level_0/",)), (2, ("encoder/",))])
def test_frozen_levels_stay_to_the_bit_and_have_no_moments(stages, frozen):
    params = make_params()
    after = flat(steps_with_gradient(1.0, params, config_of(warmup_steps=0), 3, stages))
    for name, before in flat(params).items():
        assert bool((after[name] == before).all()) == name.startswith(frozen), name
    moments = optax.tree.get(optimizer.make_optimizer(config_of(), 100, stages).init(params), "mu")
    moving = sum(value.size for name, value in flat(params).items() if not name.startswith(frozen))
    assert sum(leaf.size for leaf in jax.tree.leaves(moments)) == moving


def test_a_model_without_an_encoder_has_nothing_frozen():
    assert optimizer.roles({"a": jnp.ones(2), "b": {"c": jnp.ones(2)}}, 3) == {"a": "moving", "b": {"c": "moving"}}

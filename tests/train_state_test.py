import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pcejax.train_state import TrainState, create_train_state, named_key


class Small(nn.Module):
    batch_norm: bool

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(2)(x)
        return nn.BatchNorm(use_running_average=not train)(x) if self.batch_norm else x


def make_state(batch_norm=True, seed=0, initial=None):
    return create_train_state(Small(batch_norm), optax.adam(1e-3), jax.random.key(seed), (1, 4, 4, 3), initial)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_state_before_the_first_step_holds_arrays_alone(batch_norm):
    state = make_state(batch_norm)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert state.step == 0
    assert state.step.dtype == jnp.int32
    assert bool(state.batch_stats) == batch_norm
    assert jax.tree.structure(state.opt_state[0].mu) == jax.tree.structure(state.params)


def test_the_running_means_start_at_what_they_are_means_of():
    state = make_state()
    for mean, value in ((state.ema_params, state.params), (state.ema_batch_stats, state.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, mean, value)


def test_given_variables_replace_the_initialised_ones_and_start_the_running_means():
    kernel, mean = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0])
    initial = {"params": {"Dense_0": {"kernel": kernel}}, "batch_stats": {"BatchNorm_0": {"mean": mean}}}
    state, usual = make_state(initial=initial), make_state()
    for params, stats in ((state.params, state.batch_stats), (state.ema_params, state.ema_batch_stats)):
        np.testing.assert_array_equal(params["Dense_0"]["kernel"], kernel)
        np.testing.assert_array_equal(stats["BatchNorm_0"]["mean"], mean)
    assert state.params["Dense_0"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(state.batch_stats["BatchNorm_0"]["var"], usual.batch_stats["BatchNorm_0"]["var"])
    assert jax.tree.structure(state) == jax.tree.structure(usual)


@pytest.mark.parametrize(
    ("initial", "told"),
    [
        (
            {"params": {"Dense_1": {"kernel": np.zeros((3, 2))}}},
            "params/Dense_1/kernel: the model has no such variable",
        ),
        ({"params": {"Dense_0": {"kernel": np.zeros((2, 3))}}}, r"kernel: shape \(2, 3\); expected \(3, 2\)"),
        ({"batch_stats": {"BatchNorm_0": {"mean": np.zeros(1)}}}, r"mean: shape \(1,\); expected \(2,\)"),
    ],
)
def test_given_variables_that_do_not_fit_are_refused(initial, told):
    with pytest.raises(ValueError, match=told):
        make_state(initial=initial)


def test_what_is_scored_is_the_running_means():
    state = TrainState(0, "params", "stats", "optimizer", "mean of params", "mean of stats")
    assert state.ema_variables() == {"params": "mean of params", "batch_stats": "mean of stats"}


def test_the_seed_alone_says_where_training_starts():
    jax.tree.map(np.testing.assert_array_equal, make_state().params, make_state().params)
    kernels = [make_state(seed=seed).params["Dense_0"]["kernel"] for seed in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


def test_each_name_is_a_stream_of_its_own():
    keys = [named_key(jax.random.key(seed), name) for seed in (0, 1) for name in ("init", "augment", "dropout")]
    data = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert len(data) == 6
    again = named_key(jax.random.key(0), "augment")
    np.testing.assert_array_equal(jax.random.key_data(again), jax.random.key_data(keys[1]))


def test_a_stream_stays_the_same_for_ever():
    # A change here gives every published seed another run.
    for name, crc in (("init", 0xC674E474), ("augment", 0xEB167A19)):
        expected = jax.random.fold_in(jax.random.key(3), crc)
        np.testing.assert_array_equal(
            jax.random.key_data(named_key(jax.random.key(3), name)), jax.random.key_data(expected)
        )

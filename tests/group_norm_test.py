import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax.group_norm import group_norm


def plain(x, scale, bias, groups):
    return nn.GroupNorm(groups, dtype=x.dtype).apply({"params": {"scale": scale, "bias": bias}}, x)


def arguments(shape, dtype, mean=0.5):
    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.normal(mean, 1, shape), dtype) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(1, 0.5, shape[-1:]), jnp.promote_types(dtype, jnp.float32)) for _ in range(2))
    return x, scale, bias, gradient


@pytest.mark.parametrize(("shape", "groups"), [((2, 4, 6, 8), 8), ((3, 5, 7, 12), 4), ((1, 1, 3, 6), 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4), ("bfloat16", 0.05)])
def test_value_and_gradients_are_those_of_flax(shape, groups, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        *inputs, gradient = arguments(shape, dtype)
        for norm in (jax.jit(group_norm, static_argnums=3), group_norm):
            got, got_back = jax.vjp(lambda *args, norm=norm: norm(*args, groups), *inputs)
            expected, expected_back = jax.vjp(lambda *args: plain(*args, groups), *inputs)
            pairs = zip((got, *got_back(gradient)), (expected, *expected_back(gradient)), strict=True)
            for ours, theirs in pairs:
                assert ours.dtype == theirs.dtype
                largest = np.abs(np.asarray(theirs, np.float64)).max()
                difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()
                assert difference <= tolerance * largest


def test_groups_of_an_image_have_mean_0_and_variance_1():
    x, *_ = arguments((2, 8, 8, 6), "float32", mean=3.0)
    normed = np.asarray(group_norm(x, jnp.ones(6), jnp.zeros(6), 3)).reshape(2, 64, 3, 2)
    np.testing.assert_allclose(normed.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normed.std((1, 3)), 1, atol=1e-4)


def test_an_image_of_one_value_stays_finite():
    x = jnp.full((1, 4, 4, 2), 7.0)
    value, back = jax.vjp(lambda x: group_norm(x, jnp.ones(2), jnp.zeros(2), 1), x)
    np.testing.assert_allclose(value, 0, atol=1e-2)
    assert np.isfinite(back(jnp.ones_like(x))[0]).all()

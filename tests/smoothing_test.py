import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from runs_for_tests import config_of

from pcejax import smoothing, steps, tiled_inference
from pcejax.errors import UserError


@pytest.mark.parametrize("sigma", [0.8, 3.0, 9.5])
def test_probabilities_are_gaussian_means(sigma):
    logits = 3 * np.random.default_rng(0).normal(size=(2, 80, 64, 4)).astype(np.float32)
    p = jax.nn.softmax(smoothing.smooth(jnp.asarray(logits), jnp.ones(logits.shape[:3], bool), sigma))
    inside = np.ones_like(logits)
    weighed = scipy.ndimage.gaussian_filter(jax.nn.softmax(logits), (0, sigma, sigma, 0), mode="constant", truncate=8)
    inside = scipy.ndimage.gaussian_filter(inside, (0, sigma, sigma, 0), mode="constant", truncate=8)
    np.testing.assert_allclose(p, weighed / inside, atol=0.01 if sigma > 4 else 1e-4)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_an_edge_stays_where_it_is_and_an_even_map_as_it_is():
    logits = np.zeros((1, 64, 64, 2), np.float32)
    logits[:, :, :32, 0], logits[:, :, 32:, 1] = 20, 20
    p = np.asarray(jax.nn.softmax(smoothing.smooth(jnp.asarray(logits), jnp.ones(logits.shape[:3], bool), 8.0)))
    assert (p[..., :32, 0] > 0.5).all()
    assert (p[..., 32:, 1] > 0.5).all()
    even = np.full((1, 40, 40, 3), [0.0, 1.0, 2.0], np.float32)
    found = jax.nn.softmax(smoothing.smooth(jnp.asarray(even), jnp.ones(even.shape[:3], bool), 8.0))
    np.testing.assert_allclose(found, jax.nn.softmax(even), rtol=1e-5)


def test_an_image_under_sigma_is_nearly_its_mean():
    logits = 3 * np.random.default_rng(0).normal(size=(1, 8, 5, 3)).astype(np.float32)
    found = jax.nn.softmax(smoothing.smooth(jnp.asarray(logits), jnp.ones(logits.shape[:3], bool), 100.0))
    mean = np.asarray(jax.nn.softmax(logits)).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found, np.broadcast_to(mean, found.shape), atol=1e-3)


def test_a_class_that_no_neighbour_has_stays_finite():
    logits = np.zeros((1, 16, 16, 2), np.float32)
    logits[..., 1] = -1e4
    assert np.isfinite(smoothing.smooth(jnp.asarray(logits), jnp.ones(logits.shape[:3], bool), 2.0)).all()


def test_pixels_without_data_have_no_say():
    """A collar that the net is sure of, as it is of anything black."""
    logits = np.zeros((1, 60, 60, 2), np.float32)
    logits[:, :, :30, 0], logits[:, :, 30:, 1] = 0.5, 5
    has_data = np.zeros((1, 60, 60), bool)
    has_data[:, :, :30] = True
    found = np.asarray(smoothing.smooth(jnp.asarray(logits), jnp.asarray(has_data), 6.0))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(jax.nn.softmax(found)[has_data], jax.nn.softmax(logits)[has_data], atol=1e-5)
    everywhere = np.asarray(smoothing.smooth(jnp.asarray(logits), jnp.ones((1, 60, 60), bool), 6.0))
    assert (everywhere[0, :, 28, 1] > everywhere[0, :, 28, 0]).all()


def test_no_smoothing_leaves_the_step_as_it_is():
    step = steps.make_eval_step(None)
    assert smoothing.smoothed(step, 0.0) is step


@pytest.mark.parametrize(("scale", "sigma"), [(1.0, 8.0), (0.5, 4.0)])
def test_maps_are_smoothed_in_metres(tmp_path, scale, sigma):
    config = config_of(tmp_path, **{"data.scale": scale, "inference.smoothing_m": 4.0, "inference.batch_size": 2})
    with config.unlocked():
        config.inference.window, config.inference.overlap = 64, 16
    side = round(64 / scale)

    def eval_step(variables, images):
        return 8 * jnp.stack([images[..., 0] > 127, images[..., 0] <= 127], -1).astype(jnp.float32)

    image = np.ones((side, side, 3), np.uint8)
    image[side // 4 : side // 2] = 255
    found = tiled_inference.map_image(tiled_inference.make_mapper(eval_step, config, metres=0.5), {}, image)
    window = image[:: round(1 / scale), :: round(1 / scale)][None]
    expected = np.asarray(smoothing.smooth(eval_step({}, window), jnp.ones(window.shape[:3], bool), sigma))[0]
    at = slice(None, None, round(1 / scale))
    np.testing.assert_allclose(found[at, at], expected, atol=0.5 if scale < 1 else 1e-4)


def test_where_a_pixels_size_is_unknown_nothing_is_smoothed(tmp_path):
    config = config_of(tmp_path, **{"inference.smoothing_m": 4.0, "inference.batch_size": 2})
    with config.unlocked():
        config.inference.window, config.inference.overlap = 64, 16
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mapped = tiled_inference.make_mapper(lambda _, images: images[..., :2].astype(jnp.float32), config)
    factor = round(1 / config.data.scale)
    found = tiled_inference.map_image(mapped, {}, np.repeat(np.repeat(image, factor, 0), factor, 1))
    at = slice(factor // 2, None, factor)
    assert np.abs(found[at, at] - image[..., :2]).max() <= (0 if factor == 1 else 130)


def test_a_negative_smoothing_is_refused(tmp_path):
    config = config_of(tmp_path, **{"inference.smoothing_m": -1.0})
    with pytest.raises(UserError, match=r"inference.smoothing_m=-1.0; expected 0 or more metres"):
        tiled_inference.make_mapper(steps.make_eval_step(None), config)


def test_a_smoothing_that_windows_do_not_overlap_enough_for_is_refused(tmp_path):
    config = config_of(tmp_path, **{"inference.smoothing_m": 12.0, "data.scale": 0.5})
    with config.unlocked():
        config.inference.window, config.inference.overlap = 64, 16
    told = (
        r"inference.smoothing_m=12.0 is 60 pixels of 0.2 m; expected at most 8, half of inference.overlap=16; lower "
        r"it, train at a lower data.scale, or let windows overlap more"
    )
    with pytest.raises(UserError, match=told):
        tiled_inference.make_mapper(steps.make_eval_step(None), config, metres=0.1)
    tiled_inference.make_mapper(steps.make_eval_step(None), config, metres=0.75)

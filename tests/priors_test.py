import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from runs_for_tests import config_of

from pcejax import priors, smoothing, tiled_inference

SHARES = np.array([0.8, 0.15, 0.05])


def scene(shares: np.ndarray, seed: int = 0, side: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Classes `[side, side]` and logits `[1, side, side, 3]` of Bayes' rule under equal priors: normals 1.2 apart."""
    generator = np.random.default_rng(seed)
    classes = generator.choice(3, (side, side), p=shares)
    centres = 1.2 * np.array([[0, 0], [1, 0], [0.5, 0.87]])
    at = centres[classes] + generator.normal(size=(side, side, 2))
    return classes, -((at[None, :, :, None] - centres) ** 2).sum(-1).astype(np.float32) / 2


def shares_of(logits: np.ndarray, adapted: np.ndarray) -> np.ndarray:
    """What equal shares became, `[C]`."""
    moved = np.asarray(adapted[0, 0, 0]) - scipy.special.log_softmax(logits[0, 0, 0])
    return scipy.special.softmax(moved)


def test_a_scenes_shares_are_found_and_more_pixels_are_right():
    classes, logits = scene(SHARES)
    has_data = jnp.ones(logits.shape[:3], bool)
    adapted = np.asarray(priors.adapt(jnp.asarray(logits), has_data))
    np.testing.assert_allclose(scipy.special.logsumexp(adapted, -1), 0, atol=1e-5)
    np.testing.assert_allclose(shares_of(logits, adapted), SHARES, atol=0.08)  # of 400 pixels
    right, before, best = ((x.argmax(-1)[0] == classes).mean() for x in (adapted, logits, logits + np.log(SHARES)))
    assert before + 0.1 < right
    assert right > best - 0.01


def test_the_shares_are_those_of_expectation_maximisation():
    _, logits = scene(SHARES)
    p, expected = scipy.special.softmax(logits[0, ::8, ::8].reshape(-1, 3).astype(float), -1), np.ones(3) / 3
    for _ in range(30):
        joint = p * expected
        expected = (joint / joint.sum(1, keepdims=True)).mean(0)
    found = shares_of(logits, np.asarray(priors.adapt(jnp.asarray(logits), jnp.ones(logits.shape[:3], bool))))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_each_image_has_its_own_shares():
    one, other = scene(SHARES)[1], scene(SHARES[::-1])[1]
    has_data = jnp.ones((2, *one.shape[1:3]), bool)
    together = priors.adapt(jnp.concatenate([one, other]), has_data)
    for logits, found in zip((one, other), together, strict=True):
        np.testing.assert_allclose(found, priors.adapt(jnp.asarray(logits), has_data[:1])[0], atol=1e-5)


def test_pixels_without_data_tell_nothing():
    _, logits = scene(SHARES)
    without = logits.copy()
    without[:, :, 80:] = (0, 9, 0)
    has_data = np.ones(logits.shape[:3], bool)
    has_data[:, :, 80:] = False
    found = priors.adapt(jnp.asarray(without), jnp.asarray(has_data))
    expected = priors.adapt(jnp.asarray(logits[:, :, :80]), jnp.ones((1, 160, 80), bool))
    np.testing.assert_allclose(found[:, :, :80], expected, atol=1e-5)
    blank = priors.adapt(jnp.asarray(logits), jnp.zeros_like(has_data))
    np.testing.assert_allclose(blank, jax.nn.log_softmax(logits), atol=1e-5)


def test_a_class_that_is_nowhere_stays_finite():
    logits = np.zeros((1, 16, 16, 3), np.float32)
    logits[..., 1] = -1e4
    assert np.isfinite(priors.adapt(jnp.asarray(logits), jnp.ones((1, 16, 16), bool))).all()


@pytest.mark.parametrize("smoothing_m", [0.0, 4.0])
def test_maps_follow_each_windows_shares_and_are_smoothed_after(tmp_path, smoothing_m):
    named = {"inference.adapt_priors": True, "inference.smoothing_m": smoothing_m, "data.scale": 1.0}
    config = config_of(tmp_path, **named, **{"inference.window": 64, "inference.overlap": 16})
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image[:, :30] = 0  # without data

    def eval_step(variables, images):
        return 4 * images.astype(jnp.float32) / 255

    found = tiled_inference.map_image(tiled_inference.make_mapper(eval_step, config, metres=1.0), {}, image)
    has_data = jnp.asarray(image.any(-1)[None])
    expected = priors.adapt(eval_step({}, image[None]), has_data)
    if smoothing_m:
        expected = smoothing.smooth(expected, has_data, smoothing_m)
    np.testing.assert_allclose(found, expected[0], atol=1e-4)

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax.legend import IGNORE
from pcejax.losses import partial_cross_entropy

CLASSES = 5
SHAPE = (2, 6, 7)
WEIGHTS = (0.2, 1.0, 3.0, 0.5, 1.7)

grid = pytest.mark.parametrize(
    ("weights", "smoothing", "gamma", "soft"),
    list(itertools.product([None, WEIGHTS], [0.0, 0.1], [0.0, 0.5, 2.0], [False, True])),
)


def random_batch(seed=0, shape=SHAPE, labelled=0.3, soft=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(*shape, CLASSES)).astype(np.float32)
    mask = rng.random(shape) < labelled
    labels = np.where(mask, rng.integers(0, CLASSES, shape), IGNORE).astype(np.uint8)
    return logits, labels, (mask * rng.random(shape)).astype(np.float32) if soft else mask


def slow_reference(logits, labels, mask, weights=None, smoothing=0.0, gamma=0.0):
    """Pixel by pixel in float64, from the definition of the cross entropy with a smoothed target."""
    weights = np.ones(logits.shape[-1]) if weights is None else np.array(weights, np.float64)
    loss_sum = weight_sum = 0.0
    for place in np.argwhere(mask):
        place = tuple(place)
        exponentials = np.exp(logits[place].astype(np.float64))
        p = exponentials / exponentials.sum()
        target = np.full(len(p), smoothing / len(p))
        target[labels[place]] += 1.0 - smoothing
        cross_entropy = -(weights * target * np.log(p)).sum()
        loss_sum += float(mask[place]) * (1.0 - p[labels[place]]) ** gamma * cross_entropy
        weight_sum += float(mask[place]) * weights[labels[place]]
    return loss_sum, weight_sum


def arguments_of(weights, smoothing, gamma):
    weights = None if weights is None else jnp.array(weights)
    return {"class_weights": weights, "label_smoothing": smoothing, "focal_gamma": gamma}


def value_and_gradient(batch, **arguments):
    logits, labels, mask = (jnp.asarray(array) for array in batch)

    def loss(logits):
        return partial_cross_entropy(logits, labels, mask, **arguments)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(logits)


@grid
def test_equals_the_slow_reference_and_only_labelled_pixels_teach(weights, smoothing, gamma, soft):
    batch = random_batch(soft=soft)
    (loss_sum, weight_sum), gradient = value_and_gradient(batch, **arguments_of(weights, smoothing, gamma))
    expected_loss, expected_weight = slow_reference(*batch, weights, smoothing, gamma)
    assert loss_sum.dtype == weight_sum.dtype == jnp.float32
    assert float(loss_sum) == pytest.approx(expected_loss, rel=1e-6)
    assert float(weight_sum) == pytest.approx(expected_weight, rel=1e-6)
    # The labels of unlabelled pixels are 255: nothing of them may leak as NaN or otherwise.
    labelled = batch[2] != 0
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~labelled] == 0).all()
    assert (np.abs(gradient).sum(-1)[labelled] > 0).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_gradient_is_the_slope_of_the_reference(gamma):
    logits, labels, mask = random_batch(shape=(1, 2, 3), labelled=0.6)
    _, gradient = value_and_gradient((logits, labels, mask), **arguments_of(WEIGHTS, 0.1, gamma))
    for place in np.ndindex(*logits.shape):
        step = np.zeros(logits.shape)
        step[place] = 1e-5
        above, below = (slow_reference(logits + s, labels, mask, WEIGHTS, 0.1, gamma)[0] for s in (step, -step))
        assert float(gradient[place]) == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)


def test_weighted_and_smoothed_by_hand():
    # One pixel, p = (1/4, 3/4), class 1, weights (2, 3), smoothing 0.2: 0.1 of the target on class 0, 0.9 on class 1.
    # 0.1 * 2 * ln 4 + 0.9 * 3 * ln(4/3) = 0.2772589 + 0.7767416 = 1.0540005, to be divided by the weight 3.
    logits = jnp.log(jnp.array([1.0, 3.0]))[None, None, None]
    arguments = {"class_weights": jnp.array([2.0, 3.0]), "label_smoothing": 0.2}
    label, mask = jnp.ones((1, 1, 1), jnp.uint8), jnp.ones((1, 1, 1), bool)
    loss_sum, weight_sum = partial_cross_entropy(logits, label, mask, **arguments)
    assert float(loss_sum) == pytest.approx(1.0540005, rel=1e-6)
    assert float(weight_sum) == 3.0
    # Focal with gamma 2: times (1 - 3/4)^2.
    focal_sum, focal_weight = partial_cross_entropy(logits, label, mask, **arguments, focal_gamma=2.0)
    assert float(focal_sum) == pytest.approx(1.0540005 / 16, rel=1e-6)
    assert float(focal_weight) == 3.0


@pytest.mark.parametrize("labels_value", [0, IGNORE])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_no_labelled_pixel_gives_zeros(labels_value, gamma):
    batch = random_batch()[0], np.full(SHAPE, labels_value, np.uint8), np.zeros(SHAPE, bool)
    sums, gradient = value_and_gradient(batch, **arguments_of(WEIGHTS, 0.1, gamma))
    assert [float(s) for s in sums] == [0.0, 0.0]
    assert (np.asarray(gradient) == 0).all()


def test_labels_are_not_read_where_the_mask_is_zero():
    logits, labels, mask = random_batch()
    expected = value_and_gradient((logits, labels, mask))
    for value in (0, CLASSES, 254):
        got = value_and_gradient((logits, np.where(mask, labels, value).astype(np.uint8), mask))
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    signed = np.where(mask, labels, -1).astype(np.int32)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient((logits, signed, mask)), expected)


@grid
def test_padding_changes_nothing(weights, smoothing, gamma, soft):
    logits, labels, mask = random_batch(soft=soft)
    arguments = arguments_of(weights, smoothing, gamma)
    expected = partial_cross_entropy(*map(jnp.asarray, (logits, labels, mask)), **arguments)
    sides = ((0, 1), (2, 0), (0, 3))
    padded = [
        np.pad(logits, (*sides, (0, 0)), constant_values=7.0),
        np.pad(labels, sides, constant_values=IGNORE),
        np.pad(mask, sides),
    ]
    got = partial_cross_entropy(*map(jnp.asarray, padded), **arguments)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_sums_of_micro_batches_are_the_sums_of_the_batch():
    batch = random_batch(shape=(6, 5, 5))
    arguments = arguments_of(WEIGHTS, 0.1, 2.0)
    whole, gradient = value_and_gradient(batch, **arguments)
    # Parts of unequal size, so of unequal weight.
    parts = [value_and_gradient([array[rows] for array in batch], **arguments) for rows in (slice(0, 1), slice(1, 6))]
    np.testing.assert_allclose(np.sum([sums for sums, _ in parts], 0), whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([g for _, g in parts]), gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_weights_are_no_weights(smoothing):
    batch = [jnp.asarray(array) for array in random_batch()]
    plain = partial_cross_entropy(*batch, label_smoothing=smoothing)
    ones = partial_cross_entropy(*batch, label_smoothing=smoothing, class_weights=jnp.ones(CLASSES))
    np.testing.assert_array_equal(ones, plain)
    threes = partial_cross_entropy(*batch, label_smoothing=smoothing, class_weights=jnp.full(CLASSES, 3.0))
    assert float(threes[0] / threes[1]) == pytest.approx(float(plain[0] / plain[1]), rel=1e-6)


def test_a_bool_mask_is_a_soft_mask_of_ones():
    logits, labels, mask = map(jnp.asarray, random_batch())
    soft = partial_cross_entropy(logits, labels, mask.astype(jnp.float32), focal_gamma=1.0)
    np.testing.assert_array_equal(soft, partial_cross_entropy(logits, labels, mask, focal_gamma=1.0))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_huge_logits_give_finite_values_and_gradients(gamma, dtype):
    logits, labels, mask = random_batch(labelled=1.0)
    huge = jnp.asarray(np.where(logits > 0, 1e4, -1e4), dtype)
    (loss_sum, weight_sum), gradient = value_and_gradient((huge, labels, mask), **arguments_of(WEIGHTS, 0.1, gamma))
    assert loss_sum.dtype == weight_sum.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.isfinite(loss_sum)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_bfloat16_logits_are_computed_in_float32():
    logits, labels, mask = random_batch()
    rounded = jnp.asarray(logits, jnp.bfloat16)
    expected, _ = slow_reference(np.asarray(rounded, np.float32), labels, mask, WEIGHTS, 0.1, 2.0)
    (loss_sum, _), _ = value_and_gradient((rounded, labels, mask), **arguments_of(WEIGHTS, 0.1, 2.0))
    assert float(loss_sum) == pytest.approx(expected, rel=1e-6)


def test_float64_logits_are_computed_in_float64():
    with jax.enable_x64(True):
        logits, labels, mask = random_batch()
        logits = logits.astype(np.float64)
        (loss_sum, weight_sum), _ = value_and_gradient((logits, labels, mask), **arguments_of(WEIGHTS, 0.1, 2.0))
        assert loss_sum.dtype == weight_sum.dtype == jnp.float64
        expected = slow_reference(logits, labels, mask, WEIGHTS, 0.1, 2.0)
        np.testing.assert_allclose([loss_sum, weight_sum], expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("labels", "mask"),
    [((2, 6, 7, 1), (2, 6, 7)), ((2, 6, 7), (2, 6, 7, 1)), ((2, 6, 7), (1, 6, 7)), ((6, 7), (6, 7))],
)
def test_shapes_that_do_not_fit_are_refused_with_all_three(labels, mask):
    with pytest.raises(ValueError, match=r"logits \(2, 6, 7, 5\), labels .* label_mask .* expected") as error:
        partial_cross_entropy(jnp.zeros((*SHAPE, CLASSES)), jnp.zeros(labels, jnp.uint8), jnp.ones(mask, bool))
    assert str(labels) in str(error.value)
    assert str(mask) in str(error.value)

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax.legend import IGNORE
from pcejax.losses import (
    all_pixel_cross_entropy,
    hard_pixel_cross_entropy,
    partial_cross_entropy,
    partial_dice,
    unknown_class_cross_entropy,
)

CLASSES = 5
SHAPE = (2, 6, 7)
WEIGHTS = (0.2, 1.0, 3.0, 0.5, 1.7)

# In these only labelled pixels teach, and only they weigh; in the last two every pixel weighs.
FAMILY = {
    "pCE": partial_cross_entropy,
    "smoothed and focal": partial(partial_cross_entropy, label_smoothing=0.1, focal_gamma=2.0),
    "focal below 1": partial(partial_cross_entropy, focal_gamma=0.5),
    "unweighted mean": partial(partial_cross_entropy, weighted_mean=False),
    "hard pixels": partial(hard_pixel_cross_entropy, share=0.5, least=2),
    "Dice": partial_dice,
}
ALL = {**FAMILY, "all pixels": all_pixel_cross_entropy, "unknown class": unknown_class_cross_entropy}

grid = pytest.mark.parametrize(
    ("weights", "smoothing", "gamma", "soft"),
    list(itertools.product([None, WEIGHTS], [0.0, 0.1], [0.0, 0.5, 2.0], [False, True])),
)
family = pytest.mark.parametrize("name", FAMILY)
every_loss = pytest.mark.parametrize("name", ALL)


def random_batch(seed=0, shape=SHAPE, labelled=0.3, soft=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(*shape, CLASSES)).astype(np.float32)
    mask = rng.random(shape) < labelled
    labels = np.where(mask, rng.integers(0, CLASSES, shape), IGNORE).astype(np.uint8)
    return logits, labels, (mask * rng.uniform(0.1, 1, shape)).astype(np.float32) if soft else mask


def slow_reference(logits, labels, mask, weights=None, smoothing=0.0, gamma=0.0):
    """Pixel by pixel in float64, from the definition of the cross entropy with a smoothed target."""
    weights = np.ones(logits.shape[-1]) if weights is None else np.array(weights, np.float64)
    loss_sum = weight_sum = 0.0
    for place in np.argwhere(mask):
        place = tuple(place)
        p = slow_softmax(logits[place])
        target = np.full(len(p), smoothing / len(p))
        target[labels[place]] += 1.0 - smoothing
        cross_entropy = -(weights * target * np.log(p)).sum()
        loss_sum += float(mask[place]) * (1.0 - p[labels[place]]) ** gamma * cross_entropy
        weight_sum += float(mask[place]) * weights[labels[place]]
    return loss_sum, weight_sum


def slow_softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(-1, keepdims=True)


def weighing(name):
    """Arguments of a loss with class weights, where it takes them."""
    return {} if name == "unknown class" else {"class_weights": jnp.array(WEIGHTS)}


@cache
def compiled(loss, options):
    def of_logits(logits, labels, mask, class_weights):
        given = {} if class_weights is None else {"class_weights": class_weights}
        return loss(logits, labels, mask, **given, **dict(options))

    return jax.jit(jax.value_and_grad(of_logits, has_aux=True))


def value_and_gradient(batch, loss=partial_cross_entropy, class_weights=None, **options):
    return compiled(loss, tuple(options.items()))(*map(jnp.asarray, batch), class_weights)


@grid
def test_equals_the_slow_reference_and_only_labelled_pixels_teach(weights, smoothing, gamma, soft):
    logits, labels, mask = random_batch(soft=soft)
    batch = logits, labels, mask.astype(np.float32)
    class_weights = jnp.array(weights or (1.0,) * CLASSES)
    (loss_sum, weight_sum), gradient = value_and_gradient(
        batch, class_weights=class_weights, label_smoothing=smoothing, focal_gamma=gamma
    )
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
    arguments = {"class_weights": jnp.array(WEIGHTS), "label_smoothing": 0.1, "focal_gamma": gamma}
    _, gradient = value_and_gradient((logits, labels, mask), **arguments)
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


def test_the_unweighted_mean_has_the_same_sum_and_the_weight_of_the_mask():
    logits, labels, mask = map(jnp.asarray, random_batch(soft=True))
    weighted, _ = partial_cross_entropy(logits, labels, mask, class_weights=jnp.array(WEIGHTS))
    loss_sum, weight = partial_cross_entropy(
        logits, labels, mask, class_weights=jnp.array(WEIGHTS), weighted_mean=False
    )
    assert float(loss_sum) == float(weighted)
    assert float(weight) == pytest.approx(float(mask.sum()), rel=1e-6)


def test_the_frequent_mistake_is_the_partial_cross_entropy_times_the_share_of_labelled_pixels():
    batch = [jnp.asarray(array) for array in random_batch()]
    loss_sum, _ = partial_cross_entropy(*batch)
    mistaken_sum, mistaken_weight = all_pixel_cross_entropy(*batch)
    assert float(mistaken_sum) == float(loss_sum)
    assert float(mistaken_weight) == batch[1].size
    weighted, _ = partial_cross_entropy(*batch, class_weights=jnp.array(WEIGHTS))
    assert float(all_pixel_cross_entropy(*batch, class_weights=jnp.array(WEIGHTS))[0]) == float(weighted)


def test_the_naive_loss_is_dense_supervision_with_unlabelled_pixels_of_the_last_class():
    logits, labels, mask = random_batch(soft=True)
    filled = np.where(mask != 0, labels, CLASSES - 1).astype(np.uint8)
    loss_sum, weight_sum = unknown_class_cross_entropy(*map(jnp.asarray, (logits, labels, mask)))
    assert float(loss_sum) == pytest.approx(slow_reference(logits, filled, np.ones(SHAPE))[0], rel=1e-6)
    assert float(weight_sum) == labels.size


def slow_hard_pixels(logits, labels, mask, weights, share, least):
    """Image by image: the hardest pixels first, until the wanted share of the weight is reached."""
    loss_sum = weight_sum = 0.0
    gradient = np.zeros(logits.shape)
    for b in range(len(logits)):
        places = sorted(
            (tuple(place) for place in np.argwhere(mask[b])),
            key=lambda place: np.log(slow_softmax(logits[b][place]))[labels[b][place]],
        )
        weight = [float(mask[b][place]) * weights[labels[b][place]] for place in places]
        number = min(max(round(share * len(places)), least), len(places))
        left = number / max(len(places), 1) * sum(weight)
        weight_sum += left
        for place, of_pixel in zip(places, weight, strict=True):
            taken = min(of_pixel, left)
            left -= taken
            p = slow_softmax(logits[b][place])
            loss_sum -= taken * np.log(p[labels[b][place]])
            gradient[b][place] = taken * (p - np.eye(CLASSES)[labels[b][place]])
    return loss_sum, weight_sum, gradient


@pytest.mark.parametrize(("share", "least"), [(0.25, 1), (0.6, 1), (0.1, 4), (0.1, 1000)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weights", [(1.0,) * CLASSES, WEIGHTS])
def test_hard_pixels_are_those_of_the_slow_reference(share, least, soft, weights):
    batch = random_batch(soft=soft)
    sums, gradient = value_and_gradient(
        batch, hard_pixel_cross_entropy, class_weights=jnp.array(weights), share=share, least=least
    )
    *expected, expected_gradient = slow_hard_pixels(*batch, weights, share, least)
    np.testing.assert_allclose(sums, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 10, 42])
def test_as_many_hard_pixels_are_chosen_as_were_asked_for(number):
    logits, _, _ = random_batch(shape=(1, 6, 7))
    mask = np.arange(42).reshape(1, 6, 7) < number
    labels = np.full(mask.shape, 3, np.uint8)
    for share, least in ((0.3, 2), (1.0, 1)):
        (_, weight), gradient = value_and_gradient(
            (logits, labels, mask), hard_pixel_cross_entropy, share=share, least=least
        )
        expected = min(max(round(share * number), least), number)
        assert float(weight) == pytest.approx(expected, abs=1e-5)
        # Not the part of a pixel that rounding may have left.
        assert (np.abs(gradient).sum(-1) > 1e-5).sum() == expected


def test_pixels_that_tie_for_the_last_place_share_it():
    # The first step of a model with a zero-initialised head: every pixel is as hard as every other.
    labels, mask = np.zeros((1, 4, 5), np.uint8), np.ones((1, 4, 5), bool)
    logits = np.zeros((1, 4, 5, CLASSES), np.float32)
    logits[0, 1, 1, 0] = -3  # but for one, which is harder
    (loss_sum, weight), gradient = value_and_gradient(
        (logits, labels, mask), hard_pixel_cross_entropy, share=0.25, least=1
    )
    harder = -np.log(slow_softmax(logits)[0, 1, 1, 0])
    assert float(weight) == 5.0
    assert float(loss_sum) == pytest.approx(harder + 4 * np.log(CLASSES), rel=1e-6)
    of_target = np.asarray(gradient)[..., 0].ravel()
    np.testing.assert_allclose(np.delete(of_target, 6), -(1 - 1 / CLASSES) * 4 / 19, rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_all_hard_pixels_are_the_partial_cross_entropy(soft):
    batch, arguments = random_batch(soft=soft), {"class_weights": jnp.array(WEIGHTS)}
    sums, gradient = value_and_gradient(batch, hard_pixel_cross_entropy, **arguments, share=1.0, least=1)
    expected_sums, expected_gradient = value_and_gradient(batch, **arguments)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_hard_pixels_do_not_depend_on_unlabelled_ones_to_the_last_digit():
    for seed in range(10):
        logits, labels, mask = random_batch(seed, soft=True)
        other = np.where(mask[..., None] != 0, logits, np.arange(-2, 3, dtype=np.float32))
        got, expected = (
            value_and_gradient((x, labels, mask), hard_pixel_cross_entropy, share=1.0, least=1) for x in (other, logits)
        )
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("soft", [False, True])
def test_dice_is_that_of_the_slow_reference(soft):
    logits, labels, mask = batch = random_batch(soft=soft)
    expected_loss = expected_weight = 0.0
    for b, class_id in np.ndindex(len(logits), CLASSES):
        p, g = slow_softmax(logits[b])[..., class_id], labels[b] == class_id
        if (g & (mask[b] != 0)).any():
            dice = 2 * (mask[b] * p * g).sum() / ((mask[b] * p**2).sum() + (mask[b] * g).sum())
            expected_loss += WEIGHTS[class_id] * (1 - dice)
            expected_weight += WEIGHTS[class_id]
    sums, _ = value_and_gradient(batch, partial_dice, class_weights=jnp.array(WEIGHTS))
    np.testing.assert_allclose(sums, (expected_loss, expected_weight), rtol=1e-6)


def test_dice_is_0_where_every_labelled_pixel_is_right_and_1_where_none_is():
    _, labels, mask = random_batch()
    one_hot = np.eye(CLASSES, dtype=np.float32)[np.where(mask, labels, 0)]
    right, pairs = partial_dice(jnp.asarray(1e4 * one_hot), jnp.asarray(labels), jnp.asarray(mask))
    assert float(right) == 0.0
    assert float(pairs) == sum(len(np.unique(labels[b][mask[b]])) for b in range(len(labels)))
    wrong, _ = partial_dice(jnp.asarray(-1e4 * one_hot), jnp.asarray(labels), jnp.asarray(mask))
    assert float(wrong) == pytest.approx(float(pairs), rel=1e-6)


@family
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_is_exactly_zero_at_unlabelled_pixels(name, soft):
    batch = random_batch(soft=soft)
    _, gradient = value_and_gradient(batch, FAMILY[name], **weighing(name))
    assert (np.asarray(gradient)[batch[2] == 0] == 0).all()
    assert np.abs(gradient).sum() > 0


@every_loss
def test_the_weight_comes_from_the_batch_alone(name):
    logits, labels, mask = random_batch(soft=True)
    _, weight = value_and_gradient((logits, labels, mask), ALL[name], **weighing(name))[0]
    _, other = value_and_gradient((-3 * logits, labels, mask), ALL[name], **weighing(name))[0]
    assert float(weight) == float(other) > 0


@family
def test_unlabelled_pixels_are_not_read(name):
    logits, labels, mask = random_batch(soft=True)
    expected = value_and_gradient((logits, labels, mask), FAMILY[name])
    for value in (0, CLASSES, 254):
        other_logits = np.where(mask[..., None] != 0, logits, np.linspace(-value, value, CLASSES, dtype=np.float32))
        got = value_and_gradient(
            (other_logits, np.where(mask != 0, labels, value).astype(np.uint8), mask), FAMILY[name]
        )
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    signed = np.where(mask != 0, labels, -1).astype(np.int32)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient((logits, signed, mask), FAMILY[name]), expected)


@family
@pytest.mark.parametrize("soft", [False, True])
def test_padding_and_more_unlabelled_pixels_change_nothing(name, soft):
    logits, labels, mask = random_batch(soft=soft)
    expected, gradient = value_and_gradient((logits, labels, mask), FAMILY[name], **weighing(name))
    sides = ((0, 1), (2, 0), (0, 3))
    padded = [
        np.pad(logits, (*sides, (0, 0)), constant_values=7.0),
        np.pad(labels, sides, constant_values=IGNORE),
        np.pad(mask, sides),
    ]
    got, padded_gradient = value_and_gradient(padded, FAMILY[name], **weighing(name))
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    np.testing.assert_allclose(padded_gradient[:-1, 2:, :-3], gradient, rtol=1e-5, atol=1e-6)


@every_loss
def test_sums_of_micro_batches_are_the_sums_of_the_batch(name):
    batch = random_batch(shape=(6, 5, 5))
    batch[1][3], batch[2][3] = IGNORE, False  # one image without a label
    whole, gradient = value_and_gradient(batch, ALL[name], **weighing(name))
    halves = ([array[rows] for array in batch] for rows in (slice(0, 3), slice(3, 6)))
    parts = [value_and_gradient(half, ALL[name], **weighing(name)) for half in halves]
    np.testing.assert_allclose(np.sum([sums for sums, _ in parts], 0), whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([g for _, g in parts]), gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in ALL if name != "unknown class"])
def test_equal_weights_are_no_weights(name):
    plain, _ = value_and_gradient(random_batch(), ALL[name])
    ones, _ = value_and_gradient(random_batch(), ALL[name], jnp.ones(CLASSES))
    np.testing.assert_array_equal(ones, plain)
    if name not in ("unweighted mean", "all pixels"):
        threes, _ = value_and_gradient(random_batch(), ALL[name], jnp.full(CLASSES, 3.0))
        assert float(threes[0] / threes[1]) == pytest.approx(float(plain[0] / plain[1]), rel=1e-6)


@family
def test_a_bool_mask_is_a_soft_mask_of_ones(name):
    logits, labels, mask = random_batch()
    soft = value_and_gradient((logits, labels, mask.astype(np.float32)), FAMILY[name])
    jax.tree.map(np.testing.assert_array_equal, soft, value_and_gradient((logits, labels, mask), FAMILY[name]))


@family
@pytest.mark.parametrize("labels_value", [0, IGNORE])
def test_no_labelled_pixel_gives_zeros(name, labels_value):
    batch = random_batch()[0], np.full(SHAPE, labels_value, np.uint8), np.zeros(SHAPE, bool)
    sums, gradient = value_and_gradient(batch, FAMILY[name], **weighing(name))
    assert [float(s) for s in sums] == [0.0, 0.0]
    assert (np.asarray(gradient) == 0).all()


@every_loss
@pytest.mark.parametrize("labelled", ["none", "one", "all"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_finite_for_huge_logits(name, labelled, dtype):
    logits, labels, mask = random_batch(labelled=1.0)
    mask &= {"none": False, "one": np.arange(mask.size).reshape(SHAPE) == 5, "all": True}[labelled]
    huge = jnp.asarray(np.where(logits > 0, 1e4, -1e4), dtype)
    (loss_sum, weight_sum), gradient = value_and_gradient((huge, labels, mask), ALL[name], **weighing(name))
    assert loss_sum.dtype == weight_sum.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.isfinite(loss_sum)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@every_loss
def test_bfloat16_logits_are_computed_in_float32(name):
    logits, labels, mask = random_batch()
    rounded = jnp.asarray(logits, jnp.bfloat16)
    expected, _ = value_and_gradient((rounded.astype(jnp.float32), labels, mask), ALL[name], **weighing(name))
    got, _ = value_and_gradient((rounded, labels, mask), ALL[name], **weighing(name))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@every_loss
def test_float64_logits_are_computed_in_float64_and_float32_ones_in_float32(name):
    batch = random_batch()
    single, _ = value_and_gradient(batch, ALL[name])
    with jax.enable_x64(True):
        double, _ = value_and_gradient((batch[0].astype(np.float64), *batch[1:]), ALL[name])
        assert [s.dtype for s in double] == [jnp.float64] * 2
        assert [s.dtype for s in value_and_gradient(batch, ALL[name])[0]] == [jnp.float32] * 2
        if name == "pCE":
            np.testing.assert_allclose(double, slow_reference(*batch), rtol=1e-13)
    np.testing.assert_allclose(double, single, rtol=2e-6)


@every_loss
@pytest.mark.parametrize(
    ("labels", "mask"),
    [((2, 6, 7, 1), (2, 6, 7)), ((2, 6, 7), (2, 6, 7, 1)), ((2, 6, 7), (1, 6, 7)), ((6, 7), (6, 7))],
)
def test_shapes_that_do_not_fit_are_refused_with_all_three(name, labels, mask):
    with pytest.raises(ValueError, match=r"logits \(2, 6, 7, 5\), labels .* label_mask .* expected") as error:
        ALL[name](jnp.zeros((*SHAPE, CLASSES)), jnp.zeros(labels, jnp.uint8), jnp.ones(mask, bool))
    assert str(labels) in str(error.value)
    assert str(mask) in str(error.value)

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax.benchmarks import gated_crf_unfolded
from pcejax.losses import partial_cross_entropy
from pcejax.regularizers import consistency, entropy, gated_crf, pseudo_labels, total_variation

CLASSES = 4
SHAPE = (2, 7, 9)
CRF = {"radius": 2, "sigma_color": 0.2, "sigma_position": 3.0}

# Each takes logits, teacher's logits, image and label mask, and reads what it needs of them.
TERMS = {
    "entropy": lambda logits, teacher, image, mask: entropy(logits),
    "total variation": lambda logits, teacher, image, mask: total_variation(logits),
    "gated CRF": lambda logits, teacher, image, mask: gated_crf(logits, image, **CRF),
    "consistency": lambda logits, teacher, image, mask: consistency(logits, teacher),
    "pseudo-labels": lambda logits, teacher, image, mask: pseudo_labels(logits, teacher, mask, confidence=0.5),
}
every_term = pytest.mark.parametrize("name", TERMS)


def random_batch(shape=SHAPE):
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(scale=2.0, size=(2, *shape, CLASSES)).astype(np.float32)
    image = rng.random((*shape, 3)).astype(np.float32)
    return logits, teacher, image, rng.random(shape) < 0.2


def slow_softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(-1, keepdims=True)


@cache
def compiled(term):
    return jax.jit(jax.value_and_grad(term, has_aux=True))


def value_and_gradient(term, *arrays):
    return compiled(term)(*map(jnp.asarray, arrays))


def slow_gated_crf(logits, image, valid, *, radius, sigma_color, sigma_position):
    """Pair by pair in float64, from the paper's formula; the gradient by the product rule and softmax's Jacobian."""
    p, image = slow_softmax(logits), image.astype(np.float64)
    batch, height, width, _ = p.shape
    energy, of_p = 0.0, np.zeros(p.shape)
    for b, row, col in np.ndindex(batch, height, width):
        for other_row, other_col in np.ndindex(height, width):
            far = max(abs(other_row - row), abs(other_col - col)) > radius
            same = (other_row, other_col) == (row, col)
            if far or same or not valid[b, row, col] or not valid[b, other_row, other_col]:
                continue
            color = ((image[b, row, col] - image[b, other_row, other_col]) ** 2).sum()
            position = (row - other_row) ** 2 + (col - other_col) ** 2
            kernel = np.exp(-color / (2 * sigma_color**2) - position / (2 * sigma_position**2))
            energy += kernel * (1 - p[b, row, col] @ p[b, other_row, other_col])
            of_p[b, row, col] -= kernel * p[b, other_row, other_col]
            of_p[b, other_row, other_col] -= kernel * p[b, row, col]
    return energy, p * (of_p - (p * of_p).sum(-1, keepdims=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("radius", [1, 2, 8])
def test_gated_crf_is_that_of_the_slow_reference(radius, masked):
    logits, _, image, mask = random_batch((2, 5, 7))
    valid = ~mask if masked else np.ones(mask.shape, bool)
    arguments = {**CRF, "radius": radius}
    expected, expected_gradient = slow_gated_crf(logits, image, valid, **arguments)
    term = partial(gated_crf, **arguments, **({"valid": jnp.asarray(valid)} if masked else {}))
    (energy, weight), gradient = value_and_gradient(term, logits, image)
    assert float(energy) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == valid.sum()
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())
    assert (np.asarray(gradient)[~valid] == 0).all()


@pytest.mark.parametrize("shape", [(2, 12, 15), (1, 16, 3)])
def test_gated_crf_is_the_unfolded_one(shape):
    logits, _, image, _ = random_batch(shape)
    arguments = {"radius": 5, "sigma_color": 0.1, "sigma_position": 6.0}
    sums, gradient = value_and_gradient(partial(gated_crf, **arguments), logits, image)
    expected, expected_gradient = value_and_gradient(partial(gated_crf_unfolded, **arguments), logits, image)
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())


def test_gated_crf_keeps_its_digits_where_the_model_is_sure():
    # All pairs agree to within 1e-4. A difference of sums of kernels would lose that, and the gradient with it.
    logits, _, image, _ = random_batch((1, 6, 6))
    logits = logits / 4 + np.array([12, 0, 0, 0], np.float32)
    expected, expected_gradient = slow_gated_crf(logits, image, np.ones((1, 6, 6), bool), **CRF)
    (energy, _), gradient = value_and_gradient(partial(gated_crf, **CRF), logits, image)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())
    # A p near 1 is itself rounded to 6e-8.
    assert float(energy) == pytest.approx(expected, rel=1e-3)


def test_gated_crf_keeps_no_window_of_any_pixel_in_memory():
    shape, window = (1, 128, 128), 11**2
    arrays = [jax.ShapeDtypeStruct((*shape, channels), jnp.float32) for channels in (CLASSES, 3)]
    term = partial(gated_crf, radius=5, sigma_color=0.1, sigma_position=6.0)
    needed = compiled(term).lower(*arrays).compile().memory_analysis().temp_size_in_bytes
    assert needed < np.prod(shape) * window * 4
    # So that the figure is known to tell.
    unfolded = compiled(partial(gated_crf_unfolded, **term.keywords)).lower(*arrays).compile()
    assert unfolded.memory_analysis().temp_size_in_bytes > np.prod(shape) * window * 4


def test_gated_crf_is_zero_where_all_agree_or_no_colour_is_alike():
    logits, _, image, _ = random_batch()
    agree = np.zeros_like(logits)
    agree[..., 1] = 1e4
    assert float(gated_crf(jnp.asarray(agree), jnp.asarray(image), **CRF)[0]) == 0
    strict = {**CRF, "sigma_color": 1e-4}
    assert float(gated_crf(jnp.asarray(logits), jnp.asarray(image), **strict)[0]) == 0


def test_gated_crf_does_not_read_pixels_that_are_not_valid():
    logits, _, image, mask = random_batch()

    def term(logits, image, valid):
        return gated_crf(logits, image, **CRF, valid=valid)

    expected, gradient = value_and_gradient(term, logits, image, ~mask)
    hole = mask[..., None]
    got = value_and_gradient(
        term, np.where(hole, np.float32(5), logits), np.where(hole, np.float32("nan"), image), ~mask
    )
    jax.tree.map(np.testing.assert_array_equal, got, (expected, gradient))
    # Padding is not valid either.
    sides = ((0, 1), (2, 0), (0, 3))
    padded = [np.pad(logits, (*sides, (0, 0))), np.pad(image, (*sides, (0, 0))), np.pad(~mask, sides)]
    got, padded_gradient = value_and_gradient(term, *padded)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:-1, 2:, :-3], gradient, rtol=1e-5, atol=1e-6)
    sums, gradient = value_and_gradient(term, logits, image, np.zeros(mask.shape, bool))
    assert [float(s) for s in sums] == [0, 0]
    assert (np.asarray(gradient) == 0).all()


def test_entropy_is_that_of_the_slow_reference():
    logits, *_ = random_batch()
    p = slow_softmax(logits)
    log_p = np.log(p)
    pixel = -(p * log_p).sum(-1)
    (total, weight), gradient = value_and_gradient(entropy, logits)
    assert float(total) == pytest.approx(pixel.sum(), rel=1e-6)
    assert float(weight) == pixel.size
    np.testing.assert_allclose(gradient, -p * (log_p + pixel[..., None]), atol=1e-6)
    assert float(entropy(jnp.zeros((1, 1, 1, CLASSES)))[0]) == pytest.approx(np.log(CLASSES), rel=1e-6)


def test_total_variation_is_that_of_the_slow_reference():
    logits, *_ = random_batch()
    p = slow_softmax(logits)
    expected, pairs, of_p = 0.0, 0, np.zeros(p.shape)
    for b, row, col in np.ndindex(SHAPE):
        for other_row, other_col in ((row + 1, col), (row, col + 1)):
            if other_row < SHAPE[1] and other_col < SHAPE[2]:
                difference = p[b, other_row, other_col] - p[b, row, col]
                expected += np.abs(difference).sum()
                of_p[b, other_row, other_col] += np.sign(difference)
                of_p[b, row, col] -= np.sign(difference)
                pairs += 1
    (total, weight), gradient = value_and_gradient(total_variation, logits)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == pairs
    np.testing.assert_allclose(gradient, p * (of_p - (p * of_p).sum(-1, keepdims=True)), atol=1e-5)


def test_consistency_is_that_of_the_slow_reference():
    logits, teacher, *_ = random_batch()
    p = slow_softmax(logits)
    difference = p - slow_softmax(teacher)
    (total, weight), gradient = value_and_gradient(consistency, logits, teacher)
    assert float(total) == pytest.approx((difference**2).sum(), rel=1e-6)
    assert float(weight) == np.prod(SHAPE)
    expected = 2 * p * (difference - (p * difference).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_pseudo_labels_are_dense_labels_where_the_teacher_is_confident_and_nobody_labelled():
    logits, teacher, _, mask = random_batch()
    p = slow_softmax(teacher)
    taught = (p.max(-1) >= 0.8) & ~mask
    assert 0 < taught.sum() < (~mask).sum()
    expected, expected_gradient = value_and_gradient(partial_cross_entropy, logits, p.argmax(-1), taught)
    term = partial(pseudo_labels, confidence=0.8)
    (total, weight), gradient = value_and_gradient(term, logits, teacher, mask)
    assert float(total) == pytest.approx(float(expected[0]), rel=1e-6)
    assert float(weight) == (~mask).sum()
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    # A pixel of any soft weight is labelled.
    soft = value_and_gradient(term, logits, teacher, np.where(mask, np.float32(0.01), 0))
    jax.tree.map(np.testing.assert_array_equal, soft, ((total, weight), gradient))


def test_pseudo_labels_of_a_wholly_labelled_batch_or_a_doubtful_teacher_teach_nothing():
    logits, teacher, _, mask = random_batch()
    term = partial(pseudo_labels, confidence=0.5)
    for given, labelled, weight in ((teacher, np.ones(SHAPE, bool), 0), (0 * teacher, mask, (~mask).sum())):
        sums, gradient = value_and_gradient(term, logits, given, labelled)
        assert [float(s) for s in sums] == [0, weight]
        assert (np.asarray(gradient) == 0).all()


@every_term
def test_gradients_flow_through_the_logits_alone(name):
    logits, teacher, image, mask = map(jnp.asarray, random_batch())

    def total(logits, teacher, image):
        return TERMS[name](logits, teacher, image, mask)[0]

    of_logits, of_teacher, of_image = jax.jit(jax.grad(total, (0, 1, 2)))(logits, teacher, image)
    assert (of_logits != 0).any()
    assert (of_teacher == 0).all()
    assert (of_image == 0).all()


@every_term
def test_the_weight_comes_from_the_batch_alone(name):
    logits, teacher, image, mask = random_batch()
    (_, weight), _ = value_and_gradient(TERMS[name], logits, teacher, image, mask)
    (_, other), _ = value_and_gradient(TERMS[name], -3 * logits, -3 * teacher, image, mask)
    assert float(weight) == float(other) > 0


@every_term
def test_sums_of_micro_batches_are_the_sums_of_the_batch(name):
    batch = random_batch()
    whole, gradient = value_and_gradient(TERMS[name], *batch)
    parts = [value_and_gradient(TERMS[name], *(array[b : b + 1] for array in batch)) for b in range(2)]
    np.testing.assert_allclose(np.sum([sums for sums, _ in parts], 0), whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([g for _, g in parts]), gradient, rtol=1e-6, atol=1e-7)


@every_term
def test_crops_without_any_label_teach(name):
    logits, teacher, image, mask = random_batch()
    sums, gradient = value_and_gradient(TERMS[name], logits, teacher, image, np.zeros_like(mask))
    assert min(map(float, sums)) > 0
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient) != 0).any()


@every_term
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_finite_for_huge_logits(name, dtype):
    logits, teacher, image, mask = random_batch()
    huge, other = (jnp.asarray(np.where(x > 0, 1e4, -1e4), dtype) for x in (logits, teacher))
    sums, gradient = value_and_gradient(TERMS[name], huge, other, image, mask)
    assert [s.dtype for s in sums] == [jnp.float32] * 2
    assert gradient.dtype == dtype
    assert np.isfinite(sums).all()
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@every_term
def test_bfloat16_is_computed_in_float32_and_float64_in_float64(name):
    logits, teacher, image, mask = random_batch()
    rounded = jnp.asarray(logits, jnp.bfloat16)
    single = value_and_gradient(TERMS[name], rounded.astype(jnp.float32), teacher, image, mask)
    got = value_and_gradient(TERMS[name], rounded, teacher, image, mask)
    np.testing.assert_allclose(got[0], single[0], rtol=1e-6)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (rounded, teacher, image))
        double, _ = value_and_gradient(TERMS[name], *doubles, mask)
        assert [s.dtype for s in double] == [jnp.float64] * 2
        stays, _ = value_and_gradient(TERMS[name], rounded, teacher, image, mask)
        assert [s.dtype for s in stays] == [jnp.float32] * 2
    np.testing.assert_allclose(double, single[0], rtol=1e-5)


@every_term
def test_nothing_calls_back_to_the_host(name):
    assert "callback" not in str(jax.make_jaxpr(TERMS[name])(*map(jnp.asarray, random_batch())))


def test_one_row_of_pixels_and_one_pixel_have_only_the_neighbours_there_are():
    for shape, pairs in (((1, 1, 5), 4), ((1, 1, 1), 0)):
        logits, _, image, _ = map(jnp.asarray, random_batch(shape))
        assert float(total_variation(logits)[1]) == pairs
        total, weight = gated_crf(logits, image, **CRF)
        assert (float(total) > 0, float(weight)) == (pairs > 0, logits[..., 0].size)


@pytest.mark.parametrize("name", ["image", "valid", "teacher"])
def test_shapes_that_do_not_fit_are_refused(name):
    logits, image, one = jnp.zeros((*SHAPE, CLASSES)), jnp.zeros((*SHAPE, 3)), slice(0, 1)
    wrong = {
        "image": lambda: gated_crf(logits, image[one], **CRF),
        "valid": lambda: gated_crf(logits, image, **CRF, valid=jnp.ones((1, 7, 9), bool)),
        "teacher": lambda: consistency(logits, logits[one]),
    }
    with pytest.raises(ValueError, match=rf"{name}.* \(1, 7, 9.*expected"):
        wrong[name]()

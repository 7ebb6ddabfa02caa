import numpy as np
import pytest
import scipy.special

from pcejax import calibration
from pcejax.calibration import BINS, area_weights, bin_sums, confidence, expected_calibration_error, fit_temperature


def drawn(count, seed=0):
    """Logits, and classes that have the chances which these tell."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 6))
    return logits, (scipy.special.softmax(logits, -1).cumsum(-1) < rng.random((count, 1))).sum(-1)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_factor_by_which_logits_are_too_large(factor):
    logits, classes = drawn(20_000)
    assert fit_temperature((factor * logits).astype(np.float32), classes, np.ones(20_000)) == pytest.approx(
        factor, rel=0.03
    )


@pytest.mark.parametrize("count", [1, 5, 40])
def test_no_other_temperature_tells_the_classes_better(count):
    logits, classes = drawn(count, seed=count)
    tried = np.exp(np.linspace(-4, 4, 8001))
    p = scipy.special.softmax(logits[None] / tried[:, None, None], -1)
    loss = -np.log(p[:, np.arange(count), classes]).sum(-1) + np.log(tried) ** 2 / 2
    assert fit_temperature(logits, classes, np.ones(count)) == pytest.approx(tried[loss.argmin()], rel=2e-3)


def test_a_handful_of_points_that_are_all_right_does_not_make_a_map_sure_of_everything():
    logits = np.tile(2.0 * np.eye(6)[0], (400, 1))
    few, many = (fit_temperature(logits[:count], np.zeros(count, int), np.ones(count)) for count in (3, 400))
    assert 0.2 < many < few < 1
    assert confidence(logits[:1], few) < 0.95
    wrong = fit_temperature(logits[:3], np.ones(3, int), np.ones(3))
    assert 1 < wrong < calibration._MOST


def test_points_stand_for_the_pixels_that_the_map_has_of_their_class():
    mapped = np.array([[0, 0, 0, 0], [0, 0, 2, 2]])
    np.testing.assert_allclose(area_weights(mapped, np.array([0, 2, 2, 0, 0])), [2, 1, 1, 2, 2])
    np.testing.assert_allclose(area_weights(mapped, np.array([4])), [1])  # of a class that the map lacks
    assert area_weights(mapped, np.array([], int)).shape == (0,)


def test_a_map_that_is_less_sure_where_points_are_rare_is_calibrated_over_its_pixels():
    """Two classes, told too surely by 1 and by 3; 99 % of the map is the first, and half of the points."""
    logits, _ = drawn(40_000)
    factor = np.where(np.arange(40_000) < 20_000, 1.0, 3.0)[:, None]
    classes = (scipy.special.softmax(logits, -1).cumsum(-1) < np.random.default_rng(1).random((40_000, 1))).sum(-1)
    weights = np.where(factor[:, 0] == 1, 99.0, 1.0)
    assert fit_temperature(factor * logits, classes, weights) == pytest.approx(1, abs=0.05)
    assert fit_temperature(factor * logits, classes, np.ones(40_000)) > 1.3
    # Weights of another unit are the same.
    assert fit_temperature(logits[:9], classes[:9], weights[:9] * 7) == pytest.approx(
        fit_temperature(logits[:9], classes[:9], weights[:9])
    )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_confidence_is_the_largest_softmax_probability_and_the_class_is_what_it_was(temperature):
    logits = np.moveaxis(np.random.default_rng(0).normal(0, 40, (6, 9, 11)).astype(np.float32), 0, -1)
    p = scipy.special.softmax(logits.astype(np.float64) / temperature, -1)
    got = confidence(logits, temperature)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, p.max(-1), rtol=1e-5)
    np.testing.assert_array_equal(p.argmax(-1), logits.argmax(-1))


def test_the_error_is_the_papers_over_all_pixels_however_they_come():
    rng = np.random.default_rng(0)
    sure = rng.uniform(1 / 6, 1, 5000)
    right = rng.random(5000) < sure**2
    expected = 0.0
    for index in range(BINS):
        inside = (sure > index / BINS) & (sure <= (index + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert expected > 0.05
    parts = [bin_sums(sure[part], right[part]) for part in (slice(7), slice(7, 7), slice(7, None))]
    assert parts[0].shape == (3, BINS)
    assert expected_calibration_error(sum(parts)) == pytest.approx(expected, rel=1e-12)


def test_the_error_of_one_confidence_is_its_distance_from_the_share_right():
    right = np.arange(10) < 6
    for told in (0.6, 0.8, 1.0):
        error = expected_calibration_error(bin_sums(np.full(10, told, np.float32), right))
        assert error == pytest.approx(told - 0.6, abs=1e-6)
    assert np.isnan(expected_calibration_error(bin_sums(np.zeros(0), np.zeros(0, bool))))


def test_a_confidence_on_the_border_of_two_bins_is_in_the_lower_and_all_pixels_are_in_one():
    for told, index in ((1.0, 14), (0.2, 2), (0.2 + 1e-9, 3), (1e-9, 0)):
        pixels, _, _ = bin_sums(np.array([told]), np.array([True]))
        assert pixels.argmax() == index
        assert pixels.sum() == 1


def test_it_is_told_in_words():
    fitted = calibration.Calibration(1.7321, 24, 6)
    assert calibration.describe(None) == "uncalibrated"
    assert calibration.describe(fitted) == "calibrated by temperature 1.732, fitted on 24 points"

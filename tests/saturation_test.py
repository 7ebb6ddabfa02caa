from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from pcejax import saturation

BUDGETS = np.array([1.0, 3.0, 10.0, 30.0, 100.0])


def power_law(limit, drop, rate, budgets=BUDGETS):
    return limit - drop * budgets**-rate


def summary_of(scores, spread=0.0, budgets=BUDGETS, rng_seed=0):
    """Of resamples that spread by `spread`, each budget by itself."""
    noise = np.random.default_rng(rng_seed).normal(0, 1, (200, len(budgets)))
    return saturation.summary(list(zip(budgets.tolist(), scores, strict=True)), scores + spread * noise)


@pytest.mark.parametrize(
    ("limit", "drop", "rate"), [(0.7, 0.4, 0.5), (0.5, 0.3, 1.2), (0.9, 0.5, 0.3), (1.0, 0.6, 0.7), (0.4, 0.2, 3.0)]
)
def test_known_parameters_come_back(limit, drop, rate):
    curve = saturation.fit(BUDGETS, power_law(limit, drop, rate))
    assert curve.limit == pytest.approx(limit, abs=0.003)
    assert curve.drop == pytest.approx(drop, abs=0.003)
    assert curve.rate == pytest.approx(rate, rel=0.01)
    for share in saturation.SHARES:
        assert curve.budget_at(share) == pytest.approx((drop / ((1 - share) * limit)) ** (1 / rate), rel=0.03)


def fitted_by_scipy(scores):
    """The curve's scores, by a general solver of bounded least squares."""
    parameters, _ = scipy.optimize.curve_fit(
        lambda budgets, limit, drop, rate: power_law(limit, drop, rate, budgets),
        BUDGETS,
        scores,
        p0=(0.6, 0.4, 0.6),
        bounds=([0, 0, 0.02], [1, np.inf, 5]),
    )
    return power_law(*parameters)


def test_a_noisy_curve_is_fitted_as_scipy_fits_it():
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = power_law(0.6, 0.4, 0.6) + rng.normal(0, 0.01, 5)
        np.testing.assert_allclose(power_law(*saturation.fit(BUDGETS, scores)), fitted_by_scipy(scores), atol=2e-4)


def test_a_limit_past_1_is_held_at_1_and_the_rest_fitted_again():
    scores = 0.3 + 0.13 * np.log(BUDGETS)  # rises without end
    curve = saturation.fit(BUDGETS, scores)
    assert curve.limit == 1.0
    np.testing.assert_array_less(power_law(*curve, budgets=np.geomspace(1, 1e6, 20)), 1.0)
    np.testing.assert_allclose(power_law(*curve), fitted_by_scipy(scores), atol=1e-3)


def test_a_curve_that_falls_is_level():
    curve = saturation.fit(BUDGETS, np.array([0.6, 0.5, 0.5, 0.5, 0.4]))
    assert (curve.limit, curve.drop) == (pytest.approx(0.5), 0.0)
    told = summary_of(np.array([0.6, 0.5, 0.5, 0.5, 0.4]))
    assert told["budgets"]["0.90"]["budget"] == 1
    assert told["budgets"]["0.90"]["note"] == "at the smallest budget measured, or below"


def test_many_curves_are_fitted_as_each_by_itself():
    scores = power_law(0.6, 0.4, 0.6) + np.random.default_rng(0).normal(0, 0.02, (2, 3, 5))
    curves = saturation.fit(BUDGETS, scores)
    for i in range(2):
        for j in range(3):
            alone = saturation.fit(BUDGETS, scores[i, j])
            assert (curves.limit[i, j], curves.drop[i, j], curves.rate[i, j]) == tuple(alone)


def test_a_budget_within_those_measured_is_told_with_its_interval():
    told = summary_of(power_law(0.6, 0.4, 1.0), spread=0.003)
    ninety = told["budgets"]["0.90"]  # 0.4 / b = 0.06
    assert ninety["budget"] == pytest.approx(6.67, rel=0.03)
    assert ninety["interval"][0] < 6.67 < ninety["interval"][1]
    assert (ninety["reached"], ninety["note"]) == (True, "")
    assert told["limit_interval"][0] < 0.6 < told["limit_interval"][1]
    assert told["shape"] == {"drop": pytest.approx(0.4, abs=0.01), "rate": pytest.approx(1.0, rel=0.02)}


def test_a_budget_past_those_measured_is_not_reached():
    told = summary_of(power_law(0.6, 0.4, 0.3), spread=0.001)
    ninety_five = told["budgets"]["0.95"]  # at (0.4 / 0.03) ** (1 / 0.3) = 5624
    assert (ninety_five["budget"], ninety_five["interval"], ninety_five["reached"]) == (None, None, False)
    assert ninety_five["note"] == "not reached: past the largest budget measured, 100"


def test_an_interval_that_leaves_the_budgets_measured_says_where_it_begins():
    told = summary_of(power_law(0.6, 0.4, 0.45), spread=0.01)["budgets"]["0.90"]  # at 67 of 100
    assert told["reached"] is True
    assert told["interval"] is None
    assert told["note"].endswith("past the largest budget measured, 100")


def test_three_budgets_are_too_few_to_fit():
    told = summary_of(power_law(0.6, 0.4, 1.0)[:3], budgets=BUDGETS[:3])
    assert told["limit"] is None
    assert told["limit_interval"] is None
    assert told["shape"] == {}
    assert told["budgets"]["0.90"]["note"] == "no fit: 3 budgets; expected 4 or more"


def test_resamples_that_lack_a_budget_are_left_out():
    scores = power_law(0.6, 0.4, 1.0)
    resampled = np.tile(scores, (10, 1))
    resampled[3, 2] = np.nan
    told = saturation.summary(list(zip(BUDGETS, scores, strict=True)), resampled)
    assert told["limit_interval"] == [told["limit"], told["limit"]]


def test_the_interval_of_the_limit_holds_it_as_often_as_it_promises():
    """100 curves with noise at each budget, whose resamples spread by as much; 95 % is 95, 89 one time in 100."""
    rng = np.random.default_rng(0)
    held = 0
    for repeat in range(100):
        scores = power_law(0.6, 0.4, 0.8) + rng.normal(0, 0.01, 5)
        low, high = summary_of(scores, 0.01, rng_seed=repeat + 1)["limit_interval"]
        held += low <= 0.6 <= high
    assert held >= 89

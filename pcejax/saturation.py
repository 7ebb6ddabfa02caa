"""A curve of scores over budgets, fitted against its own limit.

score(budget) = limit - drop * budget^-rate, the inverse power law by which learning curves level off (Figueroa et
al., 2012, "Predicting sample size required for classification performance", BMC Medical Informatics and Decision
Making 12), with 0 <= limit <= 1, drop >= 0. The limit is the curve's own, no dense run's: what more points alone
could reach. It lies outside what was measured, so it says little where the curve still rises at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pcejax.crossed_bootstrap import LEVEL

MIN_BUDGETS = 4
"""Three parameters, and one budget to see that they fit."""

SHARES = (0.90, 0.95)
"""Of the limit, whose budgets are told."""

_RATES = np.geomspace(0.02, 5.0, 1000)


class Curve(NamedTuple):
    """Parameters, float `[...]` each."""

    limit: np.ndarray
    drop: np.ndarray
    rate: np.ndarray

    def budget_at(self, share: float) -> np.ndarray:
        """The budget where the curve reaches `share` of its limit; infinite where it is too large for a float."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return (self.drop / ((1 - share) * self.limit)) ** (1 / self.rate)


def fit(budgets: Sequence[float] | np.ndarray, scores: np.ndarray) -> Curve:
    """Least squares for each curve of `scores` float `[..., budgets]`, over all rates of a grid.

    With the rate given, limit and drop are linear; on a bound, one of them is left.
    """
    scores = np.asarray(scores, float)
    x = np.asarray(budgets, float) ** -_RATES[:, None]  # [rates, budgets]
    x_mean, y_mean = x.mean(1), scores.mean(-1, keepdims=True)
    x, y = x - x_mean[:, None], scores - y_mean
    slope = y @ x.T / (x**2).sum(1)  # [..., rates], as are drop and limit
    drop = np.maximum(-slope, 0.0)
    limit = y_mean + drop * x_mean
    # Held at 1, the limit leaves a line through one point.
    through_1 = (x_mean * (1.0 - y_mean) - slope * (x**2).mean(1)) / (x_mean**2 + (x**2).mean(1))
    drop = np.where(limit > 1.0, through_1, drop)
    limit = np.minimum(limit, 1.0)
    of_shape = drop * (drop + 2 * slope) * (x**2).mean(1)
    misfit = of_shape + (limit - y_mean - drop * x_mean) ** 2  # but for what no fit changes
    best = misfit.argmin(-1)[..., None]
    limit, drop = (np.take_along_axis(values, best, -1)[..., 0] for values in (limit, drop))
    return Curve(limit, drop, _RATES[best[..., 0]])


def summary(points: Sequence[Sequence[float]], resampled: np.ndarray) -> dict[str, Any]:
    """The fit and its intervals as JSON types.

    Args:
      points: (budget, score), budgets growing.
      resampled: float `[resamples, budgets]`, whole curves; those with a NaN are left out.

    Returns:
      `limit`, `limit_interval`, `shape` and `budgets`: for each share of the limit the budget that reaches it with
      its interval, as far as these lie within the budgets measured; `note` says where they do not.
    """
    num_budgets = len({budget for budget, _ in points})
    if num_budgets < MIN_BUDGETS:
        note = f"no fit: {num_budgets} budgets; expected {MIN_BUDGETS} or more"
        lacking = {"budget": None, "interval": None, "reached": False, "note": note}
        budgets: dict[str, Any] = {f"{share:.2f}": dict(lacking) for share in SHARES}
        return {"limit": None, "limit_interval": None, "shape": {}, "budgets": budgets}
    measured, scores = (np.array(values) for values in zip(*points, strict=True))
    curve = fit(measured, scores)
    curves = fit(measured, np.clip(resampled[~np.isnan(resampled).any(1)], 0.0, 1.0))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    of_budgets = {}
    for share in SHARES:
        low, high = np.quantile(curves.budget_at(share), tails, method="nearest")  # some are infinite
        of_budgets[f"{share:.2f}"] = _told(float(curve.budget_at(share)), float(low), float(high), measured)
    return {
        "limit": float(curve.limit),
        "limit_interval": np.quantile(curves.limit, tails).tolist(),
        "shape": {"drop": float(curve.drop), "rate": float(curve.rate)},
        "budgets": of_budgets,
    }


def _told(budget: float, low: float, high: float, measured: np.ndarray) -> dict[str, Any]:
    """What can be said of a budget: nothing is told that lies outside the budgets measured."""
    least, most = float(measured[0]), float(measured[-1])
    low, budget, high = (max(value, least) for value in (low, budget, high))
    reached = budget <= most
    if not reached:
        lower = f"; the interval begins at {low:.3g}" if low <= most else ""
        note = f"not reached: past the largest budget measured, {most:g}{lower}"
    elif high > most:
        note = f"the interval goes from {low:.3g} past the largest budget measured, {most:g}"
    else:
        note = "at the smallest budget measured, or below" if budget == least else ""
    return {
        "budget": budget if reached else None,
        "interval": [low, high] if reached and high <= most else None,
        "reached": reached,
        "note": note,
    }

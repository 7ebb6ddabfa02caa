"""Intervals for scores of runs that share tiles, seeds and point draws: resampling of crossed factors.

Runs of one seed are alike, as are runs that one draw of points taught and scores on one tile, so none of the three
may be resampled as if the others were new each time. A resample takes tiles, seeds and draws each with replacement
and keeps whatever lies where they cross (Owen, 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2));
all settings share it, so that a whole curve over budgets moves together.

Owen shows that such resamples spread too widely where factors interact; where a factor has three levels they spread
too little. So an interval is estimate +- t * se, with a variance of two parts and the degrees of freedom of
Satterthwaite (1946):

  tiles   the spread over resamples of the tiles alone, times n / (n - 1)
  runs    the largest of the variances of the mean when seeds, draws, or runs are what was drawn at random

The largest and not the sum: what a run has of its own is in all three (Cameron, Gelbach & Miller, 2011, "Robust
inference with multiway clustering", subtract it, which three levels are too few for). docs/statistics.md has the
coverage that was measured. Training tiles are no factor: they are the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

LEVEL = 0.95
"""Of every interval."""


class Labels(NamedTuple):
    """Where runs lie in the crossed factors; a draw is None for a run that no draw of points taught."""

    seeds: Sequence[int]
    draws: Sequence[int | None]


class Interval(NamedTuple):
    """`factors` are those that the interval speaks about: a factor of one level cannot be resampled."""

    low: float
    high: float
    factors: tuple[str, ...]


class Resamples:
    """How often each resample takes each tile, seed and draw: one set, shared by all settings."""

    def __init__(self, num_tiles: int, labels: Labels, resamples: int, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def counts(levels: int) -> np.ndarray:
            return rng.multinomial(levels, np.full(levels, 1 / levels), size=resamples)

        self.tiles = counts(num_tiles)  # int [resamples, tiles]
        self._seeds, self._draws = (
            dict(zip(levels, counts(len(levels)).T, strict=True)) if levels else {}
            for levels in (sorted(set(labels.seeds)), sorted({draw for draw in labels.draws if draw is not None}))
        )

    def means(self, by_tiles: np.ndarray, labels: Labels) -> np.ndarray:
        """Mean over runs, float `[resamples]`, where tiles, seeds and draws are resampled together.

        Args:
          by_tiles: float `[resamples, runs]`, each run's score on the resampled tiles.
          labels: of the runs.

        Returns:
          NaN for a resample that took none of the runs.
        """
        weights = np.stack(
            [
                self._seeds[seed] * (1 if draw is None else self._draws[draw])
                for seed, draw in zip(labels.seeds, labels.draws, strict=True)
            ],
            1,
        )
        with np.errstate(invalid="ignore"):
            return (weights * np.where(weights, by_tiles, 0.0)).sum(1) / weights.sum(1)


def interval(values: np.ndarray, by_tiles: np.ndarray, num_tiles: int, labels: Labels) -> Interval | None:
    """The interval of the mean over runs, for new tiles, seeds and draws as far as there are two levels of each.

    Args:
      values: float `[runs]`, each run's score on all tiles.
      by_tiles: float `[resamples, runs]`, on the resampled tiles; NaN where they have nothing to score.
      num_tiles: how many were resampled.
      labels: of the runs.

    Returns:
      None where there is one tile and one run.
    """
    parts = []
    factors = []
    if num_tiles > 1:
        means = by_tiles.mean(1)
        parts.append((float(np.nanvar(means)) * num_tiles / (num_tiles - 1), num_tiles - 1))
        factors.append("tiles")
    if len(values) > 1:
        by_factor = {
            "seeds": _variance_of_mean(values, labels.seeds),
            "point draws": _variance_of_mean(values, labels.draws),
            "runs": _variance_of_mean(values, range(len(values))),
        }
        parts.append(max(by_factor.values()))
        factors += [name for name in ("seeds", "point draws") if by_factor[name][1]]
    if not parts:
        return None
    variance = sum(part for part, _ in parts)
    reach = 0.0
    if variance:
        freedom = variance**2 / sum(part**2 / levels for part, levels in parts if levels)
        reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    mean = float(values.mean())
    return Interval(mean - reach, mean + reach, tuple(factors))


def _variance_of_mean(values: np.ndarray, labels: Sequence[int | None]) -> tuple[float, int]:
    """Variance of the mean of `values` when what was drawn at random is the labels; and its degrees of freedom.

    By leaving out one label at a time (the jackknife): for labels of equally many values, s^2 / n of their means.
    """
    levels = list(dict.fromkeys(labels))
    if len(levels) < 2:
        return 0.0, 0
    of = np.array([levels.index(label) for label in labels])
    without = np.array([values[of != level].mean() for level in range(len(levels))])
    return float(((without - without.mean()) ** 2).sum()) * (len(levels) - 1) / len(levels), len(levels) - 1


def rescaled(means: np.ndarray, mean: float, spread: Interval) -> np.ndarray:
    """Resampled means, their distances from `mean` scaled until they spread as the interval says; same shape."""
    deviation = float(np.nanstd(means))
    if not deviation:
        return means
    return mean + (means - mean) * (spread.high - spread.low) / 2 / (scipy.stats.norm.ppf((1 + LEVEL) / 2) * deviation)

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from pcejax import crossed_bootstrap
from pcejax.crossed_bootstrap import Labels, Resamples


def crossed(seeds, draws):
    """Labels of runs of every seed with every draw, seeds outside."""
    return Labels(*np.indices((seeds, draws)).reshape(2, -1).tolist())


def test_every_resample_takes_as_many_tiles_as_there_are_each_as_likely():
    counts = Resamples(7, crossed(3, 3), 4000, 0).tiles
    assert counts.shape == (4000, 7)
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts.mean(0), 1.0, atol=0.06)


def test_settings_share_each_resample_so_that_an_offset_between_them_stays():
    """The same runs, 0.1 better on every tile: so are their means in every resample."""
    labels, rng = crossed(3, 5), np.random.default_rng(0)
    resamples = Resamples(10, labels, 500, 0)
    by_tiles = resamples.tiles @ rng.random((10, 15)) / 10
    moved = resamples.means(by_tiles + 0.1, labels) - resamples.means(by_tiles, labels)
    np.testing.assert_allclose(moved, 0.1, atol=1e-12)


def test_the_spread_of_crossed_resamples_is_owens():
    """Pure main effects: the variances of the factors' means add up (Owen, 2007, theorem 1, without interaction)."""
    rng = np.random.default_rng(0)
    tiles, seeds, draws = rng.normal(size=12), rng.normal(size=5), rng.normal(size=4)
    labels = crossed(5, 4)
    resamples = Resamples(12, labels, 40_000, 0)
    runs = seeds[labels.seeds] + draws[labels.draws]
    means = resamples.means((resamples.tiles @ tiles / 12)[:, None] + runs, labels)
    expected = tiles.var() / 12 + seeds.var() / 5 + draws.var() / 4
    assert means.var() == pytest.approx(expected, rel=0.03)
    assert means.mean() == pytest.approx(tiles.mean() + seeds.mean() + draws.mean(), abs=0.02)


def test_a_resample_that_took_none_of_the_runs_is_nan():
    """Runs of two of five draws: some resamples take neither."""
    labels = crossed(3, 5)
    resamples = Resamples(4, labels, 1000, 0)
    few = Labels([0, 0], [0, 1])
    means = resamples.means(np.ones((1000, 2)), few)
    assert 0.2 < np.isnan(means).mean() < 0.5
    np.testing.assert_array_equal(means[~np.isnan(means)], 1.0)


def test_runs_without_a_draw_move_with_their_seed_alone():
    resamples = Resamples(4, Labels([0, 1, 2, 0], [0, 1, 2, None]), 200, 0)
    means = resamples.means(np.tile([1.0, 2.0, 4.0], (200, 1)), Labels([0, 1, 2], [None] * 3))
    assert not np.isnan(means).any()
    assert set(np.round(means * 3, 6)) <= {3.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0, 12.0, 7.0}


@pytest.mark.parametrize(
    ("values", "labels", "factors", "levels"),
    [
        (np.repeat([0.1, 0.4, 0.2], 4), crossed(3, 4), ("seeds", "point draws"), [0.1, 0.4, 0.2]),
        (np.tile([0.1, 0.4, 0.2, 0.5], 3), crossed(3, 4), ("seeds", "point draws"), [0.1, 0.4, 0.2, 0.5]),
        (np.array([0.1, 0.4, 0.2]), Labels([0, 1, 2], [None] * 3), ("seeds",), [0.1, 0.4, 0.2]),
        (np.array([0.1, 0.4, 0.2]), Labels([5, 5, 5], [4, 7, 9]), ("point draws",), [0.1, 0.4, 0.2]),
    ],
)
def test_over_runs_the_interval_is_that_of_t_over_the_levels_that_differ(values, labels, factors, levels):
    """Against scipy: runs of a seed are alike, so that three seeds are three numbers whatever the draws."""
    spread = crossed_bootstrap.interval(values, np.tile(values, (10, 1)), 1, labels)
    expected = scipy.stats.t.interval(0.95, len(levels) - 1, np.mean(levels), scipy.stats.sem(levels))
    assert (spread.low, spread.high) == pytest.approx(expected, abs=1e-12)
    assert spread.factors == factors


def test_over_tiles_the_variance_is_that_of_a_mean_to_the_resamples_noise():
    """One run whose score is the mean over tiles: s^2 / n in closed form."""
    scores = np.random.default_rng(0).random(9)
    labels = Labels([0], [0])
    by_tiles = Resamples(9, labels, 40_000, 0).tiles @ scores[:, None] / 9
    spread = crossed_bootstrap.interval(np.array([scores.mean()]), by_tiles, 9, labels)
    expected = scipy.stats.t.interval(0.95, 8, scores.mean(), scipy.stats.sem(scores))
    assert (spread.low, spread.high) == pytest.approx(expected, rel=0.01)
    assert spread.factors == ("tiles",)


def test_parts_add_up_with_the_degrees_of_freedom_of_satterthwaite():
    """Tiles and seeds with one variance each: Welch's formula, by hand."""
    rng = np.random.default_rng(0)
    by_tiles = np.tile(rng.normal(size=(50_000, 1)), (1, 3)) * 0.01 * np.sqrt(4 / 5)  # variance 1e-4 for 5 tiles
    values = np.array([-1.0, 0.0, 1.0]) * 0.01 * np.sqrt(3)  # variance of the mean 1e-4
    spread = crossed_bootstrap.interval(values, by_tiles, 5, Labels([0, 1, 2], [0, 0, 0]))
    freedom = 2**2 / (1 / 4 + 1 / 2)
    assert spread.high == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * np.sqrt(2e-4), rel=0.01)


def test_what_a_run_has_of_its_own_is_counted_once():
    """Where every seed has a draw of its own, seeds, draws and runs are the same three numbers: t over three, once."""
    values = np.array([0.1, 0.4, 0.2])
    spread = crossed_bootstrap.interval(values, np.tile(values, (10, 1)), 1, Labels([0, 1, 2], [7, 8, 9]))
    expected = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert (spread.low, spread.high) == pytest.approx(expected, abs=1e-12)


def test_one_run_on_one_tile_has_no_interval():
    assert crossed_bootstrap.interval(np.ones(1), np.ones((5, 1)), 1, Labels([0], [0])) is None


def test_rescaled_means_spread_as_their_interval_and_keep_their_order():
    means = np.random.default_rng(0).normal(0.5, 0.01, 20_000)
    spread = crossed_bootstrap.Interval(0.4, 0.6, ())
    moved = crossed_bootstrap.rescaled(means, 0.5, spread)
    np.testing.assert_allclose(np.percentile(moved, [2.5, 97.5]), [0.4, 0.6], atol=0.003)
    np.testing.assert_array_equal(np.argsort(moved), np.argsort(means))


@pytest.mark.parametrize(
    ("seeds", "draws", "tiles", "deviations"),
    [
        (3, 3, 20, (0.0, 0.0, 1.0, 0.0, 0.5)),
        (3, 5, 30, (0.3, 0.3, 1.0, 0.3, 1.0)),
        (3, 3, 4, (0.3, 0.5, 1.0, 0.3, 0.5)),
        (2, 2, 20, (0.3, 0.5, 1.0, 0.3, 0.5)),
        (3, 3, 20, (0.0, 0.0, 0.0, 0.3, 1.0)),
        (3, 3, 20, (1.0, 1.0, 0.0, 0.3, 0.3)),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_promise(seeds, draws, tiles, deviations):
    """1000 sets of scores that are 0 but for what seeds, draws, tiles, runs and runs on tiles add.

    At a rate of 0.95, 930 or fewer come one time in 300; a few of these cases are truly at 0.93.
    """
    rng = np.random.default_rng(0)
    labels = crossed(seeds, draws)
    counts = Resamples(tiles, labels, 100, 0).tiles / tiles
    held = 0
    for _ in range(1000):
        of_seed, of_draw, of_tile, of_run, rest = (
            deviation * rng.normal(size=shape)
            for deviation, shape in zip(
                deviations,
                ((1, seeds, 1), (1, 1, draws), (tiles, 1, 1), (1, seeds, draws), (tiles, seeds, draws)),
                strict=True,
            )
        )
        scores = (of_seed + of_draw + of_tile + of_run + rest).reshape(tiles, -1)
        spread = crossed_bootstrap.interval(scores.mean(0), counts @ scores, tiles, labels)
        held += spread.low <= 0 <= spread.high
    assert held >= 920

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from simulated_runs import Noise, World, matrices, runs_of

from pcejax import metrics
from pcejax.ablation_statistics import MIN_TILES, summarise
from pcejax.errors import UserError

CLASSES = ("urban", "field", "range", "wood", "water", "rock")
NOISE = Noise(tile=0.8, seed=0.15, draw=0.2, run=0.15, setting_tile=0.3, run_tile=0.3)
MODEL_AXES = {"model": ("0", "1")}


def simulated(log_odds=(0.5, 1.0), rng_seed=0, noise=NOISE, **sizes):
    return matrices(World(noise, log_odds, **sizes), np.random.default_rng(rng_seed))


def summary_of(runs, axes=MODEL_AXES, differences=(("model", "1", "0"),), **given):
    given = {"budget_axis": None, "budgets": {}, "references": {}, "resamples": 200} | given
    return summarise(runs, axes, CLASSES, differences=differences, **given)


BUDGETS = {"1": 1, "3": 3, "10": 10, "30": 30, "dense": None}


def sparsity(rng_seed=0, draws=5, **sizes):
    """Runs over budgets: five draws at the lowest two budgets, three above, and dense ones without draws."""
    drawn = simulated((-0.5, 0.2, 0.7, 1.0, 1.1), rng_seed, draws=draws, **sizes)
    runs = []
    for run in runs_of(drawn, "points"):
        label = list(BUDGETS)[int(run.levels["points"])]
        if run.point_seed < {"1": 5, "3": 5, "dense": 1}.get(label, 3):
            runs.append(run._replace(levels={"points": label}))
    return runs


def sparsity_summary(runs, **given):
    asked = [("points", "3", "1"), ("points", "dense", "30"), ("points", "30", "dense")]
    given = {"budget_axis": "points", "budgets": BUDGETS, "references": {"dense": "dense"}} | given
    return summary_of(runs, {"points": tuple(BUDGETS)}, asked, **given)


# Scores


def test_a_settings_miou_is_the_mean_over_runs_of_that_of_matrices_summed_over_tiles():
    drawn = simulated()
    told = summary_of(runs_of(drawn))["settings"]
    for setting in (0, 1):
        by_run = [metrics.miou(drawn[setting, s, d].sum(0), len(CLASSES)) for s in range(3) for d in range(3)]
        assert told[setting]["miou"] == pytest.approx(np.mean(by_run), abs=1e-12)
        assert (told[setting]["runs"], told[setting]["seeds"], told[setting]["point_seeds"]) == (9, 3, 3)
        assert told[setting]["annotator_hours"] == 1 + setting


def test_pixels_of_unknown_truth_change_nothing():
    drawn = simulated()
    other = drawn.copy()
    other[..., len(CLASSES), :] = 12_345
    assert summary_of(runs_of(drawn)) == summary_of(runs_of(other))


def test_a_class_that_no_tile_has_and_no_run_maps_is_null_and_left_out_of_the_mean():
    drawn = simulated()
    drawn[..., 5, :] = drawn[..., :, 5] = 0
    setting = summary_of(runs_of(drawn))["settings"][0]
    assert setting["iou"]["rock"] is None
    assert setting["iou_interval"]["rock"] is None
    assert setting["miou"] == pytest.approx(np.mean([v for v in setting["iou"].values() if v is not None]), abs=1e-12)


def test_a_class_on_one_tile_has_a_score_and_no_interval():
    drawn = simulated()
    drawn[:, :, :, 1:, 5, :] = 0
    drawn[:, :, :, 0, 5, 5] = 500
    setting = summary_of(runs_of(drawn))["settings"][0]
    assert setting["iou"]["rock"] is not None
    assert setting["iou_interval"]["rock"] is None
    assert setting["iou_interval"]["urban"] is not None


def test_deviations_over_seeds_and_over_draws_are_told_apart():
    """Runs that differ by their seed alone have no deviation over draws, and the other way round."""
    drawn = simulated()
    by_seed = np.repeat(drawn[:, :, :1], 3, axis=2)
    miou = metrics.miou(by_seed[0, :, 0].sum(1), len(CLASSES))
    setting = summary_of(runs_of(by_seed))["settings"][0]
    assert setting["sd_seeds"] == pytest.approx(np.std(miou, ddof=1), abs=1e-12)
    assert setting["sd_point_seeds"] == pytest.approx(0.0, abs=1e-12)
    swapped = summary_of(runs_of(by_seed.swapaxes(1, 2)))["settings"][0]
    assert swapped["sd_point_seeds"] == pytest.approx(setting["sd_seeds"], abs=1e-12)
    alone = summary_of(runs_of(drawn[:, :1, :1]))["settings"][0]
    assert alone["sd_seeds"] is None
    assert alone["sd_point_seeds"] is None


def test_retention_is_against_each_reference_at_the_same_levels_of_the_other_axes():
    runs = sparsity()
    deep = [run._replace(levels=run.levels | {"model": "deep"}) for run in sparsity(rng_seed=1)]
    runs = [run._replace(levels=run.levels | {"model": "plain"}) for run in runs] + deep
    axes = {"points": tuple(BUDGETS), "model": ("plain", "deep")}
    told = summary_of(runs, axes, [], budget_axis="points", budgets=BUDGETS, references={"dense": "dense"})["settings"]
    miou = {tuple(setting["levels"].values()): setting["miou"] for setting in told}
    assert len(told) == 10
    for setting in told:
        dense = miou["dense", setting["levels"]["model"]]
        assert setting["retention"] == {"dense": pytest.approx(setting["miou"] / dense), "dense_balanced": None}


# Differences


def test_settings_whose_runs_made_the_same_maps_differ_by_nothing():
    drawn = simulated()
    drawn[1] = drawn[0]
    told = summary_of(runs_of(drawn))["differences"][0]
    assert told["difference"] == 0.0
    assert told["interval"] == [0.0, 0.0]
    assert told["claim"] is False
    assert set(told["tiles"].values()) == {0.0}


def of_one_class(hits):
    """Matrices `[settings, seeds, draws, tiles, 7, 7]` of one class, whose IoU is hits / 1000 on every tile."""
    hits = np.asarray(hits)
    result = np.zeros((*hits.shape, 7, 7), np.int64)
    result[..., 0, 0], result[..., 0, 6] = hits, 1000 - hits
    return result


def test_over_seeds_alone_the_interval_is_that_of_the_paired_t_test():
    """Tiles are alike and there is one draw, so nothing but seeds differs; against scipy."""
    rng = np.random.default_rng(0)
    hits = np.repeat(rng.integers(300, 700, (2, 6, 1, 1)), 25, axis=3)
    told = summary_of(runs_of(of_one_class(hits)))["differences"][0]
    miou = hits[..., 0, 0] / 1000
    expected = scipy.stats.ttest_rel(miou[1], miou[0]).confidence_interval(0.95)
    assert told["interval"] == pytest.approx(list(expected), abs=1e-9)
    assert told["resampled"] == ["tiles", "seeds"]
    assert told["pairs"] == 6


def test_over_tiles_alone_the_interval_is_that_of_the_paired_t_test():
    """One run of each setting; tiles of equal size, so the score is the mean of the tiles'; to the resamples' noise."""
    hits = np.random.default_rng(0).integers(300, 700, (2, 1, 1, 25))
    told = summary_of(runs_of(of_one_class(hits)), resamples=20_000)["differences"][0]
    expected = scipy.stats.ttest_rel(hits[1, 0, 0] / 1000, hits[0, 0, 0] / 1000).confidence_interval(0.95)
    assert told["interval"] == pytest.approx(list(expected), abs=0.03 * (expected.high - expected.low))
    assert told["resampled"] == ["tiles"]
    for tile, value in enumerate((hits[1, 0, 0] - hits[0, 0, 0]) / 1000):
        assert told["tiles"][f"tile_{tile:03d}"] == pytest.approx(value, abs=1e-12)


def test_an_offset_that_is_the_same_everywhere_has_an_interval_of_no_width():
    """Level 1 is better by 0.04 in every run and on every tile, whatever else runs and tiles add to both."""
    rng = np.random.default_rng(0)
    shared = rng.integers(-150, 150, (1, 3, 3, 25))
    told = summary_of(runs_of(of_one_class(500 + shared + [[[[0]]], [[[40]]]])))
    low, high = told["differences"][0]["interval"]
    assert (low, high) == pytest.approx((0.04, 0.04), abs=1e-9)
    assert told["differences"][0]["claim"] is True
    for setting in told["settings"]:
        assert setting["interval"][1] - setting["interval"][0] > 0.03


def test_pairs_are_of_the_same_seed_and_draw_and_a_dense_run_is_paired_with_every_draw_of_its_seed():
    told = sparsity_summary(sparsity())["differences"]
    assert [(d["level"], d["against"], d["pairs"]) for d in told] == [
        ("3", "1", 15),
        ("dense", "30", 9),
        ("30", "dense", 9),
    ]
    assert told[1]["difference"] == pytest.approx(-told[2]["difference"], abs=1e-12)
    assert told[1]["interval"] == pytest.approx([-told[2]["interval"][1], -told[2]["interval"][0]], abs=1e-12)
    assert told[1]["resampled"] == ["tiles", "seeds", "point draws"]


def test_arms_that_failed_are_missing_and_no_more():
    runs = sparsity()
    lacking = [run for run in runs if (run.levels["points"], run.seed, run.point_seed) != ("3", 2, 4)]
    told, whole = sparsity_summary(lacking), sparsity_summary(runs)
    assert told["settings"][1]["runs"] == 14
    assert told["differences"][0]["pairs"] == 14
    assert told["settings"][0] == whole["settings"][0]
    without_budget = [run for run in runs if run.levels["points"] != "3"]
    told = sparsity_summary(without_budget)
    assert [setting["levels"]["points"] for setting in told["settings"]] == ["1", "10", "30", "dense"]
    assert told["comparisons"] == len(told["differences"]) == 2


def test_nothing_is_claimed_below_20_tiles():
    """The same large effect, on 19 tiles and on 20."""
    for tiles in (MIN_TILES - 1, MIN_TILES):
        told = summary_of(runs_of(simulated((-1.0, 2.0), tiles=tiles)))
        assert told["differences"][0]["interval"][0] > 0
        assert told["descriptive"] is (tiles < 20)
        assert told["differences"][0]["claim"] is (tiles >= 20)
        assert len(told["differences"][0]["tiles"]) == tiles


def test_nothing_is_claimed_from_one_seed():
    told = summary_of(runs_of(simulated((-1.0, 2.0), seeds=1)))["differences"][0]
    assert told["interval"][0] > 0
    assert told["claim"] is False
    assert told["resampled"] == ["tiles", "point draws"]


def test_the_other_axes_are_held_and_told():
    runs = [run._replace(levels=run.levels | {"points": points}) for points in "ab" for run in runs_of(simulated())]
    told = summary_of(runs, {"model": ("0", "1"), "points": ("a", "b")})["differences"]
    assert [difference["held"] for difference in told] == [{"points": "a"}, {"points": "b"}]


# Curves


def test_a_curve_is_told_over_its_budgets_without_the_dense_runs():
    told = sparsity_summary(sparsity())
    (curve,) = told["saturation"]
    assert curve["points"] == [[b, s["miou"]] for b, s in zip((1, 3, 10, 30), told["settings"], strict=False)]
    assert curve["held"] == {}
    assert curve["limit_interval"][0] < curve["limit"] <= curve["limit_interval"][1] <= 1


def test_budgets_that_move_alike_keep_the_shape_of_their_curve():
    """Tiles, seeds and draws that lift all budgets by one factor change the limit, not where 90 % of it is reached.

    Single budgets resampled apart would scatter that budget.
    """
    lift = 1 + 0.3 * np.random.default_rng(0).uniform(-1, 1, (1, 3, 3, 25))
    heights = 0.6 - 0.3 * np.array([1.0, 3.0, 10.0, 30.0]) ** -0.8
    runs = runs_of(of_one_class(np.rint(1000 * heights[:, None, None, None] * lift).astype(int)), "points")
    runs = [run._replace(levels={"points": list(BUDGETS)[int(run.levels["points"])]}) for run in runs]
    (curve,) = sparsity_summary(runs)["saturation"]
    low, high = curve["budgets"]["0.90"]["interval"]
    assert curve["limit_interval"][1] - curve["limit_interval"][0] > 0.03
    assert high / low < 1.05


def test_no_budgets_no_curve():
    assert summary_of(runs_of(simulated()))["saturation"] == []


# The result


def test_the_result_is_json_and_the_same_each_time():
    runs = sparsity(tiles=5)
    text = json.dumps(sparsity_summary(runs), allow_nan=False)
    assert text == json.dumps(sparsity_summary(runs), allow_nan=False)
    assert json.loads(text) == sparsity_summary(runs)


def test_one_run_on_one_tile_has_no_interval():
    told = summary_of(runs_of(simulated(seeds=1, draws=1, tiles=1)))
    assert told["settings"][0]["interval"] is None
    assert told["settings"][0]["resampled"] == []
    assert told["differences"][0]["interval"] is None
    assert told["differences"][0]["claim"] is False


def test_runs_of_other_tiles_are_refused_by_name():
    runs = runs_of(simulated())
    del runs[4].matrices["tile_003"]
    with pytest.raises(
        UserError, match=r"run model=0,seed=1,draw=1: scored on other tiles .* tile_003 are in only one"
    ):
        summary_of(runs)


def test_no_runs_are_refused():
    with pytest.raises(UserError, match="no arm has finished"):
        summary_of([])


def test_runs_without_a_known_pixel_are_refused_by_name():
    drawn = simulated()
    drawn[1, 2, 0, :, : len(CLASSES)] = 0
    with pytest.raises(UserError, match="run model=1,seed=2,draw=0: no pixel of a known class"):
        summary_of(runs_of(drawn))


# Rates


def test_a_null_is_claimed_at_most_at_the_rate_promised_and_a_large_effect_is_found():
    """100 repeats of 24 tiles, 3 seeds and 3 draws: of two settings alike, and of one that is better by 0.11."""
    noise = Noise(tile=0.8, run=0.2, run_tile=0.3, setting_tile=0.2)
    claims = {}
    for odds in (1.0, 1.7):
        told = [
            summary_of(runs_of(simulated((1.0, odds), repeat, noise, tiles=24)), resamples=100)["differences"][0]
            for repeat in range(100)
        ]
        claims[odds] = sum(difference["claim"] for difference in told)
    assert claims[1.0] <= 8  # of 100 at a rate of 5 %, one time in 20 more than 8
    assert claims[1.7] >= 90

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score, jaccard_score

from pcejax import metrics
from pcejax.legend import DEEPGLOBE, IGNORE

KNOWN, ALL = list(range(6)), list(range(7))


def random_maps(seed=0, size=3000, truths=(*ALL, IGNORE), predictions=KNOWN):
    """Truth and a prediction that is right half the time."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(truths, size).astype(np.uint8)
    guess = rng.choice(predictions, size).astype(np.uint8)
    right = (rng.random(size) < 0.5) & np.isin(truth, predictions)
    return truth, np.where(right, truth, guess).astype(np.uint8)


def scores_of(truth, predicted, train_unknown=False):
    matrix = metrics.confusion_matrix(truth, predicted, DEEPGLOBE.num_classes)
    return metrics.scores(matrix, DEEPGLOBE, train_unknown=train_unknown)


@pytest.mark.parametrize("predictions", [KNOWN, ALL])
def test_the_matrix_is_that_of_sklearn_without_ignore(predictions):
    truth, predicted = random_maps(predictions=predictions)
    counted = truth != IGNORE
    matrix = metrics.confusion_matrix(truth.reshape(50, 60), predicted.reshape(50, 60), 7)
    np.testing.assert_array_equal(matrix, confusion_matrix(truth[counted], predicted[counted], labels=ALL))
    assert matrix.dtype == np.int64
    assert matrix.sum() == counted.sum() < truth.size


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("predictions", [KNOWN, ALL])
def test_scores_are_those_of_sklearn_over_pixels_of_known_truth(seed, predictions):
    truth, predicted = random_maps(seed, predictions=predictions)
    result = scores_of(truth, predicted)
    known = truth < DEEPGLOBE.num_known
    truth, predicted = truth[known], predicted[known]
    names = DEEPGLOBE.names[:6]
    assert list(result["iou"]) == list(result["f1"]) == list(names)
    iou = jaccard_score(truth, predicted, labels=KNOWN, average=None)
    f1 = f1_score(truth, predicted, labels=KNOWN, average=None)
    np.testing.assert_allclose(list(result["iou"].values()), iou, rtol=1e-12)
    np.testing.assert_allclose(list(result["f1"].values()), f1, rtol=1e-12)
    assert result["miou"] == pytest.approx(iou.mean(), rel=1e-12)
    assert result["mean_f1"] == pytest.approx(f1.mean(), rel=1e-12)
    assert result["overall_accuracy"] == pytest.approx(accuracy_score(truth, predicted), rel=1e-12)
    assert result["kappa"] == pytest.approx(cohen_kappa_score(truth, predicted), rel=1e-12)
    assert "miou_glnet" not in result


def test_pixels_of_unknown_truth_change_only_glnets_miou():
    truth, predicted = random_maps(truths=KNOWN)
    more_truth = np.concatenate([truth, np.full(500, 6, np.uint8)])
    more_predicted = np.concatenate([predicted, np.full(500, 2, np.uint8)])
    plain, more = scores_of(truth, predicted, True), scores_of(more_truth, more_predicted, True)
    assert more.pop("miou_glnet") < plain.pop("miou_glnet")
    assert more == plain


def test_glnets_miou_counts_unknown_truth_as_false_positives():
    truth, predicted = random_maps(predictions=ALL)
    counted = truth != IGNORE
    expected = jaccard_score(truth[counted], predicted[counted], labels=KNOWN, average="macro")
    assert scores_of(truth, predicted, True)["miou_glnet"] == pytest.approx(expected, rel=1e-12)


def test_a_class_absent_from_truth_and_prediction_is_none_and_not_in_the_means():
    truth, predicted = random_maps(truths=[0, 1, 2], predictions=[0, 1, 3])
    result = scores_of(truth, predicted)
    assert result["iou"]["water"] is None
    assert result["f1"]["water"] is None
    # In truth alone, or in the prediction alone: a miss, and it counts.
    assert result["iou"]["rangeland"] == result["iou"]["forest"] == 0.0
    present = [value for value in result["iou"].values() if value is not None]
    assert len(present) == 4
    assert result["miou"] == pytest.approx(np.mean(present))
    assert result["mean_f1"] == pytest.approx(np.mean([v for v in result["f1"].values() if v is not None]))
    assert json.loads(json.dumps(result)) == result


def test_a_perfect_map_scores_one():
    truth, _ = random_maps()
    result = scores_of(truth, np.where(truth == IGNORE, 0, truth).astype(np.uint8), True)
    for name in ("miou", "mean_f1", "overall_accuracy", "kappa", "miou_glnet"):
        assert result[name] == 1.0


def test_scores_come_from_the_summed_matrix():
    truth, predicted = random_maps()
    parts = [metrics.confusion_matrix(truth[rows], predicted[rows], 7) for rows in (slice(0, 900), slice(900, None))]
    np.testing.assert_array_equal(sum(parts), metrics.confusion_matrix(truth, predicted, 7))


def test_iou_and_miou_of_many_matrices_are_those_of_each():
    matrices = np.random.default_rng(0).integers(0, 50, (4, 7, 7))
    matrices[1, 3] = matrices[1, :, 3] = 0
    for index, matrix in enumerate(matrices):
        result = metrics.scores(matrix, DEEPGLOBE, train_unknown=False)
        expected = [np.nan if value is None else value for value in result["iou"].values()]
        np.testing.assert_allclose(metrics.iou(matrices, 6)[index], expected)
        assert metrics.miou(matrices, 6)[index] == pytest.approx(result["miou"])
    assert np.isnan(metrics.iou(matrices, 6)[1, 3])


def tile_matrices(tiles, seed=0):
    """Tiles that differ much in how well they are mapped."""
    rng = np.random.default_rng(seed)
    wrong = rng.integers(0, 30, (tiles, 7, 7))
    return wrong + np.einsum("t,ij->tij", rng.integers(50, 500, tiles), np.eye(7, dtype=np.int64))


def test_the_bootstrap_interval_holds_the_point_estimate_and_shrinks_with_tiles():
    widths = []
    for tiles in (20, 80, 320):
        matrices = tile_matrices(tiles)
        low, high = metrics.bootstrap_miou(matrices, 6)
        assert low < metrics.miou(matrices.sum(0), 6) < high
        widths.append(high - low)
    # As the root of the number of tiles, within a third.
    for wide, narrow in itertools.pairwise(widths):
        assert 1.5 < wide / narrow < 2.7


def test_the_bootstrap_covers_the_score_of_all_tiles_about_as_often_as_it_says():
    population = tile_matrices(4000, seed=1)
    score = metrics.miou(population.sum(0), 6)
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        low, high = metrics.bootstrap_miou(population[rng.integers(0, 4000, 40)], 6, draws=300)
        hits += low <= score <= high
    assert 86 <= hits <= 100


def test_the_bootstrap_is_a_function_of_its_seed():
    matrices = tile_matrices(10)
    assert metrics.bootstrap_miou(matrices, 6) == metrics.bootstrap_miou(matrices, 6)
    assert metrics.bootstrap_miou(matrices, 6) != metrics.bootstrap_miou(matrices, 6, seed=1)


def test_tiles_that_are_alike_have_an_interval_without_width():
    matrix = tile_matrices(1)
    low, high = metrics.bootstrap_miou(np.repeat(matrix, 12, 0), 6)
    assert low == pytest.approx(high)
    assert low == pytest.approx(float(metrics.miou(matrix[0], 6)))


def test_compute_divides_sums_by_counts_once():
    def step(loss, weight, correct):
        return {
            "loss": Average(jnp.float32(loss), jnp.float32(weight)),
            "accuracy": Average(jnp.int32(correct), jnp.int32(4)),
            "nothing": Average(jnp.float32(0), jnp.float32(0)),
        }

    measured = metrics.compute([step(10, 1, 4), step(2, 3, 1)])
    # A mean of means would give 5.33 for the loss.
    assert measured == {"loss": 3.0, "accuracy": 0.625, "nothing": 0.0}


def test_compute_adds_in_float64():
    steps = [{"loss": Average(np.float32(value), np.float32(1))} for value in (2**24, *[1] * 8)]
    assert metrics.compute(steps)["loss"] == (2**24 + 8) / 9

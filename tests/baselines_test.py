import json

import numpy as np
import pytest
import scipy.ndimage
from runs_for_tests import builder_of, config_of, prepare, save_run
from sklearn.ensemble import ExtraTreesClassifier

from pcejax import baselines, metrics, runs, tiles
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(baselines, "ExtraTreesClassifier", lambda count, **rest: ExtraTreesClassifier(10, **rest))


def random_image(shape=(50, 60), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_colour_is_less_the_tiles_mean():
    image = random_image()
    centred = baselines.centred_color(image)
    assert centred.dtype == np.float32
    np.testing.assert_allclose(centred.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(centred, image - image.mean((0, 1)), atol=1e-4)
    # A tile that is brighter all over gives the same features.
    dark = image // 2
    np.testing.assert_allclose(baselines.centred_color(dark + 100), baselines.centred_color(dark), atol=1e-3)


def test_texture_is_mean_deviation_and_gradient_of_each_window():
    image = random_image()
    features = baselines.texture(image)
    assert features.shape == (50, 60, 3 + 7 * len(baselines.WINDOWS))
    assert features.dtype == np.float32
    color = image - image.mean((0, 1))
    np.testing.assert_allclose(features[..., :3], color, atol=1e-3)
    grey = color.mean(-1)
    gradient = np.hypot(scipy.ndimage.sobel(grey, 0), scipy.ndimage.sobel(grey, 1))
    row, col = 25, 30
    for index, window in enumerate(baselines.WINDOWS):
        half = window // 2
        place = np.s_[row - half : row + half + 1, col - half : col + half + 1]
        of_window = features[row, col, 3 + 7 * index :][:7]
        np.testing.assert_allclose(of_window[:3], color[place].mean((0, 1)), atol=0.01)
        np.testing.assert_allclose(of_window[3:6], color[place].std((0, 1)), rtol=1e-3)
        np.testing.assert_allclose(of_window[6], gradient[place].mean(), rtol=1e-3)


def test_a_tile_of_one_colour_has_finite_texture():
    np.testing.assert_array_equal(baselines.texture(np.full((20, 20, 3), 77, np.uint8)), 0)


def test_the_trees_are_taught_by_the_runs_points_and_scored_on_the_split(data_dir, tmp_path, capsys):
    config = config_of(data_dir, **{"points.budget": 10})
    save_run(tmp_path, config)
    result = baselines.score_baselines(tmp_path, "test")
    assert list(result) == list(baselines.BASELINES)
    assert json.loads(runs.baselines_path(tmp_path, "test").read_text()) == result
    # The first one by hand.
    colors, classes = [], []
    for tile in tiles.read(builder_of(config), "train"):
        drawn = tiles.labels_of(tile, config, DEEPGLOBE).points
        colors.append(baselines.centred_color(tile.image())[drawn.row, drawn.col])
        classes.append(drawn.class_id)
    trees = ExtraTreesClassifier(10, class_weight="balanced", random_state=0)
    trees.fit(np.concatenate(colors), np.concatenate(classes))
    matrix = np.zeros((7, 7), np.int64)
    for tile in tiles.read(builder_of(config), "test"):
        predicted = trees.predict(baselines.centred_color(tile.image()).reshape(-1, 3)).reshape(tile.mask().shape)
        every = np.s_[:: baselines.STRIDE, :: baselines.STRIDE]
        matrix += metrics.confusion_matrix(tile.mask()[every], predicted[every], 7)
    expected = metrics.scores(matrix, DEEPGLOBE, train_unknown=False)
    first = result["trees on colour less the tile's mean"]
    assert first["miou"] == pytest.approx(expected["miou"])
    assert first["iou"] == pytest.approx(expected["iou"])
    assert "baselines: tiles 15/15" in capsys.readouterr().out


def test_the_pixels_that_the_run_is_not_scored_on_are_not_scored_here(data_dir, tmp_path, monkeypatch):
    config = config_of(data_dir, **{"inference.buffer_px": 5})
    save_run(tmp_path, config)
    scored = []

    def record(truth, predicted, num_classes):
        scored.append(truth)
        return np.eye(num_classes, dtype=np.int64)

    monkeypatch.setattr(metrics, "confusion_matrix", record)
    baselines.score_baselines(tmp_path, "train[:1]")
    assert len(scored) == 3
    drawn = tiles.labels_of(tiles.read(builder_of(config), "train[:1]")[0], config, DEEPGLOBE).points
    for truth in scored:
        assert (truth == IGNORE).any()
        assert (truth[drawn.row // baselines.STRIDE, drawn.col // baselines.STRIDE] == IGNORE).all()


@pytest.mark.parametrize("annotator", ["dense", "dense_balanced"])
def test_dense_masks_are_refused(data_dir, tmp_path, annotator):
    save_run(tmp_path, config_of(data_dir, **{"points.annotator": annotator}))
    with pytest.raises(
        UserError, match=f"points.annotator='{annotator}': the baselines are taught by few labels; take"
    ):
        baselines.score_baselines(tmp_path, "test")


def test_mixed_splits_are_refused(data_dir, tmp_path):
    save_run(tmp_path, config_of(data_dir))
    with pytest.raises(UserError, match="1 of 3 tiles taught the run"):
        baselines.score_baselines(tmp_path, "train[:1]+test")


def test_strokes_and_patches_teach_too_so_many_pixels_a_tile_at_most(data_dir, tmp_path, monkeypatch):
    config = config_of(data_dir, **{"points.annotator": "block", "points.block_px": 8, "data.num_labelled_tiles": 2})
    save_run(tmp_path, config)
    taught = []

    class Trees(ExtraTreesClassifier):
        def fit(self, samples, classes):
            taught.append((samples, classes))
            return super().fit(samples, classes)

    monkeypatch.setattr(baselines, "ExtraTreesClassifier", lambda count, **rest: Trees(2, **rest))
    baselines.score_baselines(tmp_path, "test")
    expected = []
    for tile in tiles.read_labelled(builder_of(config), config):
        label = tiles.labels_of(tile, config, DEEPGLOBE, factor=1).label
        expected.append((baselines.centred_color(tile.image())[label != IGNORE], label[label != IGNORE]))
    assert len(expected) == 2
    for got, wanted in zip(taught[0], zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(got, np.concatenate(wanted))
    taught.clear()
    monkeypatch.setattr(baselines, "MAX_SAMPLES", 20)
    baselines.score_baselines(tmp_path, "test")
    assert [len(classes) for _, classes in taught] == [2 * 20, 2 * 20]

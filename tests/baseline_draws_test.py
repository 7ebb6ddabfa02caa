import json

import numpy as np
import pytest
from runs_for_tests import builder_of, config_of, prepare

from pcejax import baseline_draws, baselines, evaluate, frozen_features, label_tiles, metrics, tiles
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE

COLOUR = "trees on colour less the tile's mean"
STRIDE = 8


class Nearest:
    """The class of the one labelled pixel with the nearest colour."""

    def fit(self, samples, classes):
        self.samples, self.classes = samples, classes
        return self

    def predict(self, samples):
        distance = ((samples[:, None] - self.samples) ** 2).sum(-1)
        return self.classes[distance.argmin(1)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(baseline_draws, "STRIDE", STRIDE)
    for name, one in baselines.BASELINES.items():
        monkeypatch.setitem(baselines.BASELINES, name, one._replace(learner=Nearest))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_hand(taught_by, scored_on, config):
    """The matrices of the tiles as `evaluate` and `tiles` would have them."""
    raw = {tile.tile_id: tile for split in (taught_by, scored_on) for tile in tiles.read(builder_of(config), split)}
    ids = [[tile.tile_id for tile in tiles.read(builder_of(config), split)] for split in (taught_by, scored_on)]
    drawn = {tile_id: tiles.labels_of(raw[tile_id], config, DEEPGLOBE, factor=1).points for tile_id in ids[0]}
    samples = [baselines.centred_color(raw[tile_id].image())[p.row, p.col] for tile_id, p in drawn.items()]
    learner = Nearest().fit(np.concatenate(samples), np.concatenate([p.class_id for p in drawn.values()]))
    every, matrices = np.s_[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE], {}
    for tile_id in ids[1]:
        mask = raw[tile_id].mask()
        label = label_tiles.rasterise(drawn[tile_id], mask.shape, 1) if tile_id in drawn else None
        truth = evaluate.scored_mask(mask, label, config.inference.buffer_px)[every]
        predicted = learner.predict(baselines.centred_color(raw[tile_id].image())[every].reshape(-1, 3))
        matrices[tile_id] = metrics.confusion_matrix(truth, predicted.reshape(truth.shape), 7)
    return matrices


@pytest.mark.parametrize("scored_on", ["test", "train"])
def test_each_draw_and_budget_is_scored_as_a_run_would_be(data_dir, tmp_path, scored_on):
    config = config_of(data_dir, **{"data.eval_split": scored_on, "inference.buffer_px": 3})
    path = tmp_path / "lines"
    baseline_draws.score({COLOUR: (0, 5)}, {"few": 2, "more": 4}, {"": config}, path)
    assert [(line["level"], line["draw"]) for line in lines(path)] == [
        (level, draw) for draw in (0, 5) for level in ("few", "more")
    ]
    for line in lines(path):
        points = {"points.seed": line["draw"], "points.budget": {"few": 2, "more": 4}[line["level"]]}
        same = config_of(data_dir, **{"inference.buffer_px": 3, **points})
        expected = by_hand("train", scored_on, same)
        assert line["tiles"] == {tile_id: matrix.tolist() for tile_id, matrix in expected.items()}
        assert line["miou"] == pytest.approx(metrics.miou(sum(expected.values()), 6))


def test_what_arms_hold_out_does_not_teach_baselines(data_dir, tmp_path):
    for held_out, budget in ((1, 4), (0, 3)):
        config = config_of(data_dir, **{"data.eval_split": "test", "points.held_out": held_out})
        baseline_draws.score({COLOUR: (0,)}, {"some": budget}, {"": config}, tmp_path / f"{held_out}")
        assert config.points.held_out == held_out
    assert lines(tmp_path / "1") == lines(tmp_path / "0")


def test_folds_are_taught_apart_and_scored_as_one(data_dir, tmp_path):
    splits = [("train[1:]", "train[:1]"), ("train[:1]", "train[1:]")]
    configs = {
        str(index): config_of(data_dir, **{"data.train_split": taught_by, "data.eval_split": scored_on})
        for index, (taught_by, scored_on) in enumerate(splits)
    }
    baseline_draws.score({COLOUR: (0,)}, {"few": 4}, configs, tmp_path / "lines")
    expected = by_hand(*splits[0], config_of(data_dir)) | by_hand(*splits[1], config_of(data_dir))
    (line,) = lines(tmp_path / "lines")
    assert line["tiles"] == {tile_id: matrix.tolist() for tile_id, matrix in expected.items()}


def test_what_was_cut_goes_on_and_ends_the_same(data_dir, tmp_path, capsys):
    config, path = config_of(data_dir, **{"data.eval_split": "test"}), tmp_path / "lines"
    baseline_draws.score({COLOUR: (0, 1)}, {"few": 2}, {"": config}, path)
    whole = path.read_text()
    path.write_text(whole.splitlines(keepends=True)[0])
    baseline_draws.score({COLOUR: (0, 1)}, {"few": 2}, {"": config}, path)
    assert path.read_text() == whole
    baseline_draws.score({COLOUR: (0, 1)}, {"few": 2}, {"": config}, path)
    assert path.read_text() == whole


def test_a_baseline_whose_weights_are_not_installed_is_not_taught(monkeypatch):
    assert len(baselines.installed()) == len(baselines.BASELINES)
    monkeypatch.setattr(frozen_features, "ENCODER", "efficientnet-lite9")
    assert list(baselines.installed()) == list(baselines.BASELINES)[:2]


def test_an_unknown_baseline_is_told_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"baselines: no 'forest'; expected one of .*linear head"):
        baseline_draws.score({"forest": (0,)}, {"few": 2}, {}, tmp_path / "lines")

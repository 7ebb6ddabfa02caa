import jax
import numpy as np
import pytest
from runs_for_tests import config_of, prepare, save_image, save_run

from pcejax import datasets, models, runs, tiles, trained, writers
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


@pytest.mark.parametrize("frozen_stages", [0, 1])
def test_a_run_is_loaded_as_it_was_saved(data_dir, tmp_path, frozen_stages):
    config = config_of(data_dir, **{"model.frozen_stages": frozen_stages})
    state = save_run(tmp_path, config, step=5)
    model = trained.load(tmp_path)
    assert model.step == 5
    assert model.legend == DEEPGLOBE
    assert model.bands == datasets.RGB
    assert model.about["tile_ids"] == ["train_0000", "train_0001", "train_0002"]
    assert model.config.to_json() == config.to_json()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(model.variables), state.ema_variables())
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(model.variables))


def test_maps_come_from_the_running_means(data_dir, tmp_path):
    """Against the model applied by hand to an image of one window's size."""
    config = config_of(data_dir)
    state = save_run(tmp_path / "run", config)
    image = save_image(tmp_path / "image.png", (48, 48))
    model = trained.load(tmp_path / "run")
    logits = model.map_image(model.variables, image)
    assert logits.shape == (48, 48, 6)
    by_hand = models.create_model(config.model, 6)
    expected = by_hand.apply(state.ema_variables(), tiles.scale_image(image[None]), train=False)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    last = by_hand.apply({"params": state.params}, tiles.scale_image(image[None]), train=False)[0]
    assert np.abs(logits - last).max() > 0.1


@pytest.mark.parametrize(("train_unknown", "expected"), [(False, 6), (True, 7)])
def test_unknown_has_a_logit_only_where_it_is_trained(train_unknown, expected):
    assert trained.num_logits(config_of("data", train_unknown=train_unknown), DEEPGLOBE) == expected


def test_a_temperature_is_taken_only_if_it_was_fitted_at_the_checkpoints_step(data_dir, tmp_path, capsys):
    save_run(tmp_path, config_of(data_dir), step=5)
    assert trained.load(tmp_path).calibration is None
    found = {"temperature": 1.5, "num_points": 24, "step": 5}
    writers.write_json(runs.calibration_path(tmp_path), found)
    assert trained.load(tmp_path).calibration._asdict() == found
    assert trained.load(tmp_path, dihedral_moves=True).calibration is None  # fitted on maps without
    assert "passed over" not in capsys.readouterr().out
    writers.write_json(runs.calibration_path(tmp_path), found | {"step": 4})
    assert trained.load(tmp_path).calibration is None
    assert "calibration.json: of step 4, and the checkpoint of step 5; passed over" in capsys.readouterr().out
    writers.write_json(runs.calibration_path(tmp_path), {"temperature": None, "num_points": 0, "step": 5})
    assert trained.load(tmp_path).calibration is None


def test_a_legend_that_does_not_fit_the_model_is_told(data_dir, tmp_path, monkeypatch):
    save_run(tmp_path, config_of(data_dir))
    monkeypatch.setattr(trained, "num_logits", lambda config, legend: legend.num_classes)
    told = r"\['head'\]\['bias'\] of the checkpoint is \(6,\); expected \(7,\), .* its legend of 7 classes"
    with pytest.raises(UserError, match=told):
        trained.load(tmp_path)


def test_no_run_and_no_checkpoint_are_told(tmp_path):
    with pytest.raises(UserError, match="no run there"):
        trained.load(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    runs.open_workdir(tmp_path / "begun", config_of("data"), {})
    with pytest.raises(UserError, match="no checkpoint"):
        trained.load(tmp_path / "begun")

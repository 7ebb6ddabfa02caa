import numpy as np
import pytest

from configs.ablations import default
from pcejax import ablation_grid, ablation_peer, accuracy, metrics, peers, runs, writers
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE

PEER = "configs/efficientnet_unet.py:peer"


def grid(**fields):
    tried = default.get_config("tried", "smoke")
    tried.axes = {"points": default.budgets(1, 3) | {"dense": default.DENSE["dense"]}}
    tried.factor = tried.budget_axis = "points"
    tried.folds = {
        "a": {"data.train_split": "train[2:]", "data.eval_split": "train[:2]"},
        "b": {"data.train_split": "train[:2]", "data.eval_split": "train[2:]"},
    }
    tried.peer = PEER
    tried.update(fields)
    return tried


@pytest.fixture
def torch_runs(monkeypatch):
    """What PyTorch was asked to train; it leaves matrices that the config tells apart."""
    asked = []

    def run(config, folder, name):
        asked.append(config)
        tile = np.eye(3, dtype=int) * (config.points.budget + len(asked))
        tile[0, 1] = 5
        told = {"legend": DEEPGLOBE.to_dict(), "tiles": {config.data.eval_split: tile.tolist()}}
        writers.write_json(runs.evaluation_path(folder, config.data.eval_split), told)

    monkeypatch.setattr(accuracy, "run_torch", run)
    return asked


def lines(workdir):
    return writers.read_lines(workdir / "baselines.jsonl")


def test_the_peer_gets_the_labels_tiles_and_steps_of_the_arms_and_keeps_its_recipe(tmp_path, torch_runs):
    tried = grid(peer_draws=(4,), overrides=grid().overrides | {"points.click_jitter_px": 2})
    arms = ablation_grid.expand(tried)
    ablation_peer.score(tried, arms, tmp_path)
    assert [(config.points.budget, config.data.train_split) for config in torch_runs] == [
        (budget, split) for budget in (1, 3) for split in ("train[2:]", "train[:2]")
    ]
    recipe = ablation_grid.load(PEER)
    ours = ablation_grid.config_of(tried, arms[0].overrides)
    for config in torch_runs:
        assert config.points.click_jitter_px == 2
        assert (config.seed, config.points.seed) == (4, 4)
        assert (config.data.name, config.train.num_steps) == (ours.data.name, ours.train.num_steps)
        assert (config.data.scale, config.data.crop) == (recipe.data.scale, recipe.data.crop)
        assert config.model.to_dict() == recipe.model.to_dict()
        assert config.optimizer.to_dict() == recipe.optimizer.to_dict()


def test_the_folds_of_a_draw_are_one_line_beside_the_baselines(tmp_path, torch_runs):
    ablation_peer.score(grid(peer_draws=(0, 1)), ablation_grid.expand(grid()), tmp_path)
    found = lines(tmp_path)
    assert [(line["level"], line["draw"]) for line in found] == [("1", 0), ("3", 0), ("1", 1), ("3", 1)]
    for line in found:
        assert line["baseline"] == f"{PEER}, by PyTorch"
        assert list(line["tiles"]) == ["train[:2]", "train[2:]"]
        assert line["miou"] == pytest.approx(metrics.miou(np.sum([*line["tiles"].values()], 0), 6))


def test_what_was_cut_goes_on_and_ends_the_same(tmp_path, torch_runs, monkeypatch):
    arms, whole = ablation_grid.expand(grid()), accuracy.run_torch
    ablation_peer.score(grid(), arms, tmp_path / "whole")

    def cut(config, folder, name):
        if config.points.budget == 3 and config.data.train_split == "train[:2]":
            raise KeyboardInterrupt
        whole(config, folder, name)

    torch_runs.clear()
    monkeypatch.setattr(accuracy, "run_torch", cut)
    with pytest.raises(KeyboardInterrupt):
        ablation_peer.score(grid(), arms, tmp_path / "cut")
    monkeypatch.setattr(accuracy, "run_torch", whole)
    ablation_peer.score(grid(), arms, tmp_path / "cut")
    assert len(torch_runs) == 4
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    ablation_peer.score(grid(), arms, tmp_path / "cut")
    assert len(torch_runs) == 4


def test_runs_of_another_recipe_are_no_peer_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "check_torch", lambda config: None)
    arms = ablation_grid.expand(grid())
    run = next(ablation_peer._runs(grid(), arms))
    config = run.config.copy_and_resolve_references()
    folder = tmp_path / "peer" / "1_points,_draw_0,_fold_a"
    runs.open_workdir(folder, config, {})
    ablation_peer.check(grid(), arms, tmp_path)
    with config.unlocked():
        config.optimizer.learning_rate = 0.5
    runs.open_workdir(folder, config, {})
    with pytest.raises(UserError, match=r"1_points,_draw_0,_fold_a holds a run of another config: optimizer.learning"):
        ablation_peer.check(grid(), arms, tmp_path)


def test_without_a_peer_nothing_is_trained(tmp_path, torch_runs):
    ablation_peer.check(grid(peer=""), ablation_grid.expand(grid()), tmp_path)
    ablation_peer.score(grid(peer=""), ablation_grid.expand(grid()), tmp_path)
    assert not torch_runs
    assert not lines(tmp_path)


def test_a_peer_that_cannot_be_trained_is_told(monkeypatch, tmp_path):
    arms = ablation_grid.expand(grid())
    with pytest.raises(UserError, match=r"base='configs/gone.py': no such config"):
        ablation_peer.check(grid(peer="configs/gone.py"), arms, tmp_path)
    with pytest.raises(UserError, match=r"model.fusion.at='both'; PyTorch's side"):
        ablation_peer.check(grid(peer="configs/multiscale_unet.py"), arms, tmp_path)
    monkeypatch.setattr(peers, "has_torch", lambda: False)
    with pytest.raises(UserError, match=r"torch is not installed; pip install .\[bench\]"):
        ablation_peer.check(grid(), arms, tmp_path)

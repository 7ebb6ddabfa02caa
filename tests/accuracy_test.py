import importlib.util
import json

import flax.traverse_util
import numpy as np
import pytest
from runs_for_tests import config_of, prepare

from pcejax import accuracy, peers
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


def refused(told, against="torch", seeds=(0,), **overrides):
    with pytest.raises(UserError, match=told):
        accuracy.measure(config_of("nowhere", **overrides), against, seeds)


@pytest.mark.parametrize(
    ("told", "overrides"),
    [
        (r"loss.entropy.weight=0.1; PyTorch's side has 0.0 alone", {"loss.entropy.weight": 0.1}),
        (r"loss.partial_cross_entropy.focal_gamma=2.0; ", {"loss.partial_cross_entropy.focal_gamma": 2.0}),
        (r"train.accumulation=2; PyTorch's side has 1 alone", {"train.accumulation": 2}),
        (r"model.norm='none'; PyTorch's side has 'group' or 'batch' alone", {"model.norm": "none"}),
        (r"model.dropout=0.5; ", {"model.dropout": 0.5}),
        (r"data.eval_split=''; expected a split", {"data.eval_split": ""}),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_starts(told, overrides):
    refused(told, **overrides)


def test_words_that_mean_nothing_are_refused(monkeypatch):
    refused(r"--against='tensorflow'; expected one of \['plain', 'torch'\]", against="tensorflow")
    refused(r"--seeds=1,1; expected one or more, each once", seeds=(1, 1))
    monkeypatch.setattr(peers, "has_torch", lambda: False)
    refused(r"torch is not installed; pip install .\[bench\]")


@pytest.mark.parametrize(
    "against",
    [
        "plain",
        pytest.param(
            "torch",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("torch") is None, reason="torch is not installed: pip install .[bench]"
            ),
        ),
    ],
)
def test_both_sides_are_trained_and_scored_alike(data_dir, against, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    # Long enough to learn something, and too short to part.
    optimizer = {"optimizer.learning_rate": 1e-2, "optimizer.warmup_steps": 3}
    # Of so few tiles those that are clicked alone have the classes that it learns.
    train = {"data.eval_split": "train", "train.num_steps": 30, "train.ema_decay": 0.5, "train.log_every_steps": 10}
    config = config_of(data_dir, **{"model.norm": "batch", "model.width": 4}, **optimizer, **train)
    result = accuracy.measure(config, against, [3])
    assert json.loads(json.dumps(result)) == result
    assert (result["against"], result["split"], result["protocol"]) == (against, "train", "within")
    (row,) = result["rows"]
    assert row["seed"] == 3
    assert row["ours"]["miou"] > 0.05
    assert abs(row["ours"]["miou"] - row["theirs"]["miou"]) < 0.02
    assert all(row[side][key] > 0 for side in ("ours", "theirs") for key in ("seconds", "step_seconds"))


def test_a_torch_run_that_was_cut_goes_on_with_what_is_whole(data_dir, tmp_path, monkeypatch):
    config, trained = config_of(data_dir, **{"data.eval_split": "test", "train.num_steps": 7}), []

    def train_in_torch(state, config, batches, num_bands, name):
        trained.append(name)
        host = {key: getattr(state, key) for key in ("params", "batch_stats", "ema_params", "ema_batch_stats")}
        return flax.traverse_util.flatten_dict(host, sep="/"), {"device": "none", "loss": [], "step_seconds": 1.0}

    def cut(config, do, workdir, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "train_in_torch", train_in_torch)
    monkeypatch.setattr(accuracy, "_run", cut)
    with pytest.raises(KeyboardInterrupt):
        accuracy.run_torch(config, tmp_path, "first")
    monkeypatch.setattr(accuracy, "_run", lambda *_: ({"miou": 0.5}, {}))
    assert accuracy.run_torch(config, tmp_path, "scored") == {"miou": 0.5}
    (tmp_path / "checkpoints" / "7" / "sha256.json").unlink()  # as if the save was cut
    assert accuracy.run_torch(config, tmp_path, "again")["step_seconds"] == 1
    assert trained == ["first", "again"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 7
    with config.unlocked():
        config.seed = 9
    with pytest.raises(UserError, match=r"holds a run of another config: seed: 0 there, 9 now"):
        accuracy.run_torch(config, tmp_path, "other")


def test_crops_that_are_larger_than_a_tile_are_refused_before_torch_starts(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "train_in_torch", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError, match=r"data.crop=512 is larger than tile"):
        accuracy.run_torch(config_of(data_dir, **{"data.crop": 512}), tmp_path, "peer")


def test_means_and_spread_are_over_seeds_and_each_seed_is_another_run(monkeypatch):
    runs = []

    def run(config, do, workdir, name):
        runs.append((config.seed, do, name))
        miou = 0.5 + config.seed / 10 + (0.02 if do == "plain" else 0.0)
        return {"miou": miou, "seconds": 65.0, "step_seconds": 0.1}, {"split": "test", "protocol": "across"}

    monkeypatch.setattr(accuracy, "_run", run)
    seen = []
    result = accuracy.measure(config_of("nowhere"), "plain", [0, 2], seen.append)
    assert runs == [
        (seed, do, f"seed {seed}, {name}") for seed in (0, 2) for do, name in (("train", "ours"), ("plain", "plain"))
    ]
    assert [len(partial["rows"]) for partial in seen] == [1, 2]
    assert seen[0]["ours"]["sd"] is None
    assert result == seen[1]
    assert np.isclose(result["ours"]["mean"], 0.6)
    assert np.isclose(result["theirs"]["sd"], 0.2 / 2**0.5)
    assert np.allclose(result["difference"]["by_seed"], [-0.02, -0.02])
    assert accuracy.describe(result).splitlines() == [
        "test (across)",
        "  seed     ours    plain    apart",
        "     0   0.5000   0.5200  -0.0200",
        "     2   0.7000   0.7200  -0.0200",
        "  mean   0.6000   0.6200  -0.0200",
        "    SD   0.1414   0.1414   0.0000",
        "ours: trained in 1:05, 100 ms a step",
        "plain: trained in 1:05, 100 ms a step",
    ]
    assert len(accuracy.describe(seen[0]).splitlines()) == 6


def test_a_side_that_fails_is_told(data_dir, capfd):
    with pytest.raises(UserError, match=r"seed 0, ours: the process ended with 2; its error is above"):
        accuracy.measure(config_of(data_dir, **{"data.train_split": "nonsense"}), "plain", [0])
    assert "split 'nonsense'" in capfd.readouterr().err

import importlib.util

import numpy as np
import pytest

from configs import default
from pcejax import peers
from pcejax.errors import UserError

TORCH = importlib.util.find_spec("torch") is not None


def config_of(**model):
    config = default.get_config()
    config.model.update({"depth": 1, "width": 4} | model)
    config.data.crop, config.train.batch_size = 32, 2
    return config


@pytest.mark.parametrize("what", ["step", "infer"])
def test_our_side_is_measured_alone_where_there_is_no_torch(monkeypatch, what):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = peers.measure(config_of(), what, 48, 2, 3)
    (row,) = result["rows"]
    assert row["name"] == "pcejax"
    assert row["seconds"] > 0
    assert len(row["seconds_by_round"]) == 2
    assert result["side"] == (32 if what == "step" else 48)
    assert np.isclose(sum(result["kernels"].values()), 1)
    told = peers.describe(result)
    assert f"{what}, {2 if what == 'step' else 1} of {result['side']} pixels, on cpu" in told
    assert "torch" not in told


@pytest.mark.parametrize("mode", ["device", "host"])
def test_a_step_is_fed_by_the_input_pipeline_in_either_mode(mode):
    config = config_of()
    config.data.tiles, config.data.scale = mode, 0.25
    result = peers.measure(config, "fed step", 0, 1, 3, ["pcejax"])
    assert result["what"] == "fed step"
    assert result["rows"][0]["images_per_second"] == 2 / result["rows"][0]["seconds"]


def test_a_worker_that_fails_is_told_with_its_error(monkeypatch):
    config = config_of()
    config.train.batch_size = 3
    monkeypatch.setitem(peers.SETTINGS, "pcejax", {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    with pytest.raises(peers.WorkerFailed, match=r"pcejax: UserError: train.batch_size=3 on 2 devices"):
        peers.measure(config, "step", 32, 1, 1, ["pcejax"])


def test_a_worker_that_ends_is_told_with_what_it_was_asked(monkeypatch):
    monkeypatch.setitem(peers.SETTINGS, "pcejax", {"JAX_PLATFORMS": "none"})
    with pytest.raises(peers.WorkerFailed, match=r"pcejax: the process ended with 1 at 'round'"):
        peers.measure(config_of(), "step", 32, 1, 1, ["pcejax"])


@pytest.mark.skipif(not TORCH, reason="torch is not installed: pip install .[bench]")
@pytest.mark.parametrize(
    "model",
    [
        {"norm": "group", "upsample": "bilinear", "depth": 2},
        {"norm": "batch", "upsample": "transposed"},
        {"norm": "batch", "upsample": "nearest", "encoder": "efficientnet-lite0", "depth": 4},
        {"norm": "batch", "frozen_statistics": True, "frozen_stages": 1},
        {"norm": "group", "decoder": "none", "encoder": "efficientnet-lite0", "depth": 3, "fusion": {"fuse": "concat"}},
        {"norm": "batch", "decoder": "none", "depth": 2, "fusion": {"fuse": "sum"}},
    ],
)
def test_both_sides_compute_the_same_loss_and_gradients(model):
    result = peers.measure(config_of(**model), "step", 32, 1, 1)
    assert [row["name"] for row in result["rows"]] == ["pcejax", "torch", "torch, allocator tuned"]
    apart = result["agreement"]
    assert apart["loss apart in float64"] < 1e-12
    assert apart["gradients apart in float64"] < 1e-9
    # At this size float32 gradients of batch norm are chance; benchmarks state them at real sizes.
    assert apart["our float32 gradients from it"] < 1e-2
    assert all(row["ratios"] for row in result["rows"])


@pytest.mark.skipif(not TORCH, reason="torch is not installed: pip install .[bench]")
def test_a_model_that_torch_lacks_is_refused():
    config = config_of()
    config.model.fusion.at = "bottleneck"
    with pytest.raises(UserError, match=r"model.fusion.at='bottleneck'; PyTorch's side has '' alone"):
        peers.measure(config, "step", 32, 1, 1)

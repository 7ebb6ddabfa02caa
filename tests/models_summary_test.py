import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from models_for_tests import make_model

from configs import all_configs, deep_unet, default, efficientnet_unet, multiscale_unet, unet
from pcejax.errors import UserError
from pcejax.models import create_model, encoders, summary

IMAGE = (1, 256, 256, 3)
CONFIGS = (unet, deep_unet, multiscale_unet, efficientnet_unet)
PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def config_of(**overrides):
    config = default.get_config().model
    config.update(**overrides)
    return config


def summary_of(config, image_shape=IMAGE):
    return summary.model_summary(create_model(config, 6), config, image_shape)


@pytest.mark.parametrize("upsample", ["transposed", "bilinear"])
@pytest.mark.parametrize("remat", [False, True])
def test_flops_are_the_textbooks(upsample, remat):
    model = make_model(num_classes=5, depth=1, width=8, upsample=upsample, remat=remat)
    per_pixel = {"transposed": 4, "bilinear": 1}[upsample]  # products of a pixel before and after it is doubled
    fine = 9 * (3 * 8 + 8 * 8) + 9 * (16 * 8 + 8 * 8) + 8 * 5
    coarse = 9 * (8 * 16 + 16 * 16) + per_pixel * 16 * 8
    assert summary.flops(model, (2, 32, 48, 3)) == 2 * 2 * (32 * 48 * fine + 16 * 24 * coarse)


def test_dilated_and_residual_convolutions_are_counted():
    plain, residual = (make_model(depth=1, width=8, residual=residual) for residual in (False, True))
    shortcuts = 2 * (3 * 8 + 16 * 8 + 8 * 16 / 4) * 256 * 256
    assert summary.flops(residual, IMAGE) - summary.flops(plain, IMAGE) == shortcuts
    fusion = {"at": "bottleneck", "branches": "dilated", "rates": (2, 4), "features": 8}
    fused = make_model(depth=1, width=8, fusion=fusion)
    of_pixel = 16 * 8 + 2 * 9 * 16 * 8 + 4 * 8 * 16  # branches of 8 features on 16; the means', of one pixel, aside
    extra = summary.flops(fused, IMAGE) - summary.flops(plain, IMAGE)
    assert extra == pytest.approx(2 * 128 * 128 * of_pixel, rel=0.05)


def test_depthwise_convolutions_are_counted():
    side, channels = 112, encoders.STEM
    expected = 9 * 3 * channels * side**2
    for block in encoders.layout("efficientnet-lite0"):
        hidden = channels * block.expansion
        if block.expansion > 1:
            expected += channels * hidden * side**2
        side //= block.stride
        expected += (block.size**2 * hidden + hidden * block.features) * side**2
        channels = block.features
    encoder = encoders.EfficientNetLite("efficientnet-lite0", 5, jnp.dtype("float32"), remat=True)
    assert summary.flops(encoder, (1, 224, 224, 3)) == 2 * expected


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_the_parts_hold_all_parameters_in_the_order_of_computation(config, control):
    config = config.get_config("cpu").model
    config.fusion.plain_control = control
    told = summary_of(config, (1, 96, 96, 3))
    model = create_model(config, 6)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 96, 96, 3)), train=False))
    assert told["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"])
    names = [part["name"] for part in told["parts"]]
    first = 0 if config.encoder == "plain" else 1
    expected = [f"encoder/level_{level}" for level in range(first, config.depth + 1)]
    expected += ["fusion_bottleneck"] * (config.fusion.at == "both")
    for level in reversed(range(config.depth)):
        expected += [f"upsample_{level}", f"decoder_{level}"]
    expected += ["fusion_pyramid", "fusion_decoder"] * (config.fusion.at == "both")
    assert names == [*expected, "head"]
    assert told["parts"][-1]["shape"] == [96, 96, 6]
    deepest = told["parts"][names.index(f"encoder/level_{config.depth}")]
    assert deepest["shape"][:2] == [96 // 2**config.depth] * 2


def test_a_summary_is_told_in_one_line_and_stored_as_json():
    told = summary_of(default.get_config().model)
    assert summary.describe(json.loads(json.dumps(told))) == (
        "32 to 512 features, 7.76 M parameters, 24.2 GFLOPs for 256x256 pixels, receptive field 204 pixels "
        "(beyond them only group norm's statistics)"
    )


@pytest.mark.parametrize(
    ("config", "stated"),
    [
        (deep_unet, deep_unet),
        (unet, deep_unet),
        (multiscale_unet, multiscale_unet),
        (efficientnet_unet, efficientnet_unet),
    ],
)
def test_docstrings_state_the_models_figures(config, stated):
    _, _, told = summary.describe(summary_of(config.get_config().model)).partition(" features, ")
    assert told.partition(" (beyond")[0] in stated.__doc__


@pytest.mark.parametrize("name", all_configs())
def test_the_page_of_the_models_states_their_figures(name):
    told = summary_of(all_configs()[name].model, (1, 512, 512, 3))
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| [`{name}.py`]")]
    cells = [cell.strip() for cell in row.split("|")]
    field = f"{told['receptive_field']['pixels']}{', and means' * told['receptive_field']['whole_image']}"
    assert cells[2:5] == [f"{told['parameters'] / 1e6:.3g} M", f"{told['gflops']:.3g}", field]


def test_the_page_of_the_models_states_the_figures_of_its_sweep_of_depth():
    _, _, section = PAGE.read_text().partition("## How deep?")
    rows = [line.split("|") for line in section.splitlines() if line.endswith((" 204 |", " 412 |"))]
    assert len(rows) == 4
    for _, _, line, *cells, _ in rows:
        config = unet.get_config().model
        config.update(
            {field: type(config[field])(value) for field, value in re.findall(r"--config\.model\.(\w+)=([\d.]+)", line)}
        )
        told, _, _ = summary.describe(summary_of(config)).partition(" pixels (beyond")
        features, parameters, gflops, field = (cell.strip() for cell in cells)
        of_model = f"{features} features, {parameters} parameters, {gflops} GFLOPs for 256x256 pixels"
        assert told == f"{of_model}, receptive field {field}", line


@pytest.mark.parametrize(
    ("fields", "beyond"),
    [
        ({"norm": "batch"}, ""),
        ({"norm": "none", "fusion": {"at": "bottleneck"}}, " (beyond them only pooled features)"),
        ({"fusion": {"at": "decoder"}}, " (beyond them only pooled features and group norm's statistics)"),
        ({"fusion": {"at": "decoder", "plain_control": True}}, " (beyond them only group norm's statistics)"),
    ],
)
def test_what_is_seen_beyond_the_receptive_field_is_told(fields, beyond):
    _, _, told = summary.describe(summary_of(config_of(width=8, **fields))).partition(" pixels, receptive field ")
    assert told.partition("pixels")[2] == beyond


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_models_of_every_depth_have_the_flops_that_are_asked_for(depth):
    model = create_model(config_of(depth=depth, gflops=24.16), 6)
    assert summary.flops(model, IMAGE) / 1e9 == pytest.approx(24.16, rel=0.02)
    assert all(features % 4 == 0 for features in model.features)


def test_the_flops_of_a_width_give_its_features_again():
    config = config_of(depth=3)
    model = create_model(config, 6)
    config.gflops = summary.flops(model, IMAGE) / 1e9
    assert create_model(config, 6).features == model.features


def test_flops_that_no_width_has_are_refused():
    with pytest.raises(UserError, match=r"model.gflops=0.1; expected 0.\d+ or more, which a model of width 4 has"):
        create_model(config_of(gflops=0.1), 6)
    with pytest.raises(UserError, match=r"model.gflops=-1.0; expected more than 0"):
        create_model(config_of(gflops=-1.0), 6)

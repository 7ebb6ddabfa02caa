"""What a compiled training step costs on a CPU, counted: FLOPs, memory, and what must not be in it."""

import math
import re

import jax
import jax.extend
import pytest

from configs import all_configs, default
from pcejax import benchmarks, models, ops
from pcejax.train_state import state_shapes

# Megabytes of scratch space of a step, of one crop of 64 pixels a device (of 128, which best_points needs at least), as
# measured with jax 0.10.2.
MOST_SCRATCH = {
    "best_points": 62,
    "deep_unet": 141,
    "efficientnet_unet": 130,
    "multiscale_unet": 99,
    "quickstart": 27,
    "unet": 96,
}


def compile_step(config, size):
    step, model, tx, make_arguments = benchmarks.step_of(config, 1, size)
    arguments = (state_shapes(model, tx, (1, size, size, 3)), *jax.eval_shape(make_arguments))
    return step.lower(*arguments).compile()


def valid_products(jaxpr, convolutions):
    """Products of all dots; those of each 3x3 convolution are appended: of taps that meet a pixel, of all taps."""
    dots = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            ((contracted, _), _) = eqn.params["dimension_numbers"]
            dots += math.prod(eqn.outvars[0].aval.shape) * math.prod(
                eqn.invars[0].aval.shape[axis] for axis in contracted
            )
        elif eqn.primitive.name == "conv_general_dilated":
            batch, height, width, features = eqn.outvars[0].aval.shape
            channels = eqn.invars[0].aval.shape[-1]
            # Of three taps along a side two reach beyond its ends.
            valid = batch * (3 * height - 2) * (3 * width - 2) * channels * features
            convolutions.append((valid, batch * 9 * height * width * channels * features))
        else:
            bodies = (getattr(value, "jaxpr", value) for value in eqn.params.values())
            dots += sum(valid_products(b, convolutions) for b in bodies if isinstance(b, jax.extend.core.Jaxpr))
    return dots


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_step_computes_what_its_convolutions_take_and_nothing_twice(monkeypatch, norm):
    """XLA's count, of a step whose loops run once, against that of the taps that meet a pixel."""
    monkeypatch.setattr(ops, "_BLOCK_VALUES", 1 << 30)  # XLA counts a loop's body once
    monkeypatch.setattr(ops, "_PAIRED", ())  # pairs of pixels multiply zeros as well, on purpose
    config = default.get_config()
    config.model.depth, config.model.norm = 2, norm
    compiled = compile_step(config, 64)
    counted = compiled.cost_analysis()["flops"]

    model = models.create_model(config.model, 6)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    variables = jax.eval_shape(lambda image: model.init(jax.random.key(0), image, train=False), image)
    convolutions = []
    dots = valid_products(
        jax.make_jaxpr(lambda v, image: model.apply(v, image, train=False))(variables, image).jaxpr, convolutions
    )
    forward = sum(valid for valid, _ in convolutions)
    of_inputs = forward - convolutions[0][0]  # the image's gradient is not asked for
    of_kernels = sum(all_taps for _, all_taps in convolutions)  # the blocks are padded
    assert counted == pytest.approx(2 * (forward + of_inputs + of_kernels + 3 * dots), rel=0.02)


@pytest.fixture(scope="module", params=sorted(MOST_SCRATCH))
def compiled(request):
    """A shipped config's step, by its name."""
    return request.param, compile_step(all_configs()[request.param], 128 if request.param == "best_points" else 64)


def test_every_shipped_config_is_measured():
    assert set(all_configs()) == set(MOST_SCRATCH)


def test_a_step_has_no_slow_form_of_pooling_and_convolution(compiled):
    name, step = compiled
    text = step.as_text()
    assert "select-and-scatter" not in text  # of a max-pool
    windows = re.findall(r" convolution\(.*window=\{size=([^}]*)\}", text)
    assert windows or name == "best_points"  # which has depthwise convolutions and dots alone
    for window in windows:
        assert "lhs_dilate" not in window  # a transposed convolution, or the input's gradient of one with a stride
        # The native gradient of a kernel has the whole image as its window.
        assert max(map(int, re.match(r"[\dx]+", window)[0].split("x"))) <= 3, window


def test_a_step_keeps_no_more_than_it_did(compiled):
    name, step = compiled
    assert step.memory_analysis().temp_size_in_bytes / 1e6 < 1.25 * MOST_SCRATCH[name]

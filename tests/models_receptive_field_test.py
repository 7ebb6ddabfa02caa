"""The receptive field against the model's own gradient."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import make_model

from configs import default
from pcejax.models.receptive_field import receptive_field, seen_by


def config_of(fusion=None, **overrides):
    config = default.get_config().model
    config.update({"norm": "none", "dtype": "float64", "depth": 2, "width": 1, "widening": 1.0, "pretrained": False})
    config.update(overrides)
    config.fusion.update(fusion or {})
    return config


def constant_variables(model, shape, silent):
    """Weights under which everything is seen: nothing negative, so that no ReLU shuts, and small, so that no ReLU6
    does. Where the image is constant so are all maps, and max-pooling then passes all four pixels' gradient alike.
    """
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))

    def fill(path, leaf):
        name = "/".join(path)
        if leaf.ndim > 1:
            value = 0.0 if any(part in name for part in silent) else 0.5 / np.prod(leaf.shape[:-1])
        else:
            value = 1.0 if path[-1] in ("scale", "var") else 0.0
        return jnp.full(leaf.shape, value, jnp.float64)

    return flax.traverse_util.path_aware_map(fill, variables)


def measured(config, length, axis=2, pixels=None, silent=()):
    """For each of `pixels`, counted from `middle`, the first and last column (axis 2) or row (axis 1) that it sees."""
    with jax.enable_x64(True):
        model = make_model(**config)
        side = 2**config.depth * max(config.scales)
        shape = (1, side, length, 3) if axis == 2 else (1, length, side, 3)
        middle = length // 2 // side * side
        variables, image = constant_variables(model, shape, silent), jnp.ones(shape, jnp.float64)

        @jax.jit
        def seen(pixel):
            def logit(image):
                logits = model.apply(variables, image, train=False).sum(3 - axis)
                return logits[0, pixel].sum()

            return jnp.abs(jax.grad(logit)(image)).max((0, 3 - axis, 3)) > 0

        result = []
        for pixel in range(side) if pixels is None else pixels:
            (columns,) = np.nonzero(np.asarray(seen(middle + pixel)))
            result.append((int(columns[0]) - middle, int(columns[-1]) - middle))
        return result


def image_level(fusion):
    """The branches that see the whole map."""
    return tuple(f"fusion_{place}/branch_{index}" for place in ("bottleneck", "decoder") for index in fusion)


DILATED = {"branches": "dilated", "rates": (2, 5)}
CASES = {
    "depth 1": ({"depth": 1}, 18),
    "depth 2": ({}, 44),
    "depth 2, two blocks": ({"blocks": 2}, 84),
    "depth 3, residual, nearest": ({"depth": 3, "residual": True, "upsample": "nearest"}, 100),
    "depth 3, bilinear": ({"depth": 3, "upsample": "bilinear"}, 116),
    "dilated at the bottleneck": ({"fusion": {"at": "bottleneck", **DILATED}}, 84),
    "dilated on the decoder": ({"fusion": {"at": "decoder", **DILATED, "fuse": "sum"}, "upsample": "bilinear"}, 60),
    "pooling at both": ({"fusion": {"at": "both", "grids": (1, 2)}, "upsample": "nearest"}, 44),
    "plain control at both": ({"fusion": {"at": "both", "plain_control": True}}, 56),
    "plain without a decoder": ({"decoder": "none"}, 40),
    "efficientnet without a decoder": ({"encoder": "efficientnet-lite0", "depth": 2, "decoder": "none"}, 27),
    "plain, two scales": ({"decoder": "none", "scales": (1, 2)}, 80),
    "efficientnet, scales 2 and 4": (
        {"encoder": "efficientnet-lite0", "depth": 1, "decoder": "none", "scales": (2, 4)},
        44,
    ),
    "efficientnet to stride 4": ({"encoder": "efficientnet-lite0", "depth": 2}, 31),
}


@pytest.mark.parametrize(("fields", "pixels"), CASES.values(), ids=CASES.keys())
def test_the_stated_field_is_that_of_the_gradient(fields, pixels):
    config = config_of(**fields)
    stated = receptive_field(config)
    branches = {"dilated": (3,), "pooling": (1, 2)}[config.fusion.branches]
    seen = measured(config, 2 * pixels + 64, silent=image_level(branches) if stated.whole_image else ())
    assert seen == [seen_by(config, pixel) for pixel in range(2**config.depth * max(config.scales))]
    assert max(last - first + 1 for first, last in seen) == stated.pixels == pixels


def test_a_field_is_as_high_as_wide():
    config = config_of(upsample="bilinear")
    assert measured(config, 128, axis=1) == measured(config, 128, axis=2)


def test_the_whole_efficientnet_sees_what_is_stated():
    config = config_of(encoder="efficientnet-lite0", depth=5)
    assert measured(config, 1152, pixels=[16]) == [seen_by(config, 16)]
    assert receptive_field(config).pixels == 979


@pytest.mark.parametrize(
    ("fusion", "whole"), [({"at": "bottleneck", **DILATED}, True), ({"at": "decoder"}, True), ({}, False)]
)
def test_whole_image_says_whether_a_logit_sees_all_of_it(fusion, whole):
    config = config_of(fusion)
    assert receptive_field(config).whole_image == whole
    assert (measured(config, 256, pixels=[0]) == [(-128, 127)]) == whole

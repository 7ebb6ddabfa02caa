"""Small models with known weights, for the tests of models."""

import json
import zlib
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from pcejax.models import create_model

CLASSES = 5
GOLDEN = np.load(Path(__file__).with_name("golden") / "models.npz")
"""`<case>/fields`, `/num_parameters`, `/logits` (of every third pixel), `/gradient/<parameter>`."""


def golden_cases(fused):
    """Names of the cases with or without fusion."""
    cases = sorted({name.split("/")[0] for name in GOLDEN})
    return [case for case in cases if ("fusion.at" in json.loads(str(GOLDEN[f"{case}/fields"]))) == fused]


def make_model(num_classes=CLASSES, axis_name=None, **overrides):
    """`fusion` among the overrides is a dict."""
    config = default.get_config().model
    config.update(**{"depth": 1, "width": 4, **overrides})
    return create_model(config, num_classes, axis_name)


def make_array(name, shape):
    """As tests/golden/make_models.py does it. Nothing is 0, as biases and offsets are at the start, or could hide."""
    spread = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.2
    return np.random.default_rng(zlib.crc32(name.encode())).normal(len(shape) == 1, spread, shape).astype(np.float32)


def random_image(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def shapes_of(model, size=8):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))


def random_variables(model, size=8):
    """Every parameter random, statistics as at the start."""
    variables = shapes_of(model, size)
    params = {name: jnp.asarray(make_array(name, leaf.shape)) for name, leaf in names_of(variables).items()}
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var")), variables.get("batch_stats", {})
    )
    return {"params": flax.traverse_util.unflatten_dict(params, sep="/")} | (
        {"batch_stats": statistics} if statistics else {}
    )


def names_of(variables):
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def apply(model, variables, image):
    return jax.jit(lambda variables, image: model.apply(variables, image, train=False))(variables, image)


def assert_equals_golden(case):
    """Logits in training and gradients are those of PyTorch, to 1e-4 of the largest value."""
    fields = {"fusion": {}}
    for field, value in json.loads(str(GOLDEN[f"{case}/fields"])).items():
        group = fields["fusion"] if field.startswith("fusion.") else fields
        group[field.removeprefix("fusion.")] = tuple(value) if isinstance(value, list) else value
    model = make_model(num_classes=3, **fields)
    variables = random_variables(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == GOLDEN[f"{case}/num_parameters"]
    image = random_image((2, 21, 26, 3))
    cotangent = make_array("cotangent", (2, 21, 26, 3))

    def pulled(params):
        logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (logits * cotangent).sum(), logits

    gradient, logits = jax.jit(jax.grad(pulled, has_aux=True))(variables["params"])
    got = {f"{case}/gradient/{name}": value for name, value in names_of({"params": gradient}).items()}
    got[f"{case}/logits"] = logits[:, ::3, ::3]
    stored = [name for name in GOLDEN if name.startswith((f"{case}/gradient/", f"{case}/logits"))]
    assert len(stored) > 1
    for name in stored:
        expected = GOLDEN[name]
        np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)

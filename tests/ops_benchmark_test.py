import inspect

import jax
import numpy as np
import pytest

from configs import default
from pcejax import ops, ops_benchmark

INSIDE_CONV = {"conv_of_pairs", "kernel_gradient_in_blocks"}


def test_each_op_has_its_line():
    config = default.get_config()
    config.model.width, config.data.crop, config.train.batch_size = 4, 16, 1
    rows = ops_benchmark.measure_ops(config, 1)
    public = {
        name
        for name, value in vars(ops).items()
        if callable(value) and inspect.getmodule(inspect.unwrap(value)) is ops and not name.startswith("_")
    }
    assert {row["op"] for row in rows} == {*ops_benchmark.PLAIN} == public - INSIDE_CONV
    assert len(public) > 8
    for row in rows:
        for key in ("forward", "forward_backward"):
            assert row[f"{key}_seconds"] > 0
            assert row[f"{key}_plain_seconds"] > 0


@pytest.mark.parametrize("case", ops_benchmark.cases(4), ids=lambda case: f"{case[0]}{case[4]}")
def test_both_forms_compute_the_same(case):
    _, ours, plain, _, kernel_shape = case
    x, kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x, (2, 8, 8, ops_benchmark.channels_of(kernel_shape)))
    arguments = (x, jax.random.normal(kernel, kernel_shape)) if len(kernel_shape) > 1 else (x,)
    np.testing.assert_allclose(ours(*arguments), plain(*arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "options"), [("conv", (3, 3, 4, 5), [2]), ("depthwise_conv", (5, 5, 4), [2])]
)
def test_plain_forms_take_the_arguments_of_ours(name, shape, options):
    x, kernel = (jax.random.normal(jax.random.key(seed), size) for seed, size in enumerate([(2, 8, 8, 4), shape]))
    ours, plain = getattr(ops, name)(x, kernel, *options), ops_benchmark.PLAIN[name](x, kernel, *options)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)

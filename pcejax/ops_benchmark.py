"""Each form of `ops.py` beside the plain one that it stands for, at the shapes of a model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import ops, parallel, writers

_LOGITS = 6


def plain_conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """`ops.conv` as XLA has it."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=dimensions
    )


def plain_conv_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`ops.conv_1x1` as a convolution."""
    return plain_conv(x, kernel[None, None])


def plain_strided_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`ops.strided_conv` as XLA has it."""
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`ops.depthwise_conv` as a convolution with a group for each channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride,) * 2,
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def plain_max_pool(x: jax.Array) -> jax.Array:
    """`ops.max_pool_2x2` as a window's maximum."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def plain_transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`ops.transposed_conv_2x2` as XLA has it, whose kernel is turned by half a turn."""
    return jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_resize(x: jax.Array, method: str) -> jax.Array:
    """`ops.bilinear_2x` and `ops.nearest_2x` as `jax.image` does them."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), method)


Form = Callable[..., jax.Array]

PLAIN: dict[str, Form] = {
    "conv": plain_conv,
    "conv_1x1": plain_conv_1x1,
    "strided_conv": plain_strided_conv,
    "depthwise_conv": plain_depthwise_conv,
    "max_pool_2x2": plain_max_pool,
    "transposed_conv_2x2": plain_transposed_conv,
    "bilinear_2x": functools.partial(plain_resize, method="bilinear"),
    "nearest_2x": functools.partial(plain_resize, method="nearest"),
}
"""For each form of `ops` that models call, the plain one of the same arguments."""


def cases(width: int) -> list[tuple[str, Form, Form, int, tuple[int, ...]]]:
    """Name, our form, the plain one, times down of the input, and the kernel's shape, or the input's channels alone."""
    w, halved = width, functools.partial(ops.strided_conv, stride=2)
    return [
        ("conv", ops.conv, plain_conv, 0, (3, 3, 3, w)),
        ("conv", ops.conv, plain_conv, 0, (3, 3, w, w)),
        ("conv", ops.conv, plain_conv, 0, (3, 3, 2 * w, w)),
        ("conv", ops.conv, plain_conv, 2, (3, 3, 4 * w, 4 * w)),
        ("conv_1x1", ops.conv_1x1, plain_conv_1x1, 0, (w, _LOGITS)),
        ("strided_conv", halved, functools.partial(plain_strided_conv, stride=2), 0, (3, 3, 3, w)),
        ("depthwise_conv", ops.depthwise_conv, plain_depthwise_conv, 2, (3, 3, 4 * w)),
        ("depthwise_conv", ops.depthwise_conv, plain_depthwise_conv, 3, (5, 5, 4 * w)),
        ("max_pool_2x2", ops.max_pool_2x2, plain_max_pool, 0, (w,)),
        ("transposed_conv_2x2", ops.transposed_conv_2x2, plain_transposed_conv, 1, (2, 2, 2 * w, w)),
        ("bilinear_2x", ops.bilinear_2x, PLAIN["bilinear_2x"], 1, (w,)),
        ("nearest_2x", ops.nearest_2x, PLAIN["nearest_2x"], 1, (w,)),
    ]


def channels_of(kernel_shape: tuple[int, ...]) -> int:
    """Of the input of a case: a depthwise kernel has its output's, and what has no kernel tells them alone."""
    return kernel_shape[-1] if len(kernel_shape) in (1, 3) else kernel_shape[-2]


def measure_ops(config: ml_collections.ConfigDict, num_steps: int) -> list[dict[str, Any]]:
    """Seconds of each op, forward and with the gradient in all of its arguments; medians over `num_steps`, in turns.

    For `train.batch_size` crops of `data.crop` pixels and `model.width` features in `model.dtype`, on one device.
    """
    rng, rows = np.random.default_rng(0), []
    listed = cases(config.model.width)
    progress = writers.Progress(len(listed))
    for done, (name, ours, plain, times_down, kernel_shape) in enumerate(listed):
        side = config.data.crop >> times_down
        shapes: list[tuple[int, ...]] = [(config.train.batch_size, side, side, channels_of(kernel_shape))]
        shapes += [kernel_shape] if len(kernel_shape) > 1 else []
        arguments = [jnp.asarray(rng.normal(size=shape), config.model.dtype) for shape in shapes]
        row: dict[str, Any] = {"op": name, "shapes": shapes}
        gradient = jnp.ones_like(ours(*arguments))
        for what in ("forward", "forward_backward"):
            forms = {
                "seconds": _compiled(ours, arguments, gradient, what),
                "plain_seconds": _compiled(plain, arguments, gradient, what),
            }
            taken: dict[str, list[float]] = {which: [] for which in forms}
            for _ in range(num_steps + 1):  # the first warms up
                for which, run in forms.items():
                    start = time.perf_counter()
                    jax.block_until_ready(run())
                    taken[which].append(time.perf_counter() - start)
            row |= {f"{what}_{which}": float(np.median(times[1:])) for which, times in taken.items()}
        rows.append(row | {"devices": parallel.describe()})
        print(f"ops {progress.line(done + 1)}", flush=True)
    return rows


def _compiled(form: Form, arguments: list[jax.Array], gradient: jax.Array, what: str) -> Callable[[], Any]:
    def run(arguments: list[jax.Array], gradient: jax.Array) -> Any:
        if what == "forward":
            return form(*arguments)
        value, pull_back = jax.vjp(form, *arguments)
        return value, pull_back(gradient)

    compiled = jax.jit(run).lower(arguments, gradient).compile()
    return lambda: compiled(arguments, gradient)

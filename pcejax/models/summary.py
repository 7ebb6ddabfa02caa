"""What a model is before it is trained: parts, parameters, FLOPs and receptive field, read off the model itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.extend import core

from pcejax.errors import UserError
from pcejax.models.receptive_field import receptive_field


class Layer(NamedTuple):
    """A module of a model: its path as in the parameters, its output's `[H, W, C]`, its parameters."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int


def layers(model: nn.Module, image_shape: tuple[int, ...]) -> list[Layer]:
    """Every module with parameters, of `model` on an image `[B, H, W, bands]`, in the order in which they are done."""
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(output, jax.Array):
            shapes[context.module.path] = output.shape[1:]
        return output

    with nn.intercept_methods(record):
        params = _variables(model, image_shape)["params"]

    def parameters(path: tuple[str, ...]) -> int:
        return _size(functools.reduce(lambda tree, name: tree.get(name, {}), path, params))

    found = (Layer(path, shape, parameters(path)) for path, shape in shapes.items() if path)
    return [layer for layer in found if layer.parameters]


def flops(model: nn.Module, image_shape: tuple[int, ...]) -> float:
    """Twice the multiply-adds of the convolutions and dots of one forward pass over `[B, H, W, bands]`.

    The textbook count: taps on padding are counted; norms, activations, sums, max-pooling and interpolation by
    doubling are not. A fusion's means over grids and the interpolation of them are dots and are counted.
    """
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    forward = jax.make_jaxpr(functools.partial(model.apply, train=False))(_variables(model, image_shape), image)
    return 2.0 * _multiply_adds(forward.jaxpr)


def _multiply_adds(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "cond" and params.get("branches_platforms"):
            total += _multiply_adds(params["branches"][-1].jaxpr)  # what all platforms but some compute it by
        elif name in ("scan", "while", "cond"):
            raise NotImplementedError(f"FLOPs of {name}: how often its body runs is not known here")
        elif name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            summands = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(eqn.outvars[0].aval.shape) * summands
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
        elif name == "mul" and "depthwise_conv" in str(eqn.source_info.name_stack):
            total += math.prod(eqn.outvars[0].aval.shape)  # a tap of ops.depthwise_conv, which has no primitive
        else:
            bodies = (getattr(value, "jaxpr", value) for value in params.values())
            total += sum(_multiply_adds(body) for body in bodies if isinstance(body, core.Jaxpr))
    return total


def width_for(model_of: Callable[[float], nn.Module], gflops: float) -> float:
    """The width, a multiple of 1/4 from 4 on, whose model comes nearest to `gflops` for 256x256 pixels of RGB.

    Args:
      model_of: width -> model; a wider one has as many FLOPs or more.
      gflops: of one forward pass, as `flops` counts.

    Raises:
      UserError: the narrowest model has more.
    """

    @functools.cache
    def count(quarters: int) -> float:
        return flops(model_of(quarters / 4), (1, 256, 256, 3)) / 1e9

    low, high = 16, 128
    if count(low) > gflops:
        raise UserError(
            f"model.gflops={gflops:g}; expected {count(low):.3g} or more, which a model of width 4 has; "
            "raise it, or lower model.depth"
        )
    while count(high) <= gflops:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= gflops else (low, middle)
    return min(low, high, key=lambda quarters: abs(count(quarters) - gflops)) / 4


def model_summary(model: nn.Module, config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """What a run stores of `model`, which `config` describes: JSON types, FLOPs of an image `[1, H, W, bands]`."""
    parts = [
        {"name": "/".join(layer.path), "shape": list(layer.shape), "parameters": layer.parameters}
        for layer in parts_of(layers(model, image_shape))
    ]
    return {
        "parameters": sum(part["parameters"] for part in parts),
        "gflops": flops(model, image_shape) / 1e9,
        "image": list(image_shape[1:]),
        "receptive_field": receptive_field(config)._asdict(),
        "norm": config.norm,
        "parts": parts,
    }


def parts_of(all_layers: list[Layer]) -> list[Layer]:
    """The layers that make up the whole model: the levels of its encoder, and all else of its first rank."""
    return [layer for layer in all_layers if len(layer.path) == 1 + (layer.path[0] == "encoder")]


def describe(summary: dict[str, Any]) -> str:
    """A `model_summary` in one line."""
    height, width, _ = summary["image"]
    beyond = ["pooled features"] * summary["receptive_field"]["whole_image"]
    beyond += ["group norm's statistics"] * (summary["norm"] == "group")
    features = [part["shape"][-1] for part in summary["parts"][:-1]]
    return (
        f"{min(features)} to {max(features)} features, {summary['parameters'] / 1e6:.3g} M parameters, "
        f"{summary['gflops']:.3g} GFLOPs for {height}x{width} pixels, "
        f"receptive field {summary['receptive_field']['pixels']} pixels"
        + (f" (beyond them only {' and '.join(beyond)})" if beyond else "")
    )


def _variables(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(image_shape), train=False))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

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

_WIDTH_STEP = 2  # of the widths that `width_for` tries
_NOMINAL = (1, 256, 256, 3)  # the image that `model.gflops` is counted on


class Layer(NamedTuple):
    """A module of a model: its path as in the parameters, its output's `[H, W, C]`, its parameters."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int


class ReceptiveField(NamedTuple):
    """Input pixels that a logit depends on, norms' statistics aside.

    pixels: side of the square around it that it sees through convolutions, pooling 2x2 and interpolation, for the
      logits that see most: how far a logit sees depends on where it lies on the grid of the deepest level.
    whole_image: whether it also sees features pooled over the image or over the cells of a grid on it.
    """

    pixels: int
    whole_image: bool


def layers(model: nn.Module, image_shape: tuple[int, ...]) -> list[Layer]:
    """Every module of `model` applied to an image `[B, H, W, bands]`, in the order in which they are done."""
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

    return [Layer(path, shape, parameters(path)) for path, shape in shapes.items() if path]


def flops(model: nn.Module, image_shape: tuple[int, ...]) -> float:
    """Twice the multiply-adds of the convolutions and dots of one forward pass over `[B, H, W, bands]`.

    The textbook count: taps on the padding are counted, norms, activations, pooling and interpolation are not.
    """
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    forward = jax.make_jaxpr(functools.partial(model.apply, train=False))(_variables(model, image_shape), image)
    return 2.0 * _multiply_adds(forward.jaxpr)


def _multiply_adds(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name in ("scan", "while", "cond"):
            raise NotImplementedError(f"FLOPs of {name}: how often its body runs is not known here")
        if name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            summands = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(eqn.outvars[0].aval.shape) * summands
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
        else:
            bodies = (getattr(value, "jaxpr", value) for value in params.values())
            total += sum(_multiply_adds(body) for body in bodies if isinstance(body, core.Jaxpr))
    return total


def width_for(model_of: Callable[[int], nn.Module], gflops: float) -> int:
    """The even width whose model comes nearest to `gflops` for an RGB image of 256x256 pixels.

    Args:
      model_of: width -> model; a wider one has more FLOPs, about as the square.
      gflops: of one forward pass, as `flops` counts.

    Raises:
      UserError: the narrowest model has more.
    """

    @functools.cache
    def count(width: int) -> float:
        return flops(model_of(width), _NOMINAL) / 1e9

    if count(_WIDTH_STEP) > gflops:
        raise UserError(
            f"model.gflops={gflops:g}; expected at least {count(_WIDTH_STEP):.3g}, which width {_WIDTH_STEP} has; "
            "raise it, or lower model.depth"
        )
    width, last = 32, 0
    while width != last:  # by the square law, until it stays
        last = width
        width = max(1, round(width * math.sqrt(gflops / count(width)) / _WIDTH_STEP)) * _WIDTH_STEP
    near = range(max(_WIDTH_STEP, width - _WIDTH_STEP), width + 2 * _WIDTH_STEP, _WIDTH_STEP)
    return min(near, key=lambda width: abs(count(width) - gflops))


def receptive_field(config: ml_collections.ConfigDict) -> ReceptiveField:
    """The receptive field of the model of `config` (a run's `config.model`), far from the image's border."""
    spans = [_span(config, pixel) for pixel in range(2**config.depth)]
    return ReceptiveField(max(last - first + 1 for first, last in spans), whole_image=False)


def _span(config: ml_collections.ConfigDict, pixel: int) -> tuple[int, int]:
    """First and last pixel of a row of the image that logit `pixel` of that row depends on."""

    def block(span: tuple[int, int]) -> tuple[int, int]:
        return span[0] - 2, span[1] + 2  # two 3x3 convolutions

    def upsample(span: tuple[int, int]) -> tuple[int, int]:
        # Bilinear: pixel 2i is made of i - 1 and i, pixel 2i + 1 of i and i + 1. Otherwise both of i alone.
        reach = 1 if config.upsample == "bilinear" else 0
        return (span[0] - reach) // 2, (span[1] + reach) // 2

    span, skips = (pixel, pixel), []
    for _ in range(config.depth):
        span = block(span)
        skips.append(span)
        span = upsample(span)
    for skip in reversed(skips):
        first, last = block(span)
        span = min(2 * first, skip[0]), max(2 * last + 1, skip[1])
    return block(span)


def model_summary(model: nn.Module, config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """What a run stores of `model`, which `config` describes: JSON types, FLOPs of an image `[1, H, W, bands]`."""
    parts = [
        {"name": "/".join(layer.path), "shape": list(layer.shape), "parameters": layer.parameters}
        for layer in layers(model, image_shape)
        if len(layer.path) == 1
    ]
    return {
        "parameters": sum(part["parameters"] for part in parts),
        "gflops": flops(model, image_shape) / 1e9,
        "image": list(image_shape[1:]),
        "receptive_field": receptive_field(config)._asdict(),
        "norm": config.norm,
        "parts": parts,
    }


def describe(summary: dict[str, Any]) -> str:
    """A `model_summary` in one line."""
    height, width, _ = summary["image"]
    field = f"receptive field {summary['receptive_field']['pixels']} pixels"
    beyond = []
    if summary["receptive_field"]["whole_image"]:
        beyond.append("pooled features")
    if summary["norm"] == "group":
        beyond.append("group norm's statistics")
    if beyond:
        field += f" (beyond them only {' and '.join(beyond)})"
    return (
        f"{summary['parameters'] / 1e6:.3g} M parameters, {summary['gflops']:.3g} GFLOPs for {width}x{height} pixels, "
        f"{field}"
    )


def _variables(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(image_shape), train=False))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

"""Parts of a U-Net: convolution, norm and activation; a level's blocks; up-sampling; dropout; the head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcejax import ops
from pcejax.group_norm import group_norm

NORMS = ("group", "batch", "none")
UPSAMPLERS = ("transposed", "bilinear", "nearest")

ModuleDef = Callable[..., nn.Module]
"""A module whose settings are given and whose features and name are not."""

_he_normal = nn.initializers.he_normal()
# Each output pixel of a 2x2 transposed convolution sees one input pixel, so its fan-in is the channels alone.
_per_pixel = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0, 1))


def round_features(features: float, like: int) -> int:
    """The multiple of gcd(8, like) nearest to `features`, and at least that: a group norm then finds its groups."""
    unit = math.gcd(8, like)
    return unit * max(1, math.floor(features / unit + 0.5))


def _conv(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, rhs_dilation: tuple[int, int], **_: Any
) -> jax.Array:
    """`ops.conv` as `nn.Conv` calls a convolution."""
    return ops.conv(x, kernel, rhs_dilation[0])


class Norm(nn.Module):
    """Norm of kind "group" | "batch", or for "none" the bias that a norm's offset else stands for; shape unchanged.

    `starts_at_zero`: a norm's output is 0 until training changes it.
    """

    kind: str
    dtype: jnp.dtype
    axis_name: str | None = None
    starts_at_zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""
        features = x.shape[-1]
        scale_init = nn.initializers.zeros if self.starts_at_zero else nn.initializers.ones
        if self.kind == "group":
            groups = next(n for n in (8, 4, 2, 1) if features % n == 0)
            return GroupNorm(groups, scale_init, self.dtype)(x)
        if self.kind == "batch":
            return nn.BatchNorm(
                not train, momentum=0.9, scale_init=scale_init, dtype=self.dtype, axis_name=self.axis_name
            )(x)
        return x + self.param("bias", nn.initializers.zeros, (features,)).astype(self.dtype).reshape(1, 1, 1, -1)


class GroupNorm(nn.Module):
    """`group_norm.group_norm` and its parameters: shape unchanged, type `dtype`."""

    groups: int
    scale_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Each image by its own statistics."""
        scale = self.param("scale", self.scale_init, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return group_norm(x.astype(self.dtype), scale, bias, self.groups)


class Conv(nn.Module):
    """Convolution, norm and, unless `linear`, ReLU: `[B, H, W, C]` -> `[B, H, W, features]`.

    The kernel is `size` x `size` with `dilation`. `starts_at_zero`: the output is 0 until training changes it.
    """

    features: int
    norm: str
    dtype: jnp.dtype
    axis_name: str | None = None
    size: int = 3
    dilation: int = 1
    linear: bool = False
    starts_at_zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""
        # Where a norm follows, its scale is what starts at zero: it would blow up a kernel that did.
        kernel_init = nn.initializers.zeros if self.starts_at_zero and self.norm == "none" else _he_normal
        if self.size == 1:
            kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features))
            x = ops.conv_1x1(x.astype(self.dtype), kernel.astype(self.dtype))
        else:
            x = nn.Conv(
                self.features,
                (self.size, self.size),
                kernel_dilation=self.dilation,
                use_bias=False,
                kernel_init=kernel_init,
                dtype=self.dtype,
                conv_general_dilated=_conv,
            )(x)
        x = Norm(self.norm, self.dtype, self.axis_name, self.starts_at_zero)(x, train=train)
        return x if self.linear else nn.relu(x)


class Block(nn.Module):
    """Two 3x3 convolutions: `[B, H, W, C]` -> `[B, H, W, features]`.

    A residual one (He et al., 2016, "Deep Residual Learning for Image Recognition") adds its input, through a 1x1
    convolution where the features change, and starts as that alone (Goyal et al., 2017, "Accurate, Large Minibatch
    SGD"), so that many of them in a row still pass signal and gradient.
    """

    features: int
    residual: bool
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""
        shortcut = x
        x = self.conv(self.features, name="conv_0")(x, train=train)
        if not self.residual:
            return self.conv(self.features, name="conv_1")(x, train=train)
        x = self.conv(self.features, linear=True, starts_at_zero=True, name="conv_1")(x, train=train)
        if shortcut.shape[-1] != self.features:
            shortcut = self.conv(self.features, size=1, linear=True, name="shortcut")(shortcut, train=train)
        return nn.relu(shortcut + x)


class Level(nn.Module):
    """Blocks at one resolution: `[B, H, W, C]` -> `[B, H, W, features]`.

    `remat`: the backward pass computes what is inside a second time instead of keeping it (Chen et al., 2016,
    "Training Deep Nets with Sublinear Memory Cost").
    """

    features: int
    num_blocks: int
    residual: bool
    remat: bool
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""

        def run(level: Level, x: jax.Array) -> jax.Array:
            for index in range(level.num_blocks):
                x = Block(level.features, level.residual, level.conv, name=f"block_{index}")(x, train=train)
            return x

        return (nn.remat(run) if self.remat else run)(self, x)


class Upsample(nn.Module):
    """Doubles height and width: `[B, H, W, C]` -> `[B, 2H, 2W, features]`."""

    features: int
    method: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """By a 2x2 transposed convolution, or a 1x1 convolution and interpolation."""
        channels = x.shape[-1]
        if self.method == "transposed":
            kernel = self.param("kernel", _per_pixel, (2, 2, channels, self.features))
            return ops.transposed_conv_2x2(x, kernel.astype(self.dtype))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, self.features))
        # The 1x1 convolution commutes with interpolation and is four times cheaper before it.
        x = ops.conv_1x1(x, kernel.astype(self.dtype))
        return ops.bilinear_2x(x) if self.method == "bilinear" else ops.nearest_2x(x)


def drop_maps(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """`[B, H, W, C]` with the share `rate` of its feature maps at 0 and the others scaled up; keys `[B]`.

    Whole maps (Tompson et al., 2015, "Efficient Object Localization Using Convolutional Networks"): single values
    would be told from their neighbours. A key for each image, so that none feels how a batch is split over devices.
    """
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (1, 1, x.shape[-1])))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


class Head(nn.Module):
    """Logits of each pixel, float32 (float64 for float64): `[B, H, W, C]` -> `[B, H, W, num_classes]`."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """A 1x1 convolution whose small start makes all classes about equally likely."""
        kernel = self.param("kernel", nn.initializers.normal(0.01), (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return ops.conv_1x1(x, kernel.astype(x.dtype)).astype(dtype) + bias.astype(dtype).reshape(1, 1, 1, -1)

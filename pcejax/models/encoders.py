"""Encoders that come with weights: EfficientNet-Lite.

Tan & Le, 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the Lite variants of 2020
have no squeeze-and-excitation, ReLU6 for swish, and one width for all stems.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcejax import ops
from pcejax.models import blocks

STEM = 32
"""Features of the stem, in every variant."""

SCALES = {
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
"""By variant: factors on the features and on the number of blocks."""

MAX_DEPTH = 5
"""The deepest level has stride 2**5."""

# By stage: level, blocks, side of the kernel, expansion, features.
_STAGES = (
    (1, 1, 3, 1, 16),
    (2, 2, 3, 6, 24),
    (3, 2, 5, 6, 40),
    (4, 3, 3, 6, 80),
    (4, 3, 5, 6, 112),
    (5, 4, 5, 6, 192),
    (5, 1, 3, 6, 320),
)

_he_normal = nn.initializers.he_normal()
# Each channel of a depthwise convolution sees its own pixels alone.
_he_normal_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1), out_axis=-1)


class Block(NamedTuple):
    """One inverted residual block: a 1x1 convolution that expands, a depthwise one, a 1x1 one that projects."""

    level: int
    size: int  # side of the depthwise kernel
    stride: int
    expansion: int  # 1 for no expanding convolution
    features: int


@functools.cache
def layout(variant: str) -> tuple[Block, ...]:
    """The blocks of a variant, in order; the first of a level halves the sides, but for level 1, whose stem does."""
    width, depth = SCALES[variant]
    result: list[Block] = []
    for level, repeats, size, expansion, features in _STAGES:
        # The first and the last stage have one block each, whatever the depth.
        repeats = repeats if repeats == 1 else math.ceil(depth * repeats)
        features = blocks.round_features(width * features, 8)
        for _ in range(repeats):
            first = level > 1 and result[-1].level < level
            result.append(Block(level, size, 2 if first else 1, expansion, features))
    return tuple(result)


class EfficientNetLite(nn.Module):
    """Level l, `params["encoder"]["level_<l>"]`, is all that is computed between the strides 2**(l-1) and 2**l.

    Without stochastic depth, which the weights were trained with: few labels ask for few epochs.
    """

    variant: str
    depth: int
    dtype: jnp.dtype
    axis_name: str | None = None
    frozen_stages: int = 0
    frozen_statistics: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array | None]:
        """Features of the strides 1 (None: there are none), 2, 4 and so on to 2**depth.

        Args:
          image: float `[B, H, W, bands]` in [0, 1]; H and W are multiples of 2**depth.
          train: whether batch norm takes the batch's statistics, in levels that are not frozen.
        """
        x = ((image * 255 - 127) / 128).astype(self.dtype)
        features: list[jax.Array | None] = [None]
        for index in range(1, self.depth + 1):
            frozen = index <= self.frozen_stages
            batch_statistics = train and not frozen and not self.frozen_statistics
            level = _Level(
                self.variant, index, batch_statistics, self.dtype, self.axis_name, self.remat, name=f"level_{index}"
            )
            x = level(x)
            if frozen:
                x = jax.lax.stop_gradient(x)  # what no parameter asks for is not computed
            features.append(x)
        return features


class _Level(nn.Module):
    variant: str
    index: int
    batch_statistics: bool
    dtype: jnp.dtype
    axis_name: str | None
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H / 2, W / 2, C']`."""
        if self.index == 1:
            kernel = self.param("stem_kernel", _he_normal, (3, 3, x.shape[-1], STEM))
            x = ops.strided_conv(x, kernel.astype(self.dtype), 2)
            x = jax.nn.relu6(_batch_norm(self, "stem_norm")(x))
        block = nn.remat(_InvertedResidual) if self.remat else _InvertedResidual
        for number, of_block in enumerate(layout(self.variant)):
            if of_block.level == self.index:
                name = f"block_{number}"
                x = block(of_block, self.batch_statistics, self.dtype, self.axis_name, name=name)(x)
        return x


class _InvertedResidual(nn.Module):
    block: Block
    batch_statistics: bool
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H / stride, W / stride, features]`."""
        _, size, stride, expansion, features = self.block
        inputs, hidden = x, x.shape[-1] * expansion

        def kernel(name: str, initializer: nn.initializers.Initializer, *shape: int) -> jax.Array:
            return self.param(f"{name}_kernel", initializer, shape).astype(self.dtype)

        if expansion > 1:
            x = ops.conv_1x1(x, kernel("expand", _he_normal, x.shape[-1], hidden))
            x = jax.nn.relu6(_batch_norm(self, "expand_norm")(x))
        x = ops.depthwise_conv(x, kernel("depthwise", _he_normal_depthwise, size, size, hidden), stride)
        x = jax.nn.relu6(_batch_norm(self, "depthwise_norm")(x))
        x = ops.conv_1x1(x, kernel("project", _he_normal, hidden, features))
        x = _batch_norm(self, "project_norm")(x)
        return x + inputs if x.shape == inputs.shape else x


def _batch_norm(parent: _Level | _InvertedResidual, name: str) -> nn.BatchNorm:
    # TensorFlow's epsilon, which the weights were trained with. The running means follow as fast as the decoder's:
    # their 0.99 would need more steps than a fine-tuning has.
    return nn.BatchNorm(
        not parent.batch_statistics,
        momentum=0.9,
        epsilon=1e-3,
        dtype=parent.dtype,
        axis_name=parent.axis_name,
        name=name,
    )

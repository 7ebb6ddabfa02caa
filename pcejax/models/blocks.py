"""Blocks of a U-Net: convolution, norm and activation; up-sampling; the head."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcejax import ops

NORMS = ("group", "batch", "none")
UPSAMPLERS = ("transposed", "bilinear", "nearest")

_he_normal = nn.initializers.he_normal()
# Each output pixel of a 2x2 transposed convolution sees one input pixel, so its fan-in is the channels alone.
_per_pixel = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0, 1))


class ConvBlock(nn.Module):
    """Twice: 3x3 convolution, norm, ReLU. `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    norm: str
    dtype: jnp.dtype
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""
        for _ in range(2):
            # A norm's own offset stands in for the bias.
            x = nn.Conv(self.features, (3, 3), use_bias=self.norm == "none", kernel_init=_he_normal, dtype=self.dtype)(
                x
            )
            if self.norm == "group":
                groups = next(n for n in (8, 4, 2, 1) if self.features % n == 0)
                x = nn.GroupNorm(groups, dtype=self.dtype)(x)
            elif self.norm == "batch":
                x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name)(x)
            x = nn.relu(x)
        return x


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

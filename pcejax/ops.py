"""Pooling, up-sampling, 1x1 and depthwise convolution in the form that is fast on every platform.

On CPUs XLA's transposed convolution, reduce-window, 1x1 and depthwise convolution are many times slower than the
dots, slices, sums and reshapes below (jax issues 23783 and 31662 tell of the first, on GPUs too; 13800 of the last's
gradient on GPUs).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def conv_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, kernel `[C, O]` -> `[B, H, W, O]`: a 1x1 convolution as one dot."""
    return jnp.einsum("bhwc,co->bhwo", x, kernel)


@jax.named_scope("depthwise_conv")  # models/summary.py counts its products by this name
def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`[B, H, W, C]`, kernel `[K, K, C]` -> `[B, ceil(H / stride), ceil(W / stride), C]`: each channel by itself.

    Zeros pad the image as TensorFlow's "SAME" does: as few as there may be, and an odd one right and below.
    """
    size = len(kernel)
    height, width = (-(-n // stride) for n in x.shape[1:3])
    lacking = [max((out - 1) * stride + size - n, 0) for out, n in zip((height, width), x.shape[1:3], strict=True)]
    padded = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in lacking), (0, 0)))
    # Summed in float32 at least: K * K products in bfloat16 would lose digits that a convolution keeps.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), dtype)
    for row in range(size):
        for col in range(size):
            rows = slice(row, row + (height - 1) * stride + 1, stride)
            cols = slice(col, col + (width - 1) * stride + 1, stride)
            weight = kernel[row, col].astype(dtype).reshape(1, 1, 1, -1)
            total += padded[:, rows, cols].astype(dtype) * weight
    return total.astype(x.dtype)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """`[B, 2H, 2W, C]` -> `[B, H, W, C]`: the largest of each 2x2 block."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    top = jnp.maximum(blocks[:, :, 0, :, 0], blocks[:, :, 0, :, 1])
    bottom = jnp.maximum(blocks[:, :, 1, :, 0], blocks[:, :, 1, :, 1])
    return jnp.maximum(top, bottom)


def transposed_conv_2x2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, kernel `[2, 2, C, O]` -> `[B, 2H, 2W, O]`: stride 2, so each pixel becomes a 2x2 block."""
    batch, height, width, _ = x.shape
    blocks = jnp.einsum("bhwc,ijco->bhiwjo", x, kernel)
    return blocks.reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


def _upsample_axis(x: jax.Array, axis: int) -> jax.Array:
    """Doubles one axis: the new pixels lie a quarter of an old one left and right of its centre."""
    size = x.shape[axis]
    before = jnp.concatenate(
        [jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
    )
    after = jnp.concatenate(
        [jax.lax.slice_in_dim(x, 1, size, axis=axis), jax.lax.slice_in_dim(x, size - 1, size, axis=axis)], axis
    )
    pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def bilinear_2x(x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` -> `[B, 2H, 2W, C]`, half-pixel centres, edges clamped, as `jax.image.resize` does it."""
    return _upsample_axis(_upsample_axis(x, 1), 2)


def nearest_2x(x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` -> `[B, 2H, 2W, C]`: each pixel four times."""
    batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return blocks.reshape(batch, 2 * height, 2 * width, channels)

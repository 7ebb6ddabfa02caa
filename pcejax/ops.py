"""Convolution, pooling and up-sampling in the form that is fast on every platform.

On CPUs XLA's transposed convolution, reduce-window, 1x1 and depthwise convolution are many times slower than the
dots, slices, sums and reshapes below (jax issues 23783 and 31662 tell of the first, on GPUs too; 13800 of the last's
gradient on GPUs). So is the gradient of a convolution's kernel, of which CPUs alone get a form of their own.
docs/performance.md has what each was measured to gain.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_BLOCK_VALUES = 5 << 18
"""Values of a block of unfolded pixels, at most: the dot still finds them in a cache."""

_PAIRED = range(17, 33)
"""Channels with which a CPU convolves pairs of neighbours faster than single pixels; with fewer it is no gain."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """`[B, H, W, C]`, kernel `[K, K, C, O]`, K odd -> `[B, H, W, O]`: stride 1, zeros around the image."""
    if not _is_paired(x, kernel, dilation):
        return _native_conv(x, kernel, dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=conv_of_pairs, default=lambda x, k: _native_conv(x, k, 1))


def _native_conv(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    padding = (len(kernel) // 2 * dilation,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), rhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _is_paired(x: jax.Array, kernel: jax.Array, dilation: int) -> bool:
    return x.shape[-1] in _PAIRED and x.shape[2] % 2 == 0 and len(kernel) == 3 and dilation == 1


def conv_of_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv` of a 3x3 kernel and an even W over pairs of neighbours: `[B, H, W / 2, 2 C]` is the same memory.

    A kernel `[3, 3, 2 C, 2 O]`, half of it zeros, does the same.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    # Of the six pixels of three pairs, the left one of the middle pair sees the second to fourth, the right one those
    # after.
    sees = [jnp.pad(kernel, ((0, 0), (1 + right, 2 - right), (0, 0), (0, 0))) for right in range(2)]
    of_pairs = jnp.stack(sees, 3).reshape(3, 3, 2 * channels, 2 * features)
    paired = _native_conv(x.reshape(batch, height, width // 2, 2 * channels), of_pairs, 1)
    return paired.reshape(batch, height, width, features)


def _conv_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, dilation), (x, kernel)


def _conv_backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def of_x(gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _native_conv(x, kernel, dilation), x)(gradient)[0]

    def of_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _native_conv(x, kernel, dilation), kernel)(gradient)[0]

    def of_x_on_cpu(gradient: jax.Array) -> jax.Array:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        paired = _is_paired(gradient, flipped, dilation)
        return conv_of_pairs(gradient, flipped) if paired else of_x(gradient)

    def of_kernel_on_cpu(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return kernel_gradient_in_blocks(x, gradient, len(kernel), dilation).astype(kernel.dtype)

    return (
        jax.lax.platform_dependent(gradient, cpu=of_x_on_cpu, default=of_x),
        jax.lax.platform_dependent(x, gradient, cpu=of_kernel_on_cpu, default=of_kernel),
    )


conv.defvjp(_conv_forward, _conv_backward)


def kernel_gradient_in_blocks(x: jax.Array, gradient: jax.Array, size: int, dilation: int = 1) -> jax.Array:
    """`[size, size, C, O]`: the gradient of `conv`'s kernel, of its input `[B, H, W, C]` and its output's gradient.

    A loop over blocks of rows. Of each block the array with fewer channels is unfolded, its shifted copies side by
    side, and one dot with the other array gives all taps at once.
    """
    unfolds_x = x.shape[-1] <= gradient.shape[-1]
    unfolded, other = (x, gradient) if unfolds_x else (gradient, x)
    batch, height, width, channels = unfolded.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    most = min(height, max(1, _BLOCK_VALUES // (size * size * width * channels)))
    # Rows that divide the height need no padding, which is a copy.
    rows = max(n for n in range(1, most + 1) if height % n == 0)
    rows = rows if 2 * rows > most else most
    per_image = -(-height // rows)
    below, reach = per_image * rows - height, size // 2 * dilation
    unfolded = jnp.pad(unfolded, ((0, 0), (reach, reach + below), (reach, reach), (0, 0)))
    other = jnp.pad(other, ((0, 0), (0, below), (0, 0), (0, 0)))
    shifts = [(row * dilation, col * dilation) for row in range(size) for col in range(size)]

    def add_block(index: jax.Array, total: jax.Array) -> jax.Array:
        start = (index // per_image, index % per_image * rows, 0, 0)
        shape = (1, rows + 2 * reach, width + 2 * reach, channels)
        window = jax.lax.dynamic_slice(unfolded, start, shape)[0]
        taps = [window[row : row + rows, col : col + width] for row, col in shifts]
        block = jax.lax.dynamic_slice(other, start, (1, rows, *other.shape[2:]))[0]
        pixels = ((0, 1), (0, 1))
        unfolded_block = jnp.concatenate(taps, -1)
        return total + jax.lax.dot_general(block, unfolded_block, (pixels, ((), ())), preferred_element_type=dtype)

    total = jnp.zeros((other.shape[-1], size * size * channels), dtype)
    total = jax.lax.fori_loop(0, batch * per_image, add_block, total)
    by_tap = total.reshape(-1, size, size, channels)
    # A tap that moves the image one way moves the gradient the other way.
    return by_tap.transpose(1, 2, 3, 0) if unfolds_x else by_tap[:, ::-1, ::-1].transpose(1, 2, 0, 3)


def conv_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, kernel `[C, O]` -> `[B, H, W, O]`: a 1x1 convolution as one dot."""
    return jnp.einsum("bhwc,co->bhwo", x, kernel)


def _taps(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """The pixels `[B, ceil(H / stride), ceil(W / stride), C]` that each tap of a kernel sees, row by row.

    Zeros pad the image as TensorFlow's "SAME" does: as few as there may be, and an odd one right and below.
    """
    height, width = (-(-n // stride) for n in x.shape[1:3])
    lacking = [max((out - 1) * stride + size - n, 0) for out, n in zip((height, width), x.shape[1:3], strict=True)]
    padded = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in lacking), (0, 0)))
    rows, cols = ([slice(tap, tap + (out - 1) * stride + 1, stride) for tap in range(size)] for out in (height, width))
    return [padded[:, row, col] for row in rows for col in cols]


def strided_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[B, H, W, C]`, kernel `[K, K, C, O]` -> `[B, ceil(H / stride), ceil(W / stride), O]`, padded as in TensorFlow.

    One dot over the taps side by side: for images, whose channels are few.
    """
    size, _, channels, features = kernel.shape
    return conv_1x1(jnp.concatenate(_taps(x, size, stride), -1), kernel.reshape(size * size * channels, features))


# Derived by JAX it would keep K * K shifted copies of x, one for each factor of the kernel's gradient.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`[B, H, W, C]`, kernel `[K, K, C]` -> `[B, ceil(H / stride), ceil(W / stride), C]`, padded as in TensorFlow."""
    return _sum_of_taps(_taps(x, len(kernel), stride), kernel)


@jax.named_scope("depthwise_conv")  # models/summary.py counts its products by this name
def _sum_of_taps(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    # Summed in float32 at least: K * K products in bfloat16 would lose digits that a convolution keeps.
    dtype = jnp.promote_types(taps[0].dtype, jnp.float32)
    weights = kernel.astype(dtype).reshape(-1, 1, 1, 1, kernel.shape[-1])
    total = taps[0].astype(dtype) * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total += tap.astype(dtype) * weight
    return total.astype(taps[0].dtype)


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _depthwise_backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    size, (height, width) = len(kernel), x.shape[1:3]
    # Of x: the gradient, zeros between and around it, under the kernel turned by half a turn.
    edges = []
    for n, out in zip((height, width), gradient.shape[1:3], strict=True):
        spread = (out - 1) * stride + 1
        before = size - 1 - max(spread - 1 + size - n, 0) // 2
        edges.append((before, n + size - 1 - spread - before, stride - 1))
    around = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    shifts = [(row, col) for row in range(size) for col in range(size)]
    of_x = _sum_of_taps([around[:, row : row + height, col : col + width] for row, col in shifts], kernel[::-1, ::-1])

    # Of the kernel: several rows are added up element by element first, as a reduction does fewer at a time.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    step = next(n for n in (8, 4, 2, 1) if gradient.shape[1] % n == 0)
    rows = [gradient[:, row::step].astype(dtype) for row in range(step)]
    products = [
        sum(tap[:, n::step].astype(dtype) * row for n, row in enumerate(rows)) for tap in _taps(x, size, stride)
    ]
    of_kernel = jnp.stack(products).sum((1, 2, 3)).reshape(kernel.shape)
    return of_x, of_kernel.astype(kernel.dtype)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


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

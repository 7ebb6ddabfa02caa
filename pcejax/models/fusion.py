"""Multi-scale feature fusion: what lies around a pixel, near and far, joined at that pixel.

Branches see a map of features at several scales, by pooling (pyramid pooling: Zhao et al., 2017, "Pyramid Scene
Parsing Network") or by dilated convolutions (ASPP: Chen et al., 2017, "Rethinking Atrous Convolution for Semantic
Image Segmentation"), and are fused by concatenation or by summation. On a decoder the maps of all its levels are
joined first (Lin et al., 2017, "Feature Pyramid Networks"; Xiao et al., 2018, "Unified Perceptual Parsing").
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pcejax import ops
from pcejax.models import blocks

PLACES = ("", "bottleneck", "decoder", "both")
BRANCHES = ("pooling", "dilated")
FUSIONS = ("concat", "sum")


def adaptive_average_pool(x: jax.Array, grid: int) -> jax.Array:
    """`[B, H, W, C]` -> `[B, grid, grid, C]`: means over bins that cover any H and W, also below `grid`.

    Bin i of a side of n pixels spans floor(i * n / grid) to ceil((i + 1) * n / grid), as in PyTorch's
    AdaptiveAvgPool2d; where grid does not divide n, neighbours overlap.
    """
    # Sums by matrices of 0 and 1, which bfloat16 holds exactly, and in float32; their counts divide afterwards.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)
    rows, cols = (_bins(size, grid) for size in x.shape[1:3])
    sums = einsum("jw,biwc->bijc", jnp.asarray(cols, dtype), einsum("ih,bhwc->biwc", jnp.asarray(rows, x.dtype), x))
    counts = np.outer(rows.sum(1), cols.sum(1)).reshape(1, grid, grid, 1)
    return (sums / jnp.asarray(counts, dtype)).astype(x.dtype)


def _bins(size: int, grid: int) -> np.ndarray:
    """bool `[grid, size]`: which pixels of a side lie in which bin."""
    index, pixel = np.arange(grid).reshape(-1, 1), np.arange(size)
    return (pixel >= index * size // grid) & (pixel < -(-(index + 1) * size // grid))


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """`[B, h, w, C]` -> `[B, height, width, C]`: half-pixel centres, edges clamped.

    The same as PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    _, old_height, old_width, _ = x.shape
    rows = jnp.asarray(_interpolation(old_height, height), x.dtype)
    cols = jnp.asarray(_interpolation(old_width, width), x.dtype)
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=exact)
    return jnp.einsum("Ww,bHwc->bHWc", cols, x, precision=exact)


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """float64 `[new_size, size]`: the share that each pixel of a side has in each new one."""
    position = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1).reshape(-1, 1)
    return np.maximum(0, 1 - np.abs(position - np.arange(size)))


class MultiScale(nn.Module):
    """Branches at several scales, fused and brought back to the input's features: `[B, H, W, C]` -> the same.

    One branch is a 1x1 convolution of the map itself. By "pooling" the others are the means of each of `grids`,
    a 1x1 convolution of them, and interpolation; by "dilated" they are a 3x3 convolution of each of `rates` and
    the mean of the whole map, as a grid of 1. Each has `features` features, or for 0 its share of C.

    `plain_control`: a 1x1 and a 3x3 convolution take the branches' place, with hidden widths that give as many
    parameters, to less than 1 % for C from 16 on. What the branches are worth is the difference.
    """

    branches: str
    fuse: str
    grids: tuple[int, ...]
    rates: tuple[int, ...]
    features: int
    plain_control: bool
    conv: blocks.ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics where `train`, with batch norm."""
        _, height, width, channels = x.shape
        num_branches = 1 + (len(self.grids) if self.branches == "pooling" else len(self.rates) + 1)
        features = self.features or blocks.round_features(channels / num_branches, channels)

        def means(grid: int, index: int) -> jax.Array:
            # Without a norm: over a handful of cells its statistics would take away what the cells say.
            conv = self.conv(features, size=1, norm="none", name=f"branch_{index}")
            return resize_bilinear(conv(adaptive_average_pool(x, grid), train=train), height, width)

        if self.plain_control:
            narrow, wide = self._control_widths(channels)
            x = self.conv(narrow, size=1, name="control_0")(x, train=train)
            x = self.conv(wide, name="control_1")(x, train=train)
        else:
            seen = [self.conv(features, size=1, name="branch_0")(x, train=train)]
            if self.branches == "pooling":
                seen += [means(grid, index) for index, grid in enumerate(self.grids, 1)]
            else:
                for index, rate in enumerate(self.rates, 1):
                    seen.append(self.conv(features, dilation=rate, name=f"branch_{index}")(x, train=train))
                seen.append(means(1, num_branches - 1))
            x = jnp.concatenate(seen, -1) if self.fuse == "concat" else sum(seen[1:], seen[0])
        return self.conv(channels, size=1, name="project")(x, train=train)

    def _control_widths(self, channels: int) -> tuple[int, int]:
        """Features of the control's 1x1 and 3x3 convolution: within 1 % of the branches' parameters, then alike."""
        wanted = _num_parameters(self.clone(plain_control=False, parent=None), channels)
        # Of a convolution beside its kernel: norm or bias.
        beside = _num_parameters(self.conv(1, size=1, parent=None), channels) - channels

        def error(widths: tuple[int, int]) -> float:
            narrow, wide = widths
            kernels = channels * narrow + 9 * narrow * wide + wide * channels
            return abs(kernels + beside * (narrow + wide + channels) - wanted) / wanted

        # Multiples of 8 if they come near enough, for the groups of group norm.
        for unit in (8, 4, 2, 1):
            widths = range(unit, 2 * channels + 1, unit)
            pairs = [(narrow, wide) for narrow in widths for wide in widths]
            near = [pair for pair in pairs if error(pair) < 0.01]
            if near:
                return min(near, key=lambda pair: abs(pair[0] - pair[1]))
        return min(pairs, key=error)


def _num_parameters(module: nn.Module, channels: int) -> int:
    """Of a module that sees maps of so many channels."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 1, 1, channels)), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


class Pyramid(nn.Module):
    """Maps of all levels of a decoder -> one map of `features` features at the finest one's resolution.

    Each map is convolved 1x1; all are brought to one resolution by doubling and either summed, or concatenated and
    convolved 1x1 again.
    """

    features: int
    fuse: str
    conv: blocks.ModuleDef
    norm: blocks.ModuleDef

    @nn.compact
    def __call__(self, levels: list[jax.Array], *, train: bool) -> jax.Array:
        """Level l is `[B, H / 2**l, W / 2**l, C_l]`, the finest first."""
        joined = None
        for index, x in reversed(list(enumerate(levels))):
            x = self.conv(self.features, size=1, name=f"level_{index}")(x, train=train)
            if self.fuse == "concat":
                # A convolution of a concatenation is the sum of its parts' convolutions, and commutes with
                # interpolation: done here, nothing but the sum is ever at a higher resolution.
                init = nn.initializers.normal((2 / (self.features * len(levels))) ** 0.5)
                kernel = self.param(f"kernel_{index}", init, (self.features, self.features))
                x = ops.conv_1x1(x, kernel.astype(x.dtype))
            if joined is not None and joined.shape[1] < x.shape[1]:  # of single pixels all have one size
                joined = ops.bilinear_2x(joined)
            joined = x if joined is None else joined + x
        assert joined is not None  # a decoder has a level
        return nn.relu(self.norm(name="norm")(joined, train=train)) if self.fuse == "concat" else joined

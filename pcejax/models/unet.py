"""U-Net (Ronneberger et al., 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation").

Same-padded instead of valid convolutions, so that the logits have the image's size.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcejax import ops
from pcejax.models import blocks


class UNet(nn.Module):
    """`depth` times down and up again, with skips; level l has `width * 2**l` features.

    An image of any size goes in: it is padded to a multiple of `2**depth` by its edge and cropped again.
    """

    num_classes: int
    depth: int
    width: int
    norm: str
    upsample: str
    dtype: jnp.dtype
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Float `[B, H, W, bands]` in [0, 1] -> logits float32 `[B, H, W, num_classes]`."""

        def block(level: int, name: str) -> blocks.ConvBlock:
            return blocks.ConvBlock(
                self.width * 2**level, self.norm, self.dtype, self.axis_name, name=f"{name}_{level}"
            )

        _, height, width, _ = image.shape
        bottom, right = (-n % 2**self.depth for n in (height, width))
        x = jnp.pad(image, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        # About zero mean and unit spread for aerial imagery, whose bands seldom fill their range.
        x = ((x - 0.4) / 0.2).astype(self.dtype)
        skips = []
        for level in range(self.depth):
            x = block(level, "encoder")(x, train=train)
            skips.append(x)
            x = ops.max_pool_2x2(x)
        x = block(self.depth, "bottleneck")(x, train=train)
        for level in reversed(range(self.depth)):
            x = blocks.Upsample(self.width * 2**level, self.upsample, self.dtype, name=f"upsample_{level}")(x)
            x = block(level, "decoder")(jnp.concatenate([skips[level], x], -1), train=train)
        return blocks.Head(self.num_classes, name="head")(x)[:, :height, :width]

"""U-Net (Ronneberger et al., 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation").

Same-padded instead of valid convolutions, so that the logits have the image's size. An encoder gives features by
level, level l at 1 / 2**l of the image's height and width; the decoder is the same for every encoder.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from pcejax import ops
from pcejax.errors import UserError
from pcejax.models import blocks


class PlainEncoder(nn.Module):
    """Convolutions and max-pooling; level l, `params["encoder"]["level_<l>"]`, has `features[l]` features."""

    features: tuple[int, ...]
    level: blocks.ModuleDef
    dtype: jnp.dtype
    frozen_stages: int = 0
    frozen_statistics: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array | None]:
        """The features of each level, the full resolution first and the bottleneck last.

        Any encoder is called so. One without features at full resolution gives None for them.

        Args:
          image: float `[B, H, W, bands]` in [0, 1]; H and W are multiples of 2 to the number of times down.
          train: whether batch norm takes the batch's statistics, unless they are frozen.
        """
        # About zero mean and unit spread for aerial imagery, whose bands seldom fill their range.
        x = ((image - 0.4) / 0.2).astype(self.dtype)
        levels: list[jax.Array | None] = []
        for index, features in enumerate(self.features):
            x = x if index == 0 else ops.max_pool_2x2(x)
            frozen = index < self.frozen_stages
            batch_statistics = train and not frozen and not self.frozen_statistics
            x = self.level(features, name=f"level_{index}")(x, train=batch_statistics)
            if frozen:
                x = jax.lax.stop_gradient(x)  # what no parameter asks for is not computed
            levels.append(x)
        return levels


class UNet(nn.Module):
    """An encoder, and a decoder that goes up again with its levels as skips; decoder level l has `features[l]`.

    Multi-scale fusion (`fusion.py`) may follow the bottleneck, and what joins the decoder's levels before the head.
    Without a decoder, `goes_up` False, `fusion_pyramid` joins the encoder's levels instead (Xie et al., 2021,
    "SegFormer"). An image of any size goes in that has a pixel for the deepest level: it is padded to a multiple of
    `2**len(features)` by its edge and cropped again.
    """

    num_classes: int
    encoder: nn.Module
    features: tuple[int, ...]
    level: blocks.ModuleDef
    upsample: str
    dropout: float
    goes_up: bool
    dtype: jnp.dtype
    fusion_bottleneck: nn.Module | None = None
    fusion_pyramid: nn.Module | None = None
    fusion_decoder: nn.Module | None = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Float `[B, H, W, bands]` in [0, 1] -> logits float32 `[B, H, W, num_classes]`.

        Args:
          image: the images.
          train: whether batch norm takes the batch's statistics and the bottleneck's features are dropped.
          dropout_keys: random keys `[B]`, one for each image; needed where `train` and `dropout` > 0.

        Raises:
          UserError: the image is too small for so many levels.
        """
        _, height, width, _ = image.shape
        depth = len(self.features)
        if min(height, width) < 2**depth:
            raise UserError(
                f"an image of {height}x{width} pixels in a model of model.depth={depth}, which divides its sides by "
                f"{2**depth}; expected {2**depth} pixels or more a side; lower model.depth, or make data.crop and "
                "inference.window larger"
            )
        bottom, right = (-n % 2**depth for n in (height, width))
        padded = jnp.pad(image, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        *skips, x = self.encoder(padded, train=train)
        if self.fusion_bottleneck is not None:
            x = self.fusion_bottleneck(x, train=train)
        if train and self.dropout:
            if dropout_keys is None:
                raise ValueError("dropout_keys=None; expected a key for each image, to train with dropout")
            x = blocks.drop_maps(x, dropout_keys, self.dropout)
        levels = self._decode(skips, x, train) if self.goes_up else [*(s for s in skips if s is not None), x]
        x = levels[0]
        if self.fusion_pyramid is not None:
            x = self.fusion_pyramid(levels, train=train)
        if self.fusion_decoder is not None:
            x = self.fusion_decoder(x, train=train)
        logits = blocks.Head(self.num_classes, name="head")(x)
        while logits.shape[1] < padded.shape[1]:
            logits = ops.bilinear_2x(logits)
        return logits[:, :height, :width]

    def _decode(self, skips: list[jax.Array | None], x: jax.Array, train: bool) -> list[jax.Array]:
        """The features of each level on the way up, the full resolution first and the bottleneck, `x`, last."""
        levels = [x]
        for index in reversed(range(len(self.features))):
            x = blocks.Upsample(self.features[index], self.upsample, self.dtype, name=f"upsample_{index}")(x)
            skip = skips[index]
            if skip is not None:
                x = jnp.concatenate([skip, x], -1)
            x = self.level(self.features[index], name=f"decoder_{index}")(x, train=train)
            levels.insert(0, x)
        return levels

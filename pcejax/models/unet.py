"""U-Net (Ronneberger et al., 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation").

Same-padded instead of valid convolutions, so that the logits have the image's size. An encoder gives features by
level, level l at 1 / 2**l of the image's height and width; the decoder is the same for every encoder.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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


class Cached(nn.Module):
    """In an encoder's place: what one found before, side by side."""

    features: tuple[int, ...]

    def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array | None]:
        """Float `[B, 1, 1, F]`, F the sum of `features` -> `[B, 1, 1, f]` of each of them."""
        ends = np.cumsum(self.features)[:-1].tolist()
        return [*jnp.split(image, ends, -1)]


class UNet(nn.Module):
    """An encoder, and a decoder that goes up again with its levels as skips; decoder level l has `features[l]`.

    Multi-scale fusion (`fusion.py`) may follow the bottleneck, and what joins the decoder's levels before the head.
    Without a decoder, `goes_up` False, `fusion_pyramid` joins the encoder's levels instead (Xie et al., 2021,
    "SegFormer"), and those of the image reduced `scales` times. An image of any size goes in that has a pixel for the
    deepest level: it is padded to a multiple of what that level spans, by its edge, and cropped again.
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
    scales: tuple[int, ...] = (1,)

    def levels(self, image: jax.Array, *, train: bool) -> list[jax.Array | None]:
        """The encoder's features of images `[B, H, W, bands]`, padded; level l has stride 2**l.

        Of several `scales`, those of one stride side by side.

        Raises:
          UserError: the image is too small for so many levels.
        """
        _, height, width, _ = image.shape
        span = self._span()
        if min(height, width) < span:
            raise UserError(
                f"an image of {height}x{width} pixels in a model of model.depth={len(self.features)}, which with "
                f"model.scales={self.scales} divides its sides by {span}; expected {span} pixels or more a side; "
                "lower model.depth, or make data.crop and inference.window larger"
            )
        bottom, right = (-n % span for n in (height, width))
        padded = jnp.pad(image, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        by_stride: dict[int, list[jax.Array]] = {}
        for scale in self.scales:
            for index, level in enumerate(self.encoder(_reduced(padded, scale), train=train)):
                if level is not None:
                    by_stride.setdefault(index + scale.bit_length() - 1, []).append(level)
        found = (by_stride.get(index) for index in range(max(by_stride) + 1))
        return [jnp.concatenate(of_stride, -1) if of_stride else None for of_stride in found]

    def _span(self) -> int:
        """Pixels of the image under one of the deepest level."""
        return 2 ** len(self.features) * max(self.scales)

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
        *skips, x = self.levels(image, train=train)
        assert x is not None  # an encoder has a deepest level
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
        while logits.shape[1] < height + -height % self._span():
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


def _reduced(image: jax.Array, scale: int) -> jax.Array:
    """Means of blocks of `scale` x `scale` pixels."""
    if scale == 1:
        return image
    batch, height, width, bands = image.shape
    return image.reshape(batch, height // scale, scale, width // scale, scale, bands).mean((2, 4))

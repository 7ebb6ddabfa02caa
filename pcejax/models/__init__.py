"""Models: image float `[B, H, W, bands]` in [0, 1] -> logits float32 `[B, H, W, num_classes]`."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from pcejax.errors import UserError
from pcejax.models import blocks, unet


def create_model(config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None = None) -> nn.Module:
    """The model that `config` (the run's `config.model`) describes.

    Args:
      config: fields `depth`, `width`, `norm`, `upsample` and `dtype`.
      num_classes: logits a pixel.
      axis_name: mapped axis over which batch norm is synchronised in training.

    Raises:
      UserError: a field has no such value.
    """
    for field, choices in (
        ("norm", blocks.NORMS),
        ("upsample", blocks.UPSAMPLERS),
        ("dtype", ("float32", "bfloat16", "float64")),
    ):
        if config[field] not in choices:
            raise UserError(f"model.{field}={config[field]!r}; expected one of {list(choices)}")
    if not 1 <= config.depth <= 7:
        raise UserError(f"model.depth={config.depth}; expected 1 to 7")
    return unet.UNet(
        num_classes=num_classes,
        depth=config.depth,
        width=config.width,
        norm=config.norm,
        upsample=config.upsample,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name,
    )

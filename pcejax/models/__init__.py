"""Models: image float `[B, H, W, bands]` in [0, 1] -> logits float32 `[B, H, W, num_classes]`."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from pcejax.errors import UserError
from pcejax.models import blocks, encoders, fusion, summary, unet


def create_model(
    config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None = None, cached: tuple[int, ...] = ()
) -> nn.Module:
    """The model that `config` (the run's `config.model`) describes.

    Args:
      config: every field of `config.model`.
      num_classes: logits a pixel.
      axis_name: mapped axis over which batch norm is synchronised in training.
      cached: features of each of the encoder's levels, where the model gets these instead of images: see
        `cached_features.py`; () for images.

    Raises:
      UserError: a field has no such value.
    """
    _check(config)
    width: float = config.width
    if config.gflops:
        width = _width_for(ml_collections.FrozenConfigDict(config), num_classes)
    model = _build(config, width, num_classes, axis_name)
    return model.clone(encoder=unet.Cached(cached), features=(), scales=(1,)) if cached else model


@functools.cache  # a run asks several times
def _width_for(config: ml_collections.FrozenConfigDict, num_classes: int) -> float:
    return summary.width_for(lambda width: _build(config, width, num_classes, None), config.gflops)


def _build(config: ml_collections.ConfigDict, width: float, num_classes: int, axis_name: str | None) -> unet.UNet:
    # Where the width is chosen for FLOPs: multiples of 4, for the groups of group norm.
    like = 4 if config.gflops else config.width
    features = tuple(blocks.round_features(width * config.widening**level, like) for level in range(config.depth + 1))
    dtype = jnp.dtype(config.dtype)
    conv = functools.partial(blocks.Conv, norm=config.norm, dtype=dtype, axis_name=axis_name)
    level = functools.partial(
        blocks.Level, num_blocks=config.blocks, residual=config.residual, remat=config.remat, conv=conv
    )
    frozen = {"frozen_stages": config.frozen_stages, "frozen_statistics": config.frozen_statistics}
    encoder: nn.Module
    if config.encoder == "plain":
        encoder = unet.PlainEncoder(features, level, dtype, **frozen)
    else:
        encoder = encoders.EfficientNetLite(
            config.encoder, config.depth, dtype, axis_name, remat=config.remat, **frozen
        )
    norm = functools.partial(blocks.Norm, kind=config.norm, dtype=dtype, axis_name=axis_name)
    at, fuse = config.fusion.at, config.fusion.fuse
    goes_up = config.decoder == "convolutions"
    multi_scale = functools.partial(
        fusion.MultiScale,
        branches=config.fusion.branches,
        fuse=fuse,
        grids=tuple(config.fusion.grids),
        rates=tuple(config.fusion.rates),
        features=config.fusion.features,
        plain_control=config.fusion.plain_control,
        conv=conv,
    )
    return unet.UNet(
        num_classes=num_classes,
        encoder=encoder,
        features=features[:-1],
        level=level,
        upsample=config.upsample,
        dropout=config.dropout,
        goes_up=goes_up,
        dtype=dtype,
        fusion_bottleneck=multi_scale() if at in ("bottleneck", "both") else None,
        fusion_pyramid=(
            fusion.Pyramid(features[0], fuse, conv, norm) if at in ("decoder", "both") or not goes_up else None
        ),
        fusion_decoder=multi_scale() if at in ("decoder", "both") else None,
        scales=tuple(config.scales),
    )


def _check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError where a field has no such value."""
    for field, value, choices in (
        ("encoder", config.encoder, ("plain", *encoders.SCALES)),
        ("decoder", config.decoder, ("convolutions", "none")),
        ("norm", config.norm, blocks.NORMS),
        ("upsample", config.upsample, blocks.UPSAMPLERS),
        ("dtype", config.dtype, ("float32", "bfloat16", "float64")),
        ("fusion.at", config.fusion.at, fusion.PLACES),
        ("fusion.branches", config.fusion.branches, fusion.BRANCHES),
        ("fusion.fuse", config.fusion.fuse, fusion.FUSIONS),
    ):
        if value not in choices:
            raise UserError(f"model.{field}={value!r}; expected one of {list(choices)}")
    plain = config.encoder == "plain"
    deepest = 7 if plain else encoders.MAX_DEPTH
    if not 1 <= config.depth <= deepest:
        raise UserError(f"model.depth={config.depth}; expected 1 to {deepest} with model.encoder={config.encoder!r}")
    levels = config.depth + 1 if plain else config.depth
    if not 0 <= config.frozen_stages <= levels:
        raise UserError(
            f"model.frozen_stages={config.frozen_stages}; expected 0 to {levels}, the encoder's levels at "
            f"model.depth={config.depth}"
        )
    scales = tuple(config.scales)
    if not scales or any(scale not in (1, 2, 4) for scale in scales) or len({*scales}) < len(scales):
        raise UserError(f"model.scales={scales}; expected some of 1, 2 and 4, each once")
    if scales != (1,) and config.decoder != "none":
        raise UserError(
            f"model.scales={scales} with model.decoder={config.decoder!r}, which goes up by the levels of one scale; "
            "expected model.decoder='none', or model.scales=(1,)"
        )
    for field in ("width", "widening", "blocks"):
        if config[field] < 1:
            raise UserError(f"model.{field}={config[field]}; expected 1 or more")
    if config.gflops < 0:
        raise UserError(f"model.gflops={config.gflops}; expected more than 0, or 0 to take model.width")
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout={config.dropout}; expected 0 to below 1")
    for field in ("grids", "rates"):
        sizes = tuple(config.fusion[field])
        if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise UserError(f"model.fusion.{field}={sizes}; expected whole numbers of 1 or more, such as (1, 2, 4)")
    if config.fusion.features < 0:
        raise UserError(f"model.fusion.features={config.fusion.features}; expected 0 or more")

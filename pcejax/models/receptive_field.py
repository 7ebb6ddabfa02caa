"""How far a model sees: from a logit back to the image, by arithmetic of intervals."""

from __future__ import annotations

from typing import NamedTuple

import ml_collections

from pcejax.models import encoders


class ReceptiveField(NamedTuple):
    """Pixels of the image that a logit depends on, norms' statistics aside.

    pixels: side of the square around it that it sees through convolutions, pooling 2x2 and interpolation, for the
      logits that see most: how far a logit sees depends on where it lies in its cell of the deepest level.
    whole_image: whether it also sees means over the image, or over the cells of a grid on it.
    """

    pixels: int
    whole_image: bool


def receptive_field(config: ml_collections.ConfigDict) -> ReceptiveField:
    """The receptive field of the model of `config` (a run's `config.model`), far from the image's border."""
    spans = [seen_by(config, pixel) for pixel in range(2**config.depth * max(config.scales))]
    whole_image = config.fusion.at != "" and not config.fusion.plain_control
    return ReceptiveField(max(last - first + 1 for first, last in spans), whole_image)


def seen_by(config: ml_collections.ConfigDict, pixel: int) -> tuple[int, int]:
    """The first and the last pixel of a row of the image that logit `pixel` of that row sees, means aside.

    Followed is the way through the bottleneck of the image that is reduced most: the skips, and the levels that a
    fusion joins, see less.
    """
    first = last = pixel
    if config.fusion.at in ("decoder", "both"):
        first, last = first - _fusion_reach(config.fusion), last + _fusion_reach(config.fusion)
    # Without a decoder all is interpolated so, and convolved no more.
    goes_up = config.decoder == "convolutions"
    # Bilinear: pixel 2i is made of i - 1 and i, pixel 2i + 1 of i and i + 1. By other ways both are made of i.
    interpolation = 0 if goes_up and config.upsample != "bilinear" else 1
    of_level = 2 * config.blocks  # each of two 3x3 convolutions
    on_way_up = of_level if goes_up else 0
    reduction = max(config.scales)
    for _ in range(config.depth + reduction.bit_length() - 1):
        first, last = (first - on_way_up - interpolation) // 2, (last + on_way_up + interpolation) // 2
    if config.fusion.at in ("bottleneck", "both"):
        first, last = first - _fusion_reach(config.fusion), last + _fusion_reach(config.fusion)
    if config.encoder == "plain":
        for _ in range(config.depth):
            first, last = 2 * (first - of_level), 2 * (last + of_level) + 1
        return reduction * (first - of_level), reduction * (last + of_level + 1) - 1
    convolutions = [(3, 2)]  # of the stem: side of the kernel, stride
    convolutions += [(b.size, b.stride) for b in encoders.layout(config.encoder) if b.level <= config.depth]
    for size, stride in reversed(convolutions):
        # Where a side is even, size - stride are lacking, of which the lesser half is padded in front.
        first = stride * first - (size - stride) // 2
        last = stride * last - (size - stride) // 2 + size - 1
    return reduction * first, reduction * (last + 1) - 1


def _fusion_reach(fusion: ml_collections.ConfigDict) -> int:
    """Pixels of the map on each side that a multi-scale unit's convolutions see."""
    if fusion.plain_control:
        return 1
    return max(fusion.rates) if fusion.branches == "dilated" else 0

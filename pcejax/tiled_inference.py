"""A tile of any size -> logits: overlapping windows, blended by a smooth weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from pcejax import parallel, tiles
from pcejax.errors import UserError

ApplyWindows = Callable[[np.ndarray], np.ndarray]
"""Windows `[n, w, w, bands]` -> logits float32 `[n, w, w, C]`, for a fixed n."""


def window_starts(size: int, window: int, overlap: int) -> list[int]:
    """Where windows start along a side of `size` pixels: neighbours share `overlap` or more, the last is flush."""
    if size <= window:
        return [0]
    count = -(-(size - overlap) // (window - overlap))
    return [round(index * (size - window) / (count - 1)) for index in range(count)]


def window_weight(window: int) -> np.ndarray:
    """float32 `[window, window]`: a raised cosine that falls towards the border and is above 0 everywhere."""
    ramp = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    return np.outer(ramp, ramp).astype(np.float32) + 1e-3


def blended_logits(apply: ApplyWindows, image: np.ndarray, *, window: int, overlap: int, batch: int) -> np.ndarray:
    """Logits float32 `[H, W, C]` of an image `[H, W, bands]`.

    Args:
      apply: the model on `batch` windows at a time.
      image: of any size; below a window it is padded by reflection.
      window: side of a window, pixels.
      overlap: pixels that neighbouring windows share at least.
      batch: windows a call; the last call is filled up with blank ones.
    """
    height, width = image.shape[:2]
    padding = [(0, max(0, window - height)), (0, max(0, window - width)), (0, 0)]
    padded = np.pad(image, padding, mode="symmetric")
    corners = [
        (row, col)
        for row in window_starts(padded.shape[0], window, overlap)
        for col in window_starts(padded.shape[1], window, overlap)
    ]
    weight = window_weight(window)
    total, weight_sum = None, np.zeros(padded.shape[:2], np.float32)
    for start in range(0, len(corners), batch):
        chosen = corners[start : start + batch]
        windows = np.zeros((batch, window, window, image.shape[-1]), image.dtype)
        for target, (row, col) in zip(windows, chosen, strict=False):
            target[:] = padded[row : row + window, col : col + window]
        logits = apply(windows)
        if total is None:
            total = np.zeros((*padded.shape[:2], logits.shape[-1]), np.float32)
        for (row, col), window_logits in zip(chosen, logits, strict=False):
            total[row : row + window, col : col + window] += window_logits * weight[..., None]
            weight_sum[row : row + window, col : col + window] += weight
    assert total is not None  # every image has a window
    total /= weight_sum[..., None]
    return total[:height, :width]


def enlarge(logits: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Logits `[h, w, C]` of a reduced image, interpolated to the native `shape` (H, W): float32 `[H, W, C]`."""
    if factor == 1:
        return logits
    height, width = logits.shape[0] * factor, logits.shape[1] * factor
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in np.moveaxis(logits, -1, 0)
    ]
    return np.stack(planes, -1)[: shape[0], : shape[1]]


def make_mapper(
    eval_step: Callable[..., jax.Array], config: ml_collections.ConfigDict
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """`map_image(variables, image [H, W, bands]) -> logits float32 [H, W, C]` at native resolution.

    Compiled once for all images; `variables` are placed on the devices (`parallel.replicate`).

    Raises:
      UserError: the windows' overlap or batch does not fit.
    """
    window, overlap = config.inference.window, config.inference.overlap
    if not 0 <= overlap < window:
        raise UserError(f"inference.overlap={overlap}; expected 0 to below inference.window={window}")
    batch = parallel.rows_per_device(config.inference.batch_size, "inference.batch_size") * jax.local_device_count()
    factor = tiles.reduction(config.data.scale)
    mapped_step = parallel.map_eval_step(eval_step)

    def map_image(variables: Any, image: np.ndarray) -> np.ndarray:
        def apply(windows: np.ndarray) -> np.ndarray:
            logits = parallel.to_host(mapped_step(variables, parallel.shard_rows(windows)))
            return logits.reshape(windows.shape[0], *logits.shape[2:])

        reduced = tiles.reduce_image(image, factor)
        logits = blended_logits(apply, reduced, window=window, overlap=overlap, batch=batch)
        return enlarge(logits, factor, image.shape)

    return map_image

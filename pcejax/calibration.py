"""How sure a map is, and how sure it should be: a temperature for its logits, and the expected calibration error.

Both are of Guo et al., 2017, "On Calibration of Modern Neural Networks". A temperature changes no class of a map.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

BINS = 15
"""Of the probability of the class mapped, equally wide, as in the paper."""

_MOST = 100.0  # the largest temperature looked for; the least is its inverse


class Calibration(NamedTuple):
    """What the logits of a run at a step are divided by, and how many held-out points say so."""

    temperature: float
    num_points: int
    step: int


def describe(calibration: Calibration | None) -> str:
    """In words, "uncalibrated" for None."""
    if calibration is None:
        return "uncalibrated"
    return f"calibrated by temperature {calibration.temperature:.3f}, fitted on {calibration.num_points} points"


def describe_error(result: dict[str, Any]) -> str:
    """In words, the calibration errors of a split's scores, as `evaluate.score_split` gives them."""
    before = result["expected_calibration_error_uncalibrated"]
    if result["temperature"] is None:
        return f"expected calibration error {before:.3f}, uncalibrated"
    return (
        f"expected calibration error {result['expected_calibration_error']:.3f}, {result['calibration']}, and "
        f"{before:.3f} without"
    )


def area_weights(mapped: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float32 `[n]`: the pixels of a tile that each of its points, of `classes` int `[n]`, stands for.

    Points of a class share what the map `[H, W]` has of it, at least a pixel: clicked points are as many of each class,
    or as many as an annotator liked, and a map's confidence is of its pixels (post-stratification).
    """
    count = int(max(mapped.max(initial=0), classes.max(initial=0))) + 1
    pixels, points = np.bincount(mapped.ravel(), minlength=count), np.bincount(classes, minlength=count)
    return (np.maximum(pixels, 1) / np.maximum(points, 1))[classes].astype(np.float32)


def fit_temperature(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """The temperature by which logits `[n, C]` tell the classes int `[n]`, weighted by `[n]`, best.

    It minimises the negative log-likelihood plus log(T)^2 / 2, of which many points take no notice. A handful that are
    all right would without it ask for T = 0, and so for maps that are sure of everything. Weights count as the points
    that they leave, (sum w)^2 / sum w^2 (Kish, 1965).
    """
    logits, chosen = logits.astype(np.float64), (np.arange(len(classes)), classes)
    weights = weights.astype(np.float64) * weights.sum(dtype=np.float64) / np.square(weights, dtype=np.float64).sum()

    def loss(log_temperature: float) -> float:
        log_p = scipy.special.log_softmax(logits * math.exp(-log_temperature), -1)
        return -float((weights * log_p[chosen]).sum()) + log_temperature**2 / 2

    bound = math.log(_MOST)
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)


def confidence(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The largest softmax probability `[...]` of logits `[..., C]` over a temperature, in their type."""
    # Class by class: planes of a map are contiguous, and its probabilities would take as much memory as its logits.
    planes = [logits[..., class_id] for class_id in range(logits.shape[-1])]
    best = np.maximum.reduce(planes)
    return 1 / sum(np.exp((plane - best) / temperature) for plane in planes)


def bin_sums(sure: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 `[3, BINS]` of pixels: their number, how many are right, the sum of their confidence; these add up.

    Args:
      sure: probability `[n]` of the class mapped, above 0.
      right: bool `[n]`, whether that is the true one.
    """
    # As in the paper a bin has its upper end, not its lower one.
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return np.stack([np.bincount(bins, weights, BINS) for weights in (None, right, sure)]).astype(np.float64)


def expected_calibration_error(sums: np.ndarray) -> float:
    """The mean over pixels of |share right - mean confidence| in their bin, of `bin_sums`; NaN of no pixel."""
    pixels, right, sure = sums
    return float(np.abs(right - sure).sum() / pixels.sum()) if pixels.any() else math.nan

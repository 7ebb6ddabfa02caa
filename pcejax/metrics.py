"""Confusion matrices -> scores of a map; sums that a training step adds up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from clu import metrics as clu_metrics

from pcejax.legend import IGNORE, Legend

StepMetrics = dict[str, clu_metrics.Average]
"""What a step measured, each as (total, count): added up over steps, divided once."""


def compute(measured: Sequence[StepMetrics]) -> dict[str, float]:
    """The mean of each metric over some steps' host values; 0 where nothing was counted."""
    summed = jax.tree.map(lambda *values: float(np.sum(values, dtype=np.float64)), *measured)
    return {name: average.total / average.count if average.count else 0.0 for name, average in summed.items()}


def finite(measured: StepMetrics) -> bool:
    """Whether all that a step measured is finite, as host values."""
    return bool(np.isfinite([[average.total, average.count] for average in measured.values()]).all())


def to_json(measured: StepMetrics) -> dict[str, Any]:
    """A step's host values as JSON types; `from_json` gives them back to the last bit."""
    return {
        name: [[str(np.asarray(value).dtype), np.asarray(value).item()] for value in (average.total, average.count)]
        for name, average in measured.items()
    }


def from_json(measured: dict[str, Any]) -> StepMetrics:
    """What `to_json` was given."""
    return {
        name: clu_metrics.Average(*(np.dtype(dtype).type(value) for dtype, value in pair))
        for name, pair in measured.items()
    }


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 `[num_classes, num_classes]`, truth by row, prediction by column, IGNORE in the truth left out.

    `truth` and `predicted` are class ids of one shape; every prediction is a class.
    """
    counted = truth != IGNORE
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _per_class(hits: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and F1 float64 `[..., C]`; NaN for a class absent from both truth and prediction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / (truth + predicted - hits), 2 * hits / (truth + predicted)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where all are."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(-1) / present.sum(-1)


def iou(matrix: np.ndarray, num_known: int) -> np.ndarray:
    """IoU float64 `[..., num_known]` of matrices `[..., C, C]`: pixels whose truth is unknown are left out."""
    known = matrix[..., :num_known, :]
    hits = np.diagonal(known, axis1=-2, axis2=-1)
    return _per_class(hits, known.sum(-1), known.sum(-2)[..., :num_known])[0]


def miou(matrix: np.ndarray, num_known: int) -> np.ndarray:
    """Mean IoU float64 `[...]` over the known classes that occur in truth or prediction."""
    return _mean(iou(matrix, num_known))


def scores(matrix: np.ndarray, legend: Legend, *, train_unknown: bool) -> dict[str, Any]:
    """Scores of a map from its confusion matrix int `[C, C]`, C the legend's number of classes.

    All leave out pixels whose truth is unknown, but for `miou_glnet`, which is there where unknown was
    trained: it counts them as false positives of the class they were given, as GLNet does (Chen et al.,
    2019, "Collaborative Global-Local Networks"). A class absent from truth and prediction is None.
    """
    num_known = legend.num_known
    known = matrix[:num_known].astype(np.float64)
    hits, truth, predicted = np.diagonal(known), known.sum(1), known.sum(0)[:num_known]
    class_iou, class_f1 = _per_class(hits, truth, predicted)
    total = known.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = hits.sum() / total
        chance = (truth * predicted).sum() / total**2
        kappa = (accuracy - chance) / (1.0 - chance)
    names = legend.names[:num_known]
    result: dict[str, Any] = {
        "miou": float(_mean(class_iou)),
        "iou": {name: None if np.isnan(v) else float(v) for name, v in zip(names, class_iou, strict=True)},
        "f1": {name: None if np.isnan(v) else float(v) for name, v in zip(names, class_f1, strict=True)},
        "mean_f1": float(_mean(class_f1)),
        "overall_accuracy": float(accuracy),
        "kappa": float(kappa),
    }
    if train_unknown:
        hits = np.diagonal(matrix)[:num_known]
        result["miou_glnet"] = float(_mean(_per_class(hits, matrix.sum(1)[:num_known], matrix.sum(0)[:num_known])[0]))
    return result


def bootstrap_miou(matrices: np.ndarray, num_known: int, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mIoU of matrices `[tiles, C, C]` when tiles are drawn with replacement.

    Descriptive below some 20 tiles.
    """
    tiles = len(matrices)
    counts = np.random.default_rng(seed).multinomial(tiles, np.full(tiles, 1 / tiles), size=draws)
    values = miou(np.tensordot(counts, matrices, 1), num_known)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)

"""What the same points teach without a network: a constant map, and trees on colour and on texture.

A network that does not beat these has learned nothing that the points did not give away for free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from sklearn.ensemble import ExtraTreesClassifier

from pcejax import datasets, evaluate, label_options, metrics, runs, tiles, trained, writers
from pcejax.errors import UserError
from pcejax.legend import IGNORE

WINDOWS = (5, 11, 21, 41)
"""Sides of the windows that texture is taken from, native pixels."""

STRIDE = 2
"""Every so many pixels of a row and of a column are mapped and scored: the trees take minutes for all."""


MAX_SAMPLES = 5000
"""Labelled pixels a tile that teach the trees: all points, part of a scribbled or patched tile."""


def centred_color(image: np.ndarray) -> np.ndarray:
    """float32 `[H, W, 3]`: colour less the tile's mean colour, of an image uint8 `[H, W, 3]`."""
    return image.astype(np.float32) - image.mean((0, 1), dtype=np.float64).astype(np.float32)


def texture(image: np.ndarray) -> np.ndarray:
    """float32 `[H, W, 3 + 7 * len(WINDOWS)]` of an image uint8 `[H, W, 3]`.

    Centred colour; and of each window the mean and standard deviation of each band and the mean
    magnitude of the brightness gradient.
    """
    color = centred_color(image)
    grey = color.mean(-1)
    gradient = np.hypot(scipy.ndimage.sobel(grey, 0), scipy.ndimage.sobel(grey, 1))
    features = [color]
    for window in WINDOWS:
        mean = scipy.ndimage.uniform_filter(color, (window, window, 0))
        variance = scipy.ndimage.uniform_filter(color**2, (window, window, 0)) - mean**2
        features += [mean, np.sqrt(np.maximum(variance, 0.0))]
        features.append(scipy.ndimage.uniform_filter(gradient, window)[..., None])
    return np.concatenate(features, -1)


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "trees on colour less the tile's mean": centred_color,
    "trees on colour and texture windows": texture,
}
"""Feature image float32 `[H, W, F]` of an image uint8 `[H, W, 3]`, by the baseline's name."""


def score_baselines(workdir: Path, split: str) -> dict[str, Any]:
    """Teaches each baseline by the labels of the run in `workdir`, scores it on `split` by the run's own protocol
    (`evaluate.score_split`), and writes `report/baselines_<split>.json`: the mIoU and IoUs by the baseline's name.

    Raises:
      UserError: no run, a run taught by dense masks, which are too many for trees, or a split of mixed protocol.
    """
    model = trained.load(workdir)
    config, legend = model.config, model.legend
    if config.points.annotator in label_options.DENSE:
        raise UserError(
            f"points.annotator={config.points.annotator!r}: the baselines are taught by few labels; "
            "take a run that was too"
        )
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    taught_by = tiles.read_labelled(builder, config)
    scored_on = tiles.read(builder, split, config)
    within = evaluate.protocol(config, model.about, [tile.tile_id for tile in scored_on], split) == "within"
    progress = writers.Progress(len(FEATURES) * (len(taught_by) + len(scored_on)))
    done, result = 0, {}
    for name, features in FEATURES.items():
        samples, classes = [], []
        for tile in taught_by:
            label = tiles.labels_of(tile, config, legend, factor=1).label
            labelled = np.argwhere(label != IGNORE)
            if len(labelled) > MAX_SAMPLES:
                labelled = np.random.default_rng(0).choice(labelled, MAX_SAMPLES, replace=False)
            row, col = labelled.T
            samples.append(features(tile.image())[row, col])
            classes.append(label[row, col])
            done += 1
        trees = ExtraTreesClassifier(100, class_weight="balanced", n_jobs=-1, random_state=0)
        trees.fit(np.concatenate(samples), np.concatenate(classes))
        matrix = np.zeros((legend.num_classes, legend.num_classes), np.int64)
        for tile, image, mask in tiles.decoded(scored_on):
            taught = tiles.labels_of(tile, config, legend, factor=1).label if within else None
            truth = evaluate.scored_mask(mask, taught, config.inference.buffer_px)[::STRIDE, ::STRIDE]
            chosen = features(image)[::STRIDE, ::STRIDE]
            predicted = trees.predict(chosen.reshape(-1, chosen.shape[-1])).reshape(chosen.shape[:2])
            matrix += metrics.confusion_matrix(truth, predicted, legend.num_classes)
            done += 1
            print(f"baselines: tiles {progress.line(done)}: {name}, {tile.tile_id}", flush=True)
        scores = metrics.scores(matrix, legend, train_unknown=False)
        result[name] = {"miou": scores["miou"], "iou": scores["iou"]}
    writers.write_json(runs.baselines_path(workdir, split), result)
    return result

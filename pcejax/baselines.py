"""What the same points teach without training a network: trees on colour and on texture, and a linear head on the
features of a pretrained encoder that stays as it is.

A network that does not beat these has learned nothing that the points did not give away for free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pcejax import datasets, evaluate, frozen_features, label_options, metrics, runs, taught, tiles, trained, writers
from pcejax.annotators import looked_at
from pcejax.errors import UserError
from pcejax.frozen_features import Sampler
from pcejax.legend import IGNORE
from pcejax.models import pretrained

WINDOWS = (5, 11, 21, 41)
"""Sides of the windows that texture is taken from, native pixels."""

STRIDE = 2
"""Every so many pixels of a row and of a column are mapped and scored: the trees take minutes for all."""


MAX_SAMPLES = 5000
"""Labelled pixels a tile that teach a baseline: all points, part of a scribbled or patched tile."""

_AT_ONCE = 1 << 17  # pixels whose features are in memory


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


def _trees() -> ExtraTreesClassifier:
    return ExtraTreesClassifier(100, class_weight="balanced", n_jobs=-1, random_state=0)


def _linear_head() -> Any:
    # From C=0.003 to 0.3 the mIoU of eight tiles is alike.
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.03, class_weight="balanced", max_iter=200))


def _from_map(features: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Sampler]:
    def sampler(image: np.ndarray, *_: Any) -> Sampler:
        every = features(image)
        return lambda row, col: every[row, col]

    return sampler


class Baseline(NamedTuple):
    """`sampler` takes an image `[H, W, bands]`, the run's reduction and its bands; `learner` makes what is taught."""

    sampler: Callable[[np.ndarray, int, datasets.Bands], Sampler]
    learner: Callable[[], Any]


BASELINES = {
    "trees on colour less the tile's mean": Baseline(_from_map(centred_color), _trees),
    "trees on colour and texture windows": Baseline(_from_map(texture), _trees),
    "linear head on a frozen encoder": Baseline(frozen_features.sampler, _linear_head),
}
"""By name."""


def installed() -> dict[str, Baseline]:
    """Those that can be taught here: the linear head needs the extra `pretrained`."""
    found = pretrained.is_installed(frozen_features.ENCODER)
    return {name: one for name, one in BASELINES.items() if found or one.sampler is not frozen_features.sampler}


def fit(baseline: Baseline, samples: Sequence[np.ndarray], classes: Sequence[np.ndarray]) -> Any:
    """A learner, taught by features float32 `[n, F]` and classes uint8 `[n]` of some tiles."""
    with threadpool_limits(1, "blas"):  # threads of products so small wait for each other on busy cores
        return baseline.learner().fit(np.concatenate(samples), np.concatenate(classes))


def predict(learner: Any, parts: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 `[n]`: the classes that a taught learner finds by features float32 `[m, F]`, those of `n` pixels in all."""
    with threadpool_limits(1, "blas"):
        return np.concatenate([learner.predict(features) for features in parts]).astype(np.uint8)


def score_baselines(workdir: Path, split: str) -> dict[str, Any]:
    """Teaches each baseline by the labels of the run in `workdir`, scores it on `split` by the run's own protocol
    (`evaluate.score_split`), and writes `report/baselines_<split>.json`: the mIoU and IoUs by the baseline's name.

    Raises:
      UserError: no run, a run taught by dense masks, which are too many for trees, or by labels that config and
        dataset do not give any more, or a split of mixed protocol.
    """
    model = trained.load(workdir)
    config, legend, factor = model.config, model.legend, tiles.reduction(model.config.data.scale)
    if config.points.annotator in label_options.DENSE:
        raise UserError(
            f"points.annotator={config.points.annotator!r}: the baselines are taught by few labels; "
            "take a run that was too"
        )
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    taught.check_still(model, builder, workdir)
    taught_by = tiles.read_labelled(builder, config)
    scored_on = tiles.read(builder, split, config)
    within = evaluate.protocol(config, model.about, [tile.tile_id for tile in scored_on], split) == "within"
    baselines = installed()
    progress = writers.Progress(len(baselines) * (len(taught_by) + len(scored_on)))
    done, result = 0, {}
    for name, baseline in baselines.items():
        samples, classes = [], []
        for tile in taught_by:
            label = tiles.labels_of(tile, config, legend, factor=1).label
            labelled = np.argwhere(label != IGNORE)
            if len(labelled) > MAX_SAMPLES:
                labelled = np.random.default_rng(0).choice(labelled, MAX_SAMPLES, replace=False)
            row, col = labelled.T
            samples.append(baseline.sampler(tile.image(), factor, model.bands)(row, col))
            classes.append(label[row, col])
            done += 1
        learner = fit(baseline, samples, classes)
        matrix = np.zeros((legend.num_classes, legend.num_classes), np.int64)
        for tile, image, mask in tiles.decoded(scored_on):
            labels = looked_at(tiles.labels_of(tile, config, legend, factor=1)) if within else None
            truth = evaluate.scored_mask(mask, labels, config.inference.buffer_px)[::STRIDE, ::STRIDE]
            sampled = baseline.sampler(image, factor, model.bands)
            at = STRIDE * np.indices(truth.shape).reshape(2, -1)
            parts = (at[:, start : start + _AT_ONCE] for start in range(0, truth.size, _AT_ONCE))
            predicted = predict(learner, (sampled(*part) for part in parts))
            matrix += metrics.confusion_matrix(truth, predicted.reshape(truth.shape), legend.num_classes)
            done += 1
            print(f"baselines: tiles {progress.line(done)}: {name}, {tile.tile_id}", flush=True)
        scores = metrics.scores(matrix, legend, train_unknown=False)
        result[name] = {"miou": scores["miou"], "iou": scores["iou"]}
    writers.write_json(runs.baselines_path(workdir, split), result)
    return result

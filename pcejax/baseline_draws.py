"""How an ablation's baselines do over many draws of points, each tile's features computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np
import scipy.spatial
import tensorflow_datasets as tfds

from pcejax import baselines, datasets, evaluate, metrics, tiles, writers
from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend
from pcejax.points import Points

STRIDE = 16
"""Every so many pixels of a row and of a column are scored: 23,409 of a DeepGlobe tile."""


class Fold(NamedTuple):
    """Tiles that teach, tiles that are scored, and whether these are the same."""

    taught_by: tuple[str, ...]
    scored_on: tuple[str, ...]
    within: bool


class _Tile(NamedTuple):
    """The pixels of a tile that are asked for: int `[n, 2]`, uint8 `[n]`, float32 `[n, F]`; points by draw."""

    at: np.ndarray
    truth: np.ndarray
    features: np.ndarray
    points: dict[int, Points]
    features_of: dict[int, np.ndarray]  # of a draw's points


def score(
    wanted: dict[str, Sequence[int]], budgets: dict[str, int], configs: dict[str, ml_collections.ConfigDict], path: Path
) -> None:
    """Teaches baselines by draws of points, and appends a line of JSON for each to `path`; goes on where it was cut.

    A line has "baseline", "level", "draw", "miou" over the tiles of all folds, and each tile's matrix in "tiles".

    Args:
      wanted: draws, which are values of points.seed, by the name in `baselines.BASELINES`.
      budgets: points.budget by level.
      configs: of a run on each fold; its points.budget and points.seed are replaced.
      path: of the lines.

    Raises:
      UserError: there is no such baseline, or its weights are not installed; dataset, splits or annotator do not fit.
    """
    for name in wanted:
        if name not in baselines.BASELINES:
            raise UserError(f"baselines: no {name!r}; expected one of {[*baselines.BASELINES]}")
    found = {(line["baseline"], line["level"], line["draw"]) for line in writers.read_lines(path)}
    some = next(iter(configs.values()))
    builder = datasets.open_dataset(some.data.name, some.data.data_dir)
    legend, folds = datasets.legend_of(builder), [_fold(builder, config) for config in configs.values()]
    missing = {
        name: [(level, draw) for draw in draws for level in budgets if (name, level, draw) not in found]
        for name, draws in wanted.items()
    }
    progress = writers.Progress(sum(map(len, missing.values())))
    done = 0
    for name, asked in missing.items():
        if not asked:
            continue
        draws = list(dict.fromkeys(draw for _, draw in asked))
        of_tile = _gather(baselines.BASELINES[name], draws, max(budgets.values()), builder, configs, legend)
        for level, draw in asked:
            matrices: dict[str, np.ndarray] = {}
            for fold in folds:
                matrices |= _score_fold(name, fold, draw, budgets[level], some, of_tile, legend)
            miou = float(metrics.miou(np.sum(list(matrices.values()), 0), legend.num_known))
            scored = {tile_id: matrix.tolist() for tile_id, matrix in matrices.items()}
            writers.append_line(path, {"baseline": name, "level": level, "draw": draw, "miou": miou, "tiles": scored})
            done += 1
            if done % 20 == 0:
                print(f"baselines: draws {progress.line(done)}: {name}", flush=True)


def _fold(builder: tfds.core.DatasetBuilder, config: ml_collections.ConfigDict) -> Fold:
    taught_by, scored_on = (
        tuple(tile.tile_id for tile in tiles.read(builder, split))
        for split in (config.data.train_split, config.data.eval_split)
    )
    within = evaluate.protocol(config, {"tile_ids": taught_by}, list(scored_on), config.data.eval_split) == "within"
    return Fold(taught_by, scored_on, within)


def _gather(
    baseline: baselines.Baseline,
    draws: Iterable[int],
    budget: int,
    builder: tfds.core.DatasetBuilder,
    configs: dict[str, ml_collections.ConfigDict],
    legend: Legend,
) -> dict[str, _Tile]:
    """What is asked for of each tile; a smaller budget's points are those of a lower rank."""
    some = next(iter(configs.values()))
    splits = dict.fromkeys(itertools.chain(*((c.data.train_split, c.data.eval_split) for c in configs.values())))
    raw = {tile.tile_id: tile for split in splits for tile in tiles.read(builder, split, some)}
    gathered = {}
    for tile in raw.values():
        mask, points = tile.mask(), {}
        for draw in draws:
            config = some.copy_and_resolve_references().unlock()
            config.points.update({"budget": budget, "seed": draw, "held_out": 0})
            clicked = tiles.labels_of(tile, config, legend, factor=1).points
            assert clicked is not None  # a level of the budget axis clicks
            points[draw] = clicked
        sampler = baseline.sampler(tile.image(), tiles.reduction(some.data.scale), tile.bands)
        at = np.indices(mask.shape)[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].reshape(2, -1)
        features_of = {draw: sampler(clicked.row, clicked.col) for draw, clicked in points.items()}
        gathered[tile.tile_id] = _Tile(at.T, mask[tuple(at)], sampler(*at), points, features_of)
    return gathered


def _score_fold(
    name: str,
    fold: Fold,
    draw: int,
    budget: int,
    config: ml_collections.ConfigDict,
    of_tile: dict[str, _Tile],
    legend: Legend,
) -> dict[str, np.ndarray]:
    """The matrix of each tile that is scored."""
    taught_by = [of_tile[tile_id] for tile_id in fold.taught_by]
    ranked = [tile.points[draw].rank < budget - config.points.held_out for tile in taught_by]
    learner = baselines.fit(
        baselines.BASELINES[name],
        [tile.features_of[draw][kept] for tile, kept in zip(taught_by, ranked, strict=True)],
        [tile.points[draw].class_id[kept] for tile, kept in zip(taught_by, ranked, strict=True)],
    )
    matrices = {}
    for tile_id in fold.scored_on:
        tile, truth = of_tile[tile_id], of_tile[tile_id].truth
        if fold.within:
            clicked = tile.points[draw]
            kept = clicked.rank < budget
            tree = scipy.spatial.cKDTree(np.stack([clicked.row[kept], clicked.col[kept]], -1))
            distance, _ = tree.query(tile.at, p=np.inf)
            truth = np.where(distance <= config.inference.buffer_px, IGNORE, truth)
        predicted = baselines.predict(learner, [tile.features])
        matrices[tile_id] = metrics.confusion_matrix(truth, predicted, legend.num_classes)
    return matrices

"""What a checkpoint tells of the labels that taught its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from pcejax import datasets, losses, tiles, trained
from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend
from pcejax.points import Points


def about_run(
    config: ml_collections.ConfigDict, tile_set: tiles.TileSet, legend: Legend, bands: datasets.Bands
) -> dict[str, Any]:
    """What a checkpoint tells of the run's labels, as JSON types.

    label_counts: labelled pixels at the training scale, by class; labels_per_tile: on the tile with the
    fewest and with the most; labelled_share: of all pixels of the tiles. point_counts: points by the class
    that they got, empty where none were clicked; held_out_counts: those of them that teach nothing. underfull:
    by class, the tiles on which the class, or one of its components, got fewer points than the budget.
    class_weights: of each class that has a logit.

    Raises:
      UserError: the config's class weights do not fit.
    """
    per_tile = [np.bincount(label.reshape(-1), minlength=IGNORE + 1) for label in tile_set.labels]
    counts = np.sum(per_tile, axis=0)
    labelled = [int(tile[:IGNORE].sum()) for tile in per_tile]
    taught, held_out = (_of_class(points, legend) for points in (tile_set.points, tile_set.held_out))
    short = np.bincount(np.concatenate([*tile_set.underfull, []]).astype(int), minlength=legend.num_classes)
    label_counts = {name: int(counts[class_id]) for class_id, name in enumerate(legend.names)}
    return {
        "legend": legend.to_dict(),
        "bands": bands._asdict(),
        "labels_hash": tile_set.hash(),
        "tile_ids": tile_set.tile_ids,
        "label_counts": label_counts,
        "labels_per_tile": [min(labelled), max(labelled)],
        "labelled_share": float(counts[:IGNORE].sum() / counts.sum()),
        "point_counts": {name: int(n) for name, n in zip(legend.names, taught + held_out, strict=True) if n},
        "held_out_counts": {name: int(n) for name, n in zip(legend.names, held_out, strict=True) if n},
        "underfull": {name: int(n) for name, n in zip(legend.names, short, strict=True) if n},
        "class_weights": _class_weights(config, legend.names[: trained.num_logits(config, legend)], label_counts),
    }


def _of_class(points: Sequence[Points | None], legend: Legend) -> np.ndarray:
    """int64 `[num_classes]`: how many points of some tiles there are."""
    classes = np.concatenate([*(of_tile.class_id for of_tile in points if of_tile is not None), np.zeros(0, int)])
    return np.bincount(classes, minlength=legend.num_classes)


def check_labels(old: dict[str, Any], new: dict[str, Any], workdir: Path) -> None:
    """Checks that what a checkpoint tells of its labels is what config and dataset give now.

    Raises:
      UserError: the labels differ.
    """
    if old["labels_hash"] != new["labels_hash"]:
        raise UserError(
            f"{workdir}: the checkpoint was taught by other labels ({old['label_counts']}) than config and dataset "
            f"give now ({new['label_counts']}); were points moved, or was the dataset prepared anew? restore "
            "them, or take another --workdir"
        )


def check_still(model: trained.Trained, builder: tfds.core.DatasetBuilder, workdir: Path) -> None:
    """Checks that config and dataset still give the labels that taught the run in `workdir`.

    Raises:
      UserError: they give others, so that nothing tells which pixels the run has seen.
    """
    raw = tiles.read_labelled(builder, model.config)
    tile_set = tiles.tile_set_of(raw, [], [tiles.labels_of(tile, model.config, model.legend) for tile in raw])
    check_labels(model.about, about_run(model.config, tile_set, model.legend, model.bands), workdir)


def _class_weights(
    config: ml_collections.ConfigDict, names: Sequence[str], label_counts: dict[str, int]
) -> dict[str, float]:
    """The weight of each class that has a logit: from the config, or from the counts of the labels that teach."""
    loss = config.loss
    if loss.effective_number_beta:
        if loss.class_weights:
            raise UserError("loss.class_weights and loss.effective_number_beta are both set; expected one of them")
        counts = np.array([label_counts[name] for name in names])
        return dict(
            zip(names, losses.effective_number_weights(counts, loss.effective_number_beta).tolist(), strict=True)
        )
    weights = loss.class_weights or (1.0,) * len(names)
    if len(weights) != len(names):
        raise UserError(f"loss.class_weights has {len(weights)} values; expected {len(names)}, one for each logit")
    return dict(zip(names, map(float, weights), strict=True))

"""A model and a split -> the scores of its maps of whole tiles, at native resolution."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.table import Table

from pcejax import (
    annotators,
    calibration,
    datasets,
    label_options,
    label_tiles,
    metrics,
    parallel,
    pictures,
    runs,
    taught,
    tiles,
    trained,
    writers,
)
from pcejax.errors import UserError
from pcejax.legend import IGNORE
from pcejax.points import Points

MAX_PICTURES = 8
"""Tiles of a split whose maps are drawn."""

_WHO_TAUGHT = ("legend", "bands", "labels_hash", "tile_ids", "devices")
"""What a checkpoint tells of its run that is not about the budget."""


def evaluate(workdir: Path, split: str) -> dict[str, Any]:
    """Scores the newest checkpoint of the run in `workdir` on `split`; see `calibrate` and `score_split`.

    Raises:
      UserError: as `score_split`; or pixels that taught must be told from others, and the labels are no longer those.
    """
    model = trained.load(workdir)
    config = model.config
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    tile_ids = [tile.tile_id for tile in tiles.read(builder, split, config)]
    if config.points.held_out or protocol(config, model.about, tile_ids, split) == "within":
        taught.check_still(model, builder, workdir)
    if model.calibration is None:
        model = calibrate(model, builder, workdir)
    return score_split(model, builder, split, workdir)


def calibrate(model: trained.Trained, builder: tfds.core.DatasetBuilder, workdir: Path) -> trained.Trained:
    """The model with the temperature that the points held out of its training ask for, written to `calibration.json`.

    As it is where `config.points.held_out` is 0, or no tile has as many points. Nothing is asked of a mask but where an
    annotator clicks in it. Several processes map a share of the tiles each.
    """
    config = model.config
    if not config.points.held_out:
        return model
    raw = tiles.read_labelled(builder, config)
    points = [_held_out(tile, model) for tile in raw]
    ends = np.cumsum([len(of_tile.row) for of_tile in points])
    logits = np.zeros((ends[-1], trained.num_logits(config, model.legend)), np.float32)
    weights = np.zeros(ends[-1], np.float32)
    share = [i for i in range(len(raw))[parallel.process_share()] if len(points[i].row)]
    progress = writers.Progress(len(share))
    for done, (index, (_, image, _)) in enumerate(zip(share, tiles.decoded([raw[i] for i in share]), strict=True)):
        of_tile = points[index]
        there = slice(ends[index] - len(of_tile.row), ends[index])
        mapped = model.map_image(model.variables, image)
        logits[there] = mapped[of_tile.row, of_tile.col]
        weights[there] = calibration.area_weights(mapped.argmax(-1), of_tile.class_id)
        if done % max(1, len(share) // 10) == 0 or done + 1 == len(share):
            print(f"calibrate: tiles {progress.line(done + 1)}", flush=True)
    fitted = None
    if len(logits):
        logits, weights = (parallel.gather(array).sum(0) for array in (logits, weights))
        classes = np.concatenate([of_tile.class_id for of_tile in points])
        temperature = calibration.fit_temperature(logits, classes, weights)
        fitted = calibration.Calibration(temperature, len(logits), model.step)
    print(f"maps: {calibration.describe(fitted)}", flush=True)
    if parallel.is_primary():
        found = fitted._asdict() if fitted else {"temperature": None, "num_points": 0, "step": model.step}
        writers.write_json(runs.calibration_path(workdir), found)
    return model._replace(calibration=fitted)


def _held_out(tile: tiles.RawTile, model: trained.Trained) -> Points:
    """A tile's points on which nothing taught: one may lie in the disc, or at data.scale on the pixel, of another."""
    annotation, factor = tiles.labels_of(tile, model.config, model.legend), tiles.reduction(model.config.data.scale)
    points = annotation.held_out
    assert points is not None  # only annotators that click hold points out
    untaught = annotation.label[points.row // factor, points.col // factor] == IGNORE
    return Points(*(values[untaught] for values in points))


def score_split(model: trained.Trained, builder: tfds.core.DatasetBuilder, split: str, workdir: Path) -> dict[str, Any]:
    """Scores the model's maps of every tile of `split`, and writes them to `report/evaluation_<split>.json`.

    The protocol is "across" where the run was taught by none of the tiles. Where it was taught by
    labels on parts of all of them it is "within": those pixels, the points held out and a buffer around them are not
    scored. Where it was taught by their dense masks it is "fit", which tells nothing about other pixels.

    Several processes score a share of the tiles each.

    The first tiles' maps are drawn into `report/maps_<split>/`: image and labels, truth, map, confidence.

    "expected_calibration_error" is that of the pixels scored, None where the model is uncalibrated, and with
    "_uncalibrated" that of its logits as they are.

    Its "points" are the config's, what the labels were, and num_tiles: how many tiles they lie on.

    Raises:
      UserError: the split holds tiles with and without training labels, or tiles without a mask.
    """
    config, legend = model.config, model.legend
    raw = tiles.read(builder, split, config)
    protocol_name = protocol(config, model.about, [tile.tile_id for tile in raw], split)
    folder = runs.pictures_folder(workdir, split)
    folder.mkdir(parents=True, exist_ok=True)
    matrices = np.zeros((len(raw), legend.num_classes, legend.num_classes), np.int64)
    known_matrices = np.zeros_like(matrices)  # of the known classes' logits alone, where unknown has one
    pixels = np.zeros(len(raw), np.int64)
    temperatures = [1.0] if model.calibration is None else [1.0, model.calibration.temperature]
    bins = np.zeros((len(temperatures), 3, calibration.BINS))
    share = range(len(raw))[parallel.process_share()]
    progress, start = writers.Progress(len(share)), time.monotonic()
    for done, (index, (tile, image, mask)) in enumerate(
        zip(share, tiles.decoded([raw[i] for i in share]), strict=True)
    ):
        if (mask == IGNORE).all():
            raise UserError(f"split {split!r}: tile {tile.tile_id} has no mask; expected labelled tiles")
        logits = model.map_image(model.variables, image)
        predicted = logits.argmax(-1).astype(np.uint8)
        labels = tiles.labels_of(tile, config, legend, factor=1) if protocol_name == "within" else None
        truth = scored_mask(mask, annotators.looked_at(labels) if labels else None, config.inference.buffer_px)
        matrices[index] = metrics.confusion_matrix(truth, predicted, legend.num_classes)
        if config.train_unknown:
            known = logits[..., : legend.num_known].argmax(-1)
            known_matrices[index] = metrics.confusion_matrix(truth, known, legend.num_classes)
        scored = truth < legend.num_known
        for sums, temperature in zip(bins, temperatures, strict=True):
            sure = calibration.confidence(logits, temperature)
            sums += calibration.bin_sums(sure[scored], (predicted == truth)[scored])
        pixels[index] = mask.size
        if index < MAX_PICTURES:
            shown = pictures.as_rgb(image, model.bands)
            if labels is not None:
                shown = pictures.with_annotation(shown, labels, legend)
            panels = [shown, pictures.color_map(mask, legend), pictures.color_map(predicted, legend)]
            panels.append(pictures.confidence(sure))
            pictures.side_by_side(panels).save(folder / f"{tile.tile_id}.png")
        if done % max(1, len(share) // 10) == 0 or done + 1 == len(share):
            print(f"evaluate {split}: tiles {progress.line(done + 1)}", flush=True)
    matrices, known_matrices, pixels, bins = (
        parallel.gather(summed).sum(0) for summed in (matrices, known_matrices, pixels, bins)
    )
    errors = [calibration.expected_calibration_error(sums) for sums in bins]
    seconds = time.monotonic() - start
    # Of the truth: labels balanced over classes have no majority.
    majority = int(matrices.sum((0, 2))[: legend.num_known].argmax())
    constant = np.zeros_like(matrices[0])
    constant[:, majority] = matrices.sum((0, 2))
    result = {
        "split": split,
        "protocol": protocol_name,
        "dataset": builder.info.full_name,
        "step": model.step,
        "legend": legend.to_dict(),
        "num_tiles": len(raw),
        "points": config.points.to_dict()
        | {name: value for name, value in model.about.items() if name not in _WHO_TAUGHT}
        | {"num_tiles": len(model.about["tile_ids"])},
        **metrics.scores(matrices.sum(0), legend, train_unknown=config.train_unknown),
        **(
            {"miou_without_unknown_logit": float(metrics.miou(known_matrices.sum(0), legend.num_known))}
            if config.train_unknown
            else {}
        ),
        "calibration": calibration.describe(model.calibration),
        "temperature": model.calibration.temperature if model.calibration else None,
        "expected_calibration_error": errors[1] if model.calibration else None,
        "expected_calibration_error_uncalibrated": errors[0],
        "miou_interval_over_tiles": metrics.bootstrap_miou(matrices, legend.num_known),
        "majority_class": legend.names[majority],
        "majority_miou": float(metrics.miou(constant, legend.num_known)),
        "confusion_matrix": matrices.sum(0).tolist(),
        "tiles": {tile.tile_id: matrix.tolist() for tile, matrix in zip(raw, matrices, strict=True)},
        "seconds": seconds,
        "megapixels_per_second": int(pixels.sum()) / 1e6 / seconds,
    }
    if parallel.is_primary():
        writers.write_json(runs.evaluation_path(workdir, split), result)
    return result


def protocol(config: ml_collections.ConfigDict, about: dict[str, Any], tile_ids: list[str], split: str) -> str:
    """The protocol of the tiles of `split`, for a run of `config` and `about`: see `score_split`.

    Raises:
      UserError: some of the tiles taught the run, and some did not.
    """
    taught_by = set(about["tile_ids"])
    share = [tile_id in taught_by for tile_id in tile_ids]
    if not any(share):
        return "across"
    if not all(share):
        raise UserError(
            f"split {split!r}: {sum(share)} of {len(tile_ids)} tiles taught the run and the others did not; expected "
            "all or none, since the two scores must not be mixed; slice the split, such as train[:6] and train[6:]"
        )
    return "fit" if config.points.annotator in label_options.DENSE else "within"


def scored_mask(mask: np.ndarray, label: np.ndarray | None, buffer_px: int) -> np.ndarray:
    """The mask uint8 `[H, W]` with IGNORE within `buffer_px` native pixels of pixels that `label` labels, if any."""
    if label is None:
        return mask
    return np.where(label_tiles.near_labels(label, buffer_px), IGNORE, mask).astype(np.uint8)


def print_scores(result: dict[str, Any]) -> None:
    """Prints what `score_split` returned, as a table."""
    low, high = result["miou_interval_over_tiles"]
    print(
        f"{result['split']} ({result['protocol']}): mIoU {result['miou']:.3f} [{low:.3f}, {high:.3f}] "
        f"over {result['num_tiles']} tiles; {result['majority_class']} everywhere {result['majority_miou']:.3f}"
    )
    table = Table()
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("F1", justify="right")
    for name, value in result["iou"].items():
        shown = ["absent", "absent"] if value is None else [f"{value:.3f}", f"{result['f1'][name]:.3f}"]
        table.add_row(name, *shown)
    Console().print(table)
    glnet = ""
    if "miou_glnet" in result:
        glnet = (
            f", mIoU with unknown as GLNet counts it {result['miou_glnet']:.3f}, without the unknown class's logit "
            f"{result['miou_without_unknown_logit']:.3f}"
        )
    print(f"overall accuracy {result['overall_accuracy']:.3f}, kappa {result['kappa']:.3f}{glnet}")
    print(calibration.describe_error(result), flush=True)

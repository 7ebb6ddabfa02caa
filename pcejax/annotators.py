"""A dense mask -> what teaches of it, by the annotator that `config.points` names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcejax import label_options, label_tiles, points, scribbles
from pcejax.label_options import LabelOptions
from pcejax.legend import IGNORE, Legend


class Annotation(NamedTuple):
    """What teaches of a tile."""

    label: np.ndarray  # uint8 [h, w], class id or IGNORE
    points: points.Points | None  # those that teach; None for annotators that click none
    held_out: points.Points | None  # those that do not
    class_weights: np.ndarray  # float32 [num_classes], of this tile alone
    underfull: tuple[int, ...]  # classes that got fewer points than the budget


def annotate(
    mask: np.ndarray,
    tile_id: str,
    clicks: points.Points | None,
    options: LabelOptions,
    *,
    legend: Legend,
    factor: int,
    train_unknown: bool,
) -> Annotation:
    """The annotation of a mask uint8 `[H, W]`, a pure function of its arguments.

    Args:
      mask: class id or IGNORE.
      tile_id: the tile's.
      clicks: a person's points on the tile, if any: what the annotator "file" takes, whatever the mask says.
      options: what `label_options.label_options` gives.
      legend: the mask's.
      factor: native pixels that a side of a pixel of the label tile spans. Annotators work at native
        resolution; their points and strokes are reduced afterwards, and dense masks thinned.
      train_unknown: whether dense labels teach unknown; no other annotator does.

    Raises:
      UserError: the points do not fit on the label tile, or `label_confusion` not the legend.
    """
    ones = np.ones(legend.num_classes, np.float32)
    if options.annotator in label_options.POINTS:
        if options.annotator == "file":
            drawn, underfull = points.taken(clicks, options)
        else:
            drawn, underfull = points.draw(mask, tile_id, options, legend)
        teaching, held_out = points.split(drawn, options)
        label = label_tiles.rasterise(teaching, mask.shape, factor, options.point_radius)
        return Annotation(label, teaching, held_out, ones, underfull)
    if options.annotator in label_options.DENSE:
        last_class = legend.num_classes if train_unknown else legend.num_known
        label = label_tiles.thin(mask, factor)
        label = np.where(label < last_class, label, IGNORE).astype(np.uint8)
        balance = options.annotator == "dense_balanced"
        weights = label_tiles.balancing_weights(label, len(ones)) if balance else ones
        return Annotation(label, None, None, weights, ())
    drawing = scribbles.scribble if options.annotator == "scribble" else scribbles.block
    return Annotation(label_tiles.gather(drawing(mask, tile_id, options, legend), factor), None, None, ones, ())


def looked_at(annotation: Annotation) -> np.ndarray:
    """uint8 `[H, W]`: the label tile of an annotation at native resolution, and in it the points held out."""
    label = annotation.label
    if annotation.held_out is not None:
        label = label.copy()
        label[annotation.held_out.row, annotation.held_out.col] = annotation.held_out.class_id
    return label

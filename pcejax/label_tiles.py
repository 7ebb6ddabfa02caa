"""Label tiles: what is taught of a tile, at the resolution of training; uint8, class id or IGNORE."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from pcejax.errors import UserError
from pcejax.legend import IGNORE
from pcejax.points import Points


def rasterise(points: Points, shape: tuple[int, ...], factor: int, radius: int = 0) -> np.ndarray:
    """The label tile uint8 `[ceil(H / factor), ceil(W / factor)]`: class ids at the points, IGNORE elsewhere.

    A point labels the coarse pixel that holds it, and those whose centres lie within `radius` of it: a
    disc, which like a thick click may cross into another class. Where discs overlap the lower rank wins.
    A point all of whose pixels are taken moves to the nearest free one, so none is lost, and what
    rank k gets does not depend on later ranks.

    Args:
      points: of the tile.
      shape: the tile's native `(H, W)`.
      factor: native pixels that a side of a coarse one spans.
      radius: native pixels.

    Raises:
      UserError: more points than coarse pixels, or discs that cover them all before the last point.
    """
    label = np.full([-(-n // factor) for n in shape], IGNORE, np.uint8)
    if len(points.row) > label.size:
        raise UserError(
            f"{len(points.row)} points do not fit on the {label.size} pixels of a tile reduced {factor} times; "
            "raise data.scale or lower points.budget"
        )
    for native_row, native_col, class_id in zip(points.row, points.col, points.class_id, strict=True):
        row, col = native_row // factor, native_col // factor
        if radius:
            top, left = max(0, native_row - radius) // factor, max(0, native_col - radius) // factor
            part = label[top : (native_row + radius) // factor + 1, left : (native_col + radius) // factor + 1]
            down, right = (
                (np.arange(start, start + count) + 0.5) * factor - 0.5 - native
                for start, count, native in zip((top, left), part.shape, (native_row, native_col), strict=True)
            )
            disc = np.add.outer(down**2, right**2) <= radius**2
            disc[row - top, col - left] = True
            disc &= part == IGNORE
            part[disc] = class_id
            if disc.any():
                continue
        if label[row, col] != IGNORE:
            row, col = _nearest_free(label, row, col)
        label[row, col] = class_id
    return label


def _nearest_free(label: np.ndarray, row: int, col: int) -> tuple[int, int]:
    """The unlabelled pixel nearest to (row, col), the first in reading order among equals."""
    reach = 1
    while True:
        top, left = max(0, row - reach), max(0, col - reach)
        free = np.argwhere(label[top : row + reach + 1, left : col + reach + 1] == IGNORE) + (top, left)
        if len(free):
            distance = ((free - (row, col)) ** 2).sum(1)
            # A pixel outside the square may be nearer than one in its corner.
            if distance.min() <= reach**2 or reach >= max(label.shape):
                return tuple(int(v) for v in free[distance.argmin()])  # type: ignore[return-value]
        elif reach >= max(label.shape):
            raise UserError("the points' discs cover a whole tile; lower points.point_radius or points.budget")
        reach *= 2


def thin(mask: np.ndarray, factor: int) -> np.ndarray:
    """Every factor-th pixel of a mask uint8 `[H, W]`: uint8 `[ceil(H / factor), ceil(W / factor)]`."""
    return _whole_blocks(mask, factor)[factor // 2 :: factor, factor // 2 :: factor]


def gather(label: np.ndarray, factor: int) -> np.ndarray:
    """A sparse native label map uint8 `[H, W]` as uint8 `[ceil(H / factor), ceil(W / factor)]`.

    A coarse pixel has a label where any of its native ones has, of those that of the nearest to the
    pixel that `thin` takes: strokes stay whole.
    """
    padded = _whole_blocks(label, factor)
    middle = factor // 2
    result = padded[middle::factor, middle::factor]
    for row, col in sorted(np.ndindex(factor, factor), key=lambda at: (at[0] - middle) ** 2 + (at[1] - middle) ** 2):
        result = np.where(result == IGNORE, padded[row::factor, col::factor], result)
    return result


def _whole_blocks(array: np.ndarray, factor: int) -> np.ndarray:
    return np.pad(array, [(0, -n % factor) for n in array.shape], constant_values=IGNORE)


def balancing_weights(label: np.ndarray, num_classes: int) -> np.ndarray:
    """float32 `[num_classes]`: weights that let the classes in a label tile uint8 `[h, w]` count alike.

    Inversely as the class's pixels; the mean over labelled pixels is 1. An absent class has weight 1.
    """
    counts = np.bincount(label.reshape(-1), minlength=IGNORE + 1)[:num_classes]
    present = counts > 0
    return np.where(present, counts.sum() / (max(1, present.sum()) * np.maximum(counts, 1)), 1.0).astype(np.float32)


def near_labels(label: np.ndarray, buffer_px: int) -> np.ndarray:
    """bool `[H, W]`: pixels within `buffer_px`, in row and in column, of a labelled one of a map uint8 `[H, W]`."""
    labelled = (label != IGNORE).astype(np.uint8)
    return scipy.ndimage.maximum_filter(labelled, 2 * buffer_px + 1, mode="constant").astype(bool)

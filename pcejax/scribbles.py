"""Annotators that draw: a dense mask -> strokes or patches, as label maps at native resolution."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import dijkstra

from pcejax import keys, placements, points
from pcejax.label_options import LabelOptions
from pcejax.legend import IGNORE, Legend

MAX_NODES = 4096
"""About so many nodes has the graph that a centre line is found in: some 10 ms for the largest component."""

_PER_PIXEL = 2
"""Places on a pixel's length of a centre line where the pen is set down."""


def scribble(mask: np.ndarray, tile_id: str, options: LabelOptions, legend: Legend) -> np.ndarray:
    """A stroke in each component of `points.component`: uint8 `[H, W]`, class id or IGNORE, of a mask alike.

    The stroke is a piece of the component's centre line, `scribble_width` pixels across, less what of
    it leaves the component. The piece is `scribble_share` of the line's length. Where it lies is drawn
    for each component, so that the piece of a larger share holds that of a smaller one.
    """
    label = np.full(mask.size, IGNORE, np.uint8)
    # The tile's edge is a border here: a line through the middle of a component does not run along it.
    to_edge = np.minimum.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in mask.shape))
    depth = np.minimum(placements.border_distance(mask), to_edge)
    width = options.scribble_width
    off = np.arange(width) - (width - 1) / 2
    pen = np.argwhere(np.add.outer(off**2, off**2) <= (width / 2) ** 2) - (width - 1) // 2
    own = np.zeros(mask.size, bool)
    for stratum in points.component(mask, options.min_area, legend):
        line = _centre_line(stratum, depth, options.seed, tile_id)
        u = float(keys.unit(keys.pixel_keys(options.seed, tile_id, stratum[:1], "stroke"))[0])
        row, col = np.moveaxis(_piece(line, u, options.scribble_share)[:, None] + pen, -1, 0)
        inside = (row >= 0) & (row < mask.shape[0]) & (col >= 0) & (col < mask.shape[1])
        stroke = (row * mask.shape[1] + col)[inside]
        own[stratum] = True
        label[stroke[own[stroke]]] = mask.reshape(-1)[stratum[0]]
        own[stratum] = False
    return label.reshape(mask.shape)


def _centre_line(stratum: np.ndarray, depth: np.ndarray, seed: int, tile_id: str) -> np.ndarray:
    """A line from end to end of a component, flat int `[n]`, through its middle: int `[m, 2]`, row and col.

    Its ends are as far from each other as a walk within the component goes (found by walking twice to
    the farthest place, exact for trees); between them it is the shortest path where a step costs the
    more the nearer the border. Nodes are blocks of pixels, each at its deepest pixel, so that large
    components have no more of them than small ones.
    """
    row, col = np.divmod(stratum, depth.shape[1])
    top, left = row.min(), col.min()
    block = max(1, round((stratum.size / MAX_NODES) ** 0.5))
    rows, cols = (-(-(int(n.max() - n.min()) + 1) // block) for n in (row, col))
    inside = np.zeros((rows * block, cols * block))
    inside[row - top, col - left] = depth.reshape(-1)[stratum]
    blocks = inside.reshape(rows, block, cols, block).swapaxes(1, 2).reshape(rows, cols, block * block)
    deepest = blocks.argmax(-1)
    place = np.stack(np.divmod(deepest, block), -1) + np.indices((rows, cols)).transpose(1, 2, 0) * block + (top, left)
    node = np.full((rows + 1, cols + 2), -1)
    is_node = blocks.max(-1) > 0
    node[:-1, 1:-1][is_node] = np.arange(is_node.sum())
    place = place[is_node]
    ease = blocks.max(-1)[is_node]
    # A hand wobbles; and no two ways are of the same length, between which library versions might differ.
    pixels = place @ (depth.shape[1], 1)
    wobble = 1.0 + 0.1 * keys.unit(keys.pixel_keys(seed, tile_id, pixels, "wobble"))
    here = node[:-1, 1:-1]
    pairs = [np.stack([here, there], -1).reshape(-1, 2) for there in (node[:-1, 2:], *_below(node))]
    # int32: some releases of SciPy find no way in a graph whose indices are longer.
    start, end = (pair := np.concatenate(pairs).astype(np.int32))[(pair >= 0).all(-1)].T
    length = np.hypot(*(place[start] - place[end]).T) * (wobble[start] + wobble[end]) / 2
    shape = (len(place), len(place))
    by_length = scipy.sparse.csr_array((length, (start, end)), shape)
    by_cost = scipy.sparse.csr_array((length * (1 / ease[start] + 1 / ease[end]) ** 2, (start, end)), shape)
    one_end = dijkstra(by_length, directed=False, indices=0).argmax()
    at = dijkstra(by_length, directed=False, indices=one_end).argmax()
    before = dijkstra(by_cost, directed=False, indices=one_end, return_predecessors=True)[1]
    path = [at]
    while path[-1] != one_end:
        path.append(before[path[-1]])
    return place[path]


def _below(node: np.ndarray) -> list[np.ndarray]:
    """The neighbours below left, below and below right of `node[:-1, 1:-1]`."""
    return [node[1:, :-2], node[1:, 1:-1], node[1:, 2:]]


def _piece(line: np.ndarray, u: float, share: float) -> np.ndarray:
    """Where the pen is set down on `share` of a line int `[m, 2]`, u in [0, 1) along what it may leave out: int."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    first = u * (1.0 - share) * along[-1]
    # The places are the same ones for any share.
    set_down = np.arange(int(first * _PER_PIXEL), int((first + share * along[-1]) * _PER_PIXEL) + 1) / _PER_PIXEL
    return np.stack([np.rint(np.interp(set_down, along, line[:, axis])).astype(np.int64) for axis in (0, 1)], -1)


def block(mask: np.ndarray, tile_id: str, options: LabelOptions, legend: Legend) -> np.ndarray:
    """A dense patch per class present: uint8 `[H, W]`, class id or IGNORE, of a mask alike.

    Each is a square of `block_px` pixels around the first point that "balanced" would click, moved into
    the tile where it would stick out. Every known pixel of it gets its own class, not that class alone:
    a patch's worth is in the borders that it shows (Lin et al., 2019, "Block Annotation").
    """
    label = np.full(mask.shape, IGNORE, np.uint8)
    side = options.block_px
    for stratum in points.balanced(mask, options.min_area, legend):
        middle = stratum[keys.pixel_keys(options.seed, tile_id, stratum).argmin()]
        top, left = (
            min(max(0, int(at) - side // 2), max(0, n - side))
            for at, n in zip(divmod(middle, mask.shape[1]), mask.shape, strict=True)
        )
        patch = mask[top : top + side, left : left + side]
        label[top : top + side, left : left + side] = np.where(patch < legend.num_known, patch, IGNORE)
    return label

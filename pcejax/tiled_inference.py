"""An image of any size -> logits, strip by strip: overlapping windows, blended by a smooth weight.

A row of windows after the other goes through the model and is added to the sums of a strip on the device. What no
later window touches is divided by its weight, enlarged to the native resolution and handed out; then the strip moves
down. Memory is that of a strip, whatever the image's height, and the next strip is read while the model works.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import parallel, priors, smoothing, tiles
from pcejax.ahead import ahead
from pcejax.errors import UserError

ReadRows = Callable[[int, int], np.ndarray]
"""Native rows from the first to before the second of an image: `[rows, W, bands]`. Each is asked for once, in order."""

Finish = Callable[[jax.Array], Any]
"""Logits float32 `[C, h, W]` -> arrays `[..., h, W]`, each pixel by itself, on the device and compiled."""

MapRows = Callable[..., Generator[Any, None, None]]
"""See `make_mapper`."""

_READ_ROWS = 512  # native, at a time: whole rows of most files' blocks, which are decompressed at each reading
_ENLARGED_ROWS = 256  # native, at a time; both are multiples of any reduction


def window_starts(size: int, window: int, overlap: int) -> list[int]:
    """Where windows start along a side of `size` pixels: neighbours share `overlap` or more, the last is flush."""
    if size <= window:
        return [0]
    count = -(-(size - overlap) // (window - overlap))
    return [round(index * (size - window) / (count - 1)) for index in range(count)]


def window_weights(size: int, window: int, overlap: int) -> np.ndarray:
    """float32 `[windows, window]`: the weight along a side of each window that starts at `window_starts`.

    Towards a border that a neighbour overlaps, the square of a sine, 0 on the outer quarter of the overlap: what the
    model says within that distance of a window's border, where it lacks context, has no say.
    """
    margin = overlap // 4
    inside = (np.arange(window) + 0.5 - margin) / max(1, overlap - 2 * margin)
    ramp = np.sin(np.pi / 2 * np.clip(inside, 0, 1)) ** 2 if overlap else np.ones(window)
    starts = window_starts(size, window, overlap)
    weights = np.ones((len(starts), window))
    weights[1:] *= ramp
    weights[:-1] *= ramp[::-1]
    return weights.astype(np.float32)


def make_mapper(
    eval_step: Callable[..., jax.Array],
    config: ml_collections.ConfigDict,
    *,
    metres: float = 0.0,
    dihedral_moves: bool = False,
) -> MapRows:
    """`map_rows(variables, read, (H, W), finish)`: yields finish(logits), arrays `[..., h, W]`, strips from the top.

    `read` is a `ReadRows` and `finish` a `Finish`; `variables` are placed on the devices (`parallel.replicate`). The
    model is compiled once for all images, what blends once for each width.

    Args:
      eval_step: variables and windows `[b, w, w, bands]` -> logits `[b, w, w, C]`, for one device.
      config: the run's.
      metres: the side of a native pixel on the ground; 0 where it is unknown, and nothing is smoothed.
      dihedral_moves: whether logits are means over the window's flips and quarter turns, for eight times the work.

    Raises:
      UserError: the windows' overlap or batch does not fit, or the smoothing is negative or wider than the overlap.
    """
    window, overlap = config.inference.window, config.inference.overlap
    if not 0 <= overlap < window:
        raise UserError(f"inference.overlap={overlap}; expected 0 to below inference.window={window}")
    batch = parallel.rows_per_device(config.inference.batch_size, "inference.batch_size") * jax.local_device_count()
    factor = tiles.reduction(config.data.scale)
    if config.inference.smoothing_m < 0:
        raise UserError(f"inference.smoothing_m={config.inference.smoothing_m}; expected 0 or more metres")
    sigma = config.inference.smoothing_m / (metres * factor) if metres else 0.0
    if 2 * sigma > overlap:  # means would end at the windows' borders, and maps show them
        raise UserError(
            f"inference.smoothing_m={config.inference.smoothing_m} is {sigma:.4g} pixels of {metres * factor:.3g} m; "
            f"expected at most {overlap / 2:g}, half of inference.overlap={overlap}; lower it, train at a lower "
            "data.scale, or let windows overlap more"
        )
    adapted = priors.adapted(eval_step) if config.inference.adapt_priors else eval_step
    mapped_step = parallel.map_eval_step(smoothing.smoothed(adapted, sigma))
    moves = range(8) if dihedral_moves else range(1)

    def map_rows(variables: Any, read: ReadRows, shape: tuple[int, ...], finish: Finish) -> Generator[Any, None, None]:
        height, width = (-(-n // factor) for n in shape[:2])
        starts, cols = (window_starts(max(n, window), window, overlap) for n in (height, width))
        row_weights, col_weights = (window_weights(max(n, window), window, overlap) for n in (height, width))
        chunk = min(height, max(1, _ENLARGED_ROWS // factor))
        sums: Any = None
        waiting: list[tuple[int, Any]] = []
        previous: Any = None
        with contextlib.closing(ahead(read_strips(read, shape, starts, window, factor))) as strips:
            for index, (start, strip) in enumerate(zip(starts, strips, strict=True)):
                for windows, places, weights in _calls(strip, cols, col_weights, batch):
                    placed = parallel.replicate((places, row_weights[index], weights))
                    for move in moves:
                        logits = mapped_step(variables, parallel.shard_rows(_moved(windows, move)))
                        if sums is None:
                            # Two rows above the window: what is handed out from it, and that row's neighbour.
                            size = (logits.shape[-1] + 1, window + 2, max(width, window))
                            sums = parallel.replicate(np.zeros(size, np.float32))
                        sums = _add(sums, logits, *placed, move=move)
                        if previous is not None:
                            previous.block_until_ready()  # no more than two calls' logits are kept
                        previous = logits
                # The row above a later window waits, as the neighbour of that window's first row.
                last = index + 1 == len(starts)
                begin, end = max(0, start - 1), height if last else starts[index + 1] - 1
                done, waiting = waiting, []
                for first in range(begin, end, chunk):
                    rows = np.clip(np.arange(first - 1, first + chunk + 1), 0, height - 1) - start + 2
                    placed = parallel.replicate(np.clip(rows, 0, window + 1).astype(np.int32))
                    outputs = _finished(sums, placed, factor=factor, width=width, finish=finish)
                    waiting.append(
                        (min((min(first + chunk, end) - first) * factor, shape[0] - first * factor), outputs)
                    )
                if not last:
                    sums = _shifted(sums, parallel.replicate(np.int32(starts[index + 1] - start)))
                yield from _fetched(done, shape[1])
        yield from _fetched(waiting, shape[1])

    return map_rows


def map_image(map_rows: MapRows, variables: Any, image: np.ndarray) -> np.ndarray:
    """Logits float32 `[H, W, C]` of a whole image `[H, W, bands]`, by a mapper that `make_mapper` made."""
    strips = [*map_rows(variables, lambda first, stop: image[first:stop], image.shape, _as_they_are)]
    return np.moveaxis(np.concatenate(strips, 1), 0, -1)


def _as_they_are(logits: jax.Array) -> jax.Array:
    return logits


def read_strips(
    read: ReadRows, shape: tuple[int, ...], starts: list[int], window: int, factor: int
) -> Iterator[np.ndarray]:
    """The pixels `[window, W, bands]` under each row of windows, reduced; what lies beyond a small image, reflected."""
    rows: list[np.ndarray] = []
    done = above = 0  # native rows that were read; reduced ones that lie above `rows`
    for start in starts:
        while done < min((start + window) * factor, shape[0]):
            end = min(done + _READ_ROWS, shape[0])
            rows.append(tiles.reduce_image(read(done, end), factor))
            done = end
        rows = [np.concatenate(rows)[start - above :]]
        above = start
        strip = rows[0][:window]
        yield np.pad(strip, [*((0, max(0, window - n)) for n in strip.shape[:2]), (0, 0)], mode="symmetric")


def _calls(
    strip: np.ndarray, cols: list[int], col_weights: np.ndarray, batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Windows `[batch, w, w, bands]` of a strip, their columns, and weights `[batch, w]` along them.

    The last call is filled up with blank ones of no weight.
    """
    window = len(strip)
    for first in range(0, len(cols), batch):
        windows = np.zeros((batch, window, window, strip.shape[-1]), strip.dtype)
        places, weights = np.zeros(batch, np.int32), np.zeros((batch, window), np.float32)
        for slot, col in enumerate(cols[first : first + batch]):
            windows[slot] = strip[:, col : col + window]
            places[slot], weights[slot] = col, col_weights[first + slot]
        yield windows, places, weights


def _moved(windows: np.ndarray, move: int) -> np.ndarray:
    """Windows `[n, w, w, bands]` after one of eight moves: `move % 4` quarter turns, after a flip from 4 on."""
    return np.rot90(windows[:, :, ::-1] if move >= 4 else windows, move % 4, (1, 2))


@functools.partial(jax.jit, static_argnames="move", donate_argnums=0)
def _add(
    sums: jax.Array, logits: jax.Array, cols: jax.Array, row_weight: jax.Array, col_weights: jax.Array, move: int
) -> jax.Array:
    """`sums` `[C + 1, window + 2, W]` and, with their weights, the logits `[D, b, w, w, C]` of moved windows at `cols`.

    The last plane is the sum of the weights.
    """
    logits = jnp.rot90(logits.reshape(-1, *logits.shape[2:]), -move % 4, (1, 2))
    logits = logits[:, :, ::-1] if move >= 4 else logits
    count, window = logits.shape[:2]
    for index in range(count):
        weight = row_weight[:, None] * col_weights[index][None]
        planes = jnp.concatenate([jnp.moveaxis(logits[index], -1, 0), jnp.ones((1, window, window))])
        place = (0, 2, cols[index])
        there = jax.lax.dynamic_slice(sums, place, planes.shape)
        sums = jax.lax.dynamic_update_slice(sums, there + planes * weight[None], place)
    return sums


@functools.partial(jax.jit, donate_argnums=0)
def _shifted(sums: jax.Array, rows: jax.Array) -> jax.Array:
    """`sums` moved up, with zeros below."""
    height = sums.shape[1]
    kept = jnp.arange(height) < height - rows
    return jnp.where(kept[None, :, None], jnp.roll(sums, -rows, 1), 0.0)


@functools.partial(jax.jit, static_argnames=("factor", "width", "finish"))
def _finished(sums: jax.Array, rows: jax.Array, factor: int, width: int, finish: Finish) -> Any:
    """What `finish` makes of the given rows but the first and the last, which are their neighbours."""
    chosen = sums[:, rows, :width]
    return enlarge(chosen[:-1] / chosen[-1:], factor, finish)


def enlarge(logits: jax.Array, factor: int, finish: Finish) -> Any:
    """Logits `[C, h + 2, w]`, a neighbouring row on either side -> finish(them at `[C, h factor, w factor]`), bilinear.

    Each of the pixels that one becomes is finished before they are put together: on CPUs, putting together all their
    logits takes longer than all the rest.
    """
    if factor == 1:
        return finish(logits[:, 1:-1])
    wide = jnp.concatenate([logits[..., :1], logits, logits[..., -1:]], -1)
    lines = [[finish(x) for x in _phases(line, factor, 2)] for line in _phases(wide, factor, 1)]

    def together(*phases: jax.Array) -> jax.Array:
        *rest, height, width = phases[0].shape
        rows = [jnp.stack(phases[n : n + factor], -1) for n in range(0, factor**2, factor)]
        return jnp.stack(rows, -3).reshape(*rest, height * factor, width * factor)

    return jax.tree.map(together, *(x for line in lines for x in line))


def _phases(x: jax.Array, factor: int, axis: int) -> Iterator[jax.Array]:
    """Of all pixels the first that each becomes along an axis, the second, ..: linear between the centres of pixels.

    The first and the last one of `x` are neighbours alone.
    """
    before, here, after = (jax.lax.slice_in_dim(x, n, x.shape[axis] - 2 + n, axis=axis) for n in range(3))
    for phase in range(factor):
        place = (phase + 0.5) / factor - 0.5
        yield here * (1 - abs(place)) + (before if place < 0 else after) * abs(place)


def _fetched(outputs: list[tuple[int, Any]], width: int) -> Iterator[Any]:
    """Native rows on the host, without what is beyond the image."""
    for rows, arrays in outputs:
        yield jax.tree.map(lambda a, rows=rows: a[..., :rows, :width], parallel.to_host(arrays))

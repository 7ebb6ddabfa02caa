"""A georeferenced raster of any size -> GeoTIFFs of its classes and of how sure the model is of them.

Strips are read, mapped and written at the same time, so that memory is that of some strips. What has no data in the
raster has none in the maps.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pcejax import calibration, map_files, tiled_inference, tiles, trained, writers
from pcejax.datasets.rasters import Tiff, open_tiff
from pcejax.frames import import_geo
from pcejax.legend import IGNORE

_CACHE_MB = 128
_LINE_EVERY = 5.0  # seconds between lines of progress


def map_raster(model: trained.Trained, path: Path, outputs: dict[str, Path]) -> np.ndarray:
    """Maps a raster, tells of progress, and returns the pixels of each class.

    Args:
      model: of as many bands of the type.
      path: of the raster.
      outputs: the files to write, GeoTIFFs of uint8 with the raster's place, IGNORE where it has no data: "classes",
        class ids; "confidence", the probability of that class; "probabilities", a band of them for each class that the
        model knows. Probabilities are 0 to `map_files.SHARES`, which the file's scale makes 0 to 1; the file tells
        whether they are calibrated.

    Raises:
      UserError: the raster is damaged, or a map cannot be written.
    """
    names = model.legend.names
    told, temperature = calibration.describe(model.calibration), 1.0
    if model.calibration is not None:
        temperature = model.calibration.temperature
    bands = {"classes": ["class"], "confidence": [f"confidence, {told}"]}
    bands["probabilities"] = list(names[: trained.num_logits(model.config, model.legend)])
    contents = {
        name: map_files.Content(of_file, model.legend if name == "classes" else None, told)
        for name, of_file in bands.items()
    }
    counts = np.zeros(model.legend.num_classes, np.int64)
    with import_geo("rasterio").Env(GDAL_CACHEMAX=_CACHE_MB), contextlib.ExitStack() as stack:
        file = stack.enter_context(open_tiff(path, model.bands.chosen))
        write = {
            name: stack.enter_context(map_files.map_file(where, file.frame, contents[name]))
            for name, where in outputs.items()
        }
        shape, source = (file.frame.height, file.frame.width), _Source(file)
        progress = _Progress(path.name, shape[0])
        window = model.config.inference.window * tiles.reduction(model.config.data.scale)
        if min(shape) < window:
            told = f"{shape[1]}x{shape[0]} pixels, less than a window of {window} (inference.window at data.scale)"
            print(f"predict: {path.name}: {told}; filled up with its reflection", flush=True)

        def take(maps: dict[str, np.ndarray]) -> int:
            valid = source.valid_rows(maps["classes"].shape[1])
            maps = {name: np.where(valid, rows, np.uint8(IGNORE)) for name, rows in maps.items()}
            for name, rows in maps.items():
                write[name](rows)
            counts[:] += [np.count_nonzero(maps["classes"] == class_id) for class_id in range(len(counts))]
            return len(valid)

        strips = model.map_rows(model.variables, source.read, shape, _finisher(tuple(outputs), temperature))
        # However it ends, nothing reads or writes any more when the files are closed.
        with contextlib.closing(strips), ThreadPoolExecutor(1) as pool:
            done = 0
            taking: Future[int] | None = None
            for maps in strips:
                if taking is not None:
                    progress.tell(done := done + taking.result())
                taking = pool.submit(take, maps)
            assert taking is not None  # every raster has a row
            progress.tell(done + taking.result())
    return counts


class _Source:
    """The rows of a raster as the mapper asks for them, and where they have data as the maps are written."""

    def __init__(self, file: Tiff):
        self._file = file
        self._valid: deque[np.ndarray] = deque()  # of rows that are read and not yet written

    def read(self, first: int, stop: int) -> np.ndarray:
        """Rows `[first, stop)`: pixels `[rows, W, bands]`, 0 where there are no data."""
        pixels, valid = self._file.read(first, stop)
        self._valid.append(valid)
        return pixels if valid.all() else np.where(valid[..., None], pixels, pixels.dtype.type(0))

    def valid_rows(self, count: int) -> np.ndarray:
        """Whether there are data in the next rows: bool `[count, W]`."""
        rows = [self._valid.popleft()]
        while sum(map(len, rows)) < count:
            rows.append(self._valid.popleft())
        valid = np.concatenate(rows)
        if len(valid) > count:
            self._valid.appendleft(valid[count:])
        return valid[:count]


@functools.cache
def _finisher(outputs: tuple[str, ...], temperature: float) -> tiled_inference.Finish:
    """Logits `[C, h, W]` -> the bands uint8 `[bands, h, W]` of each of the outputs; one function for each choice."""

    def finish(logits: jax.Array) -> dict[str, jax.Array]:
        # Class by class: on CPUs argmax along an axis takes far longer.
        best, ids = logits[0], jnp.zeros(logits.shape[1:], jnp.uint8)
        for class_id in range(1, len(logits)):
            better = logits[class_id] > best
            best, ids = jnp.where(better, logits[class_id], best), jnp.where(better, jnp.uint8(class_id), ids)
        maps = {"classes": ids[None]}
        if len(outputs) > 1:
            raised = jnp.exp((logits - best[None]) / temperature)
            shares = {"confidence": 1 / raised.sum(0, keepdims=True)}
            shares["probabilities"] = raised * shares["confidence"]
            maps |= {n: jnp.round(p * map_files.SHARES).astype(jnp.uint8) for n, p in shares.items() if n in outputs}
        return maps

    return finish


class _Progress:
    """Tells of a raster's rows now and then."""

    def __init__(self, name: str, rows: int):
        self._name, self._last, self._progress = name, time.monotonic(), writers.Progress(rows)

    def tell(self, rows: int) -> None:
        """Of the rows done."""
        if time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            print(f"predict: {self._name}: rows {self._progress.line(rows)}", flush=True)

"""How fast a large raster is mapped, and what of the time is not the model's."""

from __future__ import annotations

import functools
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from pcejax import (
    map_files,
    models,
    optimizer,
    parallel,
    raster_maps,
    steps,
    tiled_inference,
    tiles,
    trained,
)
from pcejax.datasets import deepglobe
from pcejax.datasets.rasters import open_tiff
from pcejax.frames import import_geo
from pcejax.legend import DEEPGLOBE
from pcejax.train_state import create_train_state

_CALLS = 20


def measure_predict(config: ml_collections.ConfigDict, side: int) -> dict[str, Any]:
    """Rate, peak memory and shares of mapping a drawn GeoTIFF of `side` x `side` pixels by an untrained model.

    Returns:
      "seconds" of the whole; "model_seconds", of as many calls of the model alone as that takes, from the median call;
      "outside_share", what is left of the whole; "outside_cpu_share", the same of the processor's time, which other
      work on the machine hardly changes; "reading_seconds" and "writing_seconds" of these alone, which are done while
      the model works; "peak_bytes" of the process.
    """
    bands, legend = deepglobe.BANDS, DEEPGLOBE
    model = models.create_model(config.model, trained.num_logits(config, legend))
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps)
    state = create_train_state(model, tx, jax.random.key(0), (1, config.data.crop, config.data.crop, bands.num))
    variables = parallel.replicate(state.ema_variables())
    eval_step = steps.make_eval_step(model, bands)
    map_rows = tiled_inference.make_mapper(eval_step, config, metres=bands.metres)
    map_image = functools.partial(tiled_inference.map_image, map_rows)
    ready = trained.Trained(config, legend, bands, {}, 0, variables, map_rows, map_image)
    factor, window, overlap = tiles.reduction(config.data.scale), config.inference.window, config.inference.overlap
    with tempfile.TemporaryDirectory() as folder:
        raster, written = Path(folder, "raster.tif"), Path(folder, "raster_classes.tif")
        _draw(raster, side)
        # A raster of the same width: all is compiled.
        _draw(Path(folder, "low.tif"), side, rows=min(side, 2 * window * factor))
        raster_maps.map_raster(ready, Path(folder, "low.tif"), {"classes": Path(folder, "low_classes.tif")})

        begin, cpu_begin = time.monotonic(), time.process_time()
        raster_maps.map_raster(ready, raster, {"classes": written})
        seconds, cpu_seconds = time.monotonic() - begin, time.process_time() - cpu_begin

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        begin = time.monotonic()
        starts = tiled_inference.window_starts(max(window, -(-side // factor)), window, overlap)
        with open_tiff(raster) as file:
            for strip in tiled_inference.read_strips(
                lambda first, stop: file.read(first, stop)[0], (side, side), starts, window, factor
            ):
                assert len(strip) == window
        reading = time.monotonic() - begin
        writing = _write_again(written, Path(folder, "again.tif"))
        size = written.stat().st_size
    calls = len(starts) * -(-len(starts) // config.inference.batch_size)
    shape = (config.inference.batch_size, window, window, bands.num)
    in_model, cpu_in_model = (calls * taken for taken in _call_seconds(eval_step, variables, shape))
    return {
        "side": side,
        "megapixels_per_second": side**2 / 1e6 / seconds,
        "seconds": seconds,
        "model_seconds": in_model,
        "outside_share": 1 - in_model / seconds,
        "outside_cpu_share": 1 - cpu_in_model / cpu_seconds,
        "reading_seconds": reading,
        "writing_seconds": writing,
        "peak_bytes": peak,
        "map_bytes": size,
        "devices": parallel.describe(),
        "cores": os.cpu_count(),
    }


def _draw(path: Path, side: int, rows: int = 0) -> None:
    """A compressed GeoTIFF of random fields with noise, the same ones again and again."""
    rng, step = np.random.default_rng(0), 1024
    fields = rng.integers(20, 230, (3, step // 32, step // 32)).repeat(32, 1).repeat(32, 2)
    drawn = (fields + rng.integers(-8, 8, fields.shape)).astype(np.uint8)
    across = np.tile(drawn, (1, 1, -(-side // step)))[..., :side]
    rasterio = import_geo("rasterio")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": rows or side, "width": side}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10.0, 0.0, 3e5, 0.0, -10.0, 6e6)}
    with rasterio.open(path, "w", **profile, **place, bigtiff="if_safer") as file:
        for row in range(0, file.height, step):
            stop = min(row + step, file.height)
            file.write(across[:, : stop - row], window=((row, stop), (0, side)))


def _write_again(path: Path, to: Path) -> float:
    """Seconds that writing a map takes, and reading it, which is little."""
    begin = time.monotonic()
    with open_tiff(path) as file, map_files.map_file(to, file.frame, map_files.Content(["class"], DEEPGLOBE)) as write:
        for row in range(0, file.frame.height, map_files.BLOCK):
            rows, _ = file.read(row, min(row + map_files.BLOCK, file.frame.height))
            write(np.moveaxis(rows, -1, 0))
    return time.monotonic() - begin


def _call_seconds(eval_step: Any, variables: Any, shape: tuple[int, ...]) -> list[float]:
    """Seconds of the clock and of the processor that a call of the model takes, medians."""
    mapped, windows = parallel.map_eval_step(eval_step), parallel.shard_rows(np.zeros(shape, np.uint8))
    taken = []
    for _ in range(_CALLS + 2):
        begin, cpu_begin = time.monotonic(), time.process_time()
        jax.block_until_ready(mapped(variables, windows))
        taken.append((time.monotonic() - begin, time.process_time() - cpu_begin))
    return np.median(taken[2:], axis=0).tolist()

"""Rates, measured on this machine. Benchmarks state figures; no test depends on one."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from pcejax import input_pipeline, parallel, tile_cache, tiles
from pcejax.legend import IGNORE

_TILES, _SIDE = 8, 2448  # DeepGlobe's size


def measure_input(config: ml_collections.ConfigDict, num_steps: int) -> list[dict[str, Any]]:
    """Crops a second that reach the device, and bytes that cross to it in a step, in each mode of `data.tiles`.

    Random tiles of DeepGlobe's size at the scale of `config`, from a cache that is warm.
    """
    rng = np.random.default_rng(0)
    side = -(-_SIDE // tiles.reduction(config.data.scale))
    config.train.num_steps = 2 * num_steps
    rows = []

    def random_image() -> np.ndarray:
        return rng.integers(0, 256, (side, side, 3), np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        images = [tile_cache.mapped(Path(folder, f"{index}.npy"), random_image) for index in range(_TILES)]
        labels = [np.where(rng.random((side, side)) < 1e-3, 0, IGNORE).astype(np.uint8) for _ in images]
        ones = [np.ones(7, np.float32)] * _TILES
        names = [str(index) for index in range(_TILES)]
        tile_set = tiles.TileSet(names, images, labels, ones, [None] * _TILES, [()] * _TILES)
        for mode in ("device", "host"):
            config.data.tiles = mode
            cut = functools.partial(tiles.cut, size=config.data.crop) if mode == "device" else lambda batch, plan: batch
            mapped = jax.pmap(cut, axis_name=parallel.AXIS, in_axes=(None if mode == "device" else 0, 0))
            feed = input_pipeline.feed(config, tile_set, 0)
            for step, (source, plan) in enumerate(feed):
                jax.block_until_ready(mapped(source, plan))
                if step + 1 == num_steps:  # the first half warms up
                    start = time.monotonic()
            seconds = time.monotonic() - start
            crossing = plan.nbytes + (0 if mode == "device" else sum(part.nbytes for part in source))
            rows.append(
                {
                    "tiles": mode,
                    "crops_per_second": config.train.batch_size * num_steps / seconds,
                    "bytes_per_step": int(crossing),
                    "crop": config.data.crop,
                    "batch_size": config.train.batch_size,
                    "devices": parallel.describe(),
                    "cores": os.cpu_count(),
                }
            )
    return rows

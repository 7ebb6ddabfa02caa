"""Rates, measured on this machine. Benchmarks state figures; no test depends on one."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import augment, input_pipeline, models, optimizer, parallel, steps, terms, tile_cache, tiles
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.models import summary
from pcejax.train_state import state_shapes

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


def measure_model(config: ml_collections.ConfigDict, size: int) -> dict[str, Any]:
    """What the model of `config` costs in training, float32 and one crop of `size` pixels a device; nothing is run.

    The peak is the compiler's own figure for the whole training step on the device at hand: state, crop,
    activations and gradients that it keeps, and its scratch space. Resident tiles come on top.
    """
    config.model.dtype = "float32"
    num_logits, shape = DEEPGLOBE.num_classes - 1, (1, size, size, 3)
    model = models.create_model(config.model, num_logits)
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    train_step = steps.make_train_step(
        models.create_model(config.model, num_logits, axis_name=parallel.AXIS),
        tx,
        terms.make_terms(config.loss),
        lambda keys, image, label: augment.Views(image, label, image, image),
        class_names=DEEPGLOBE.names[:num_logits],
        cut=lambda batch, plan: batch,
        ema_decay=config.train.ema_decay,
    )
    state = state_shapes(model, tx, shape)
    batch, plan, knobs = jax.eval_shape(
        lambda: (
            tiles.Batch(
                jnp.zeros((1, *shape), jnp.uint8),
                jnp.zeros((1, *shape[:3]), jnp.uint8),
                jnp.ones((1, 1, DEEPGLOBE.num_classes)),
            ),
            jnp.zeros((1, 1, 4), jnp.int32),
            steps.Knobs(jax.random.key(0), jnp.ones(num_logits), jnp.array(terms.make_schedules(config.loss))),
        )
    )
    mapped: Any = parallel.map_train_step(train_step, resident=False)
    memory = mapped.lower(state, batch, plan, knobs).compile().memory_analysis()
    told = summary.model_summary(model, config.model, shape)
    return {
        "model": summary.describe(told),
        "parameters": told["parameters"],
        "gflops": told["gflops"],
        "receptive_field": told["receptive_field"],
        "size": size,
        # Donated arguments come back as outputs in the same place.
        "peak_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "devices": parallel.describe(),
    }

"""Rates, measured on this machine. Benchmarks state figures; no test depends on one."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from pcejax import (
    augment,
    faults,
    input_pipeline,
    losses,
    models,
    optimizer,
    parallel,
    regularizers,
    steps,
    terms,
    tile_cache,
    tiles,
    writers,
)
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.models import summary
from pcejax.train_state import create_train_state, state_shapes

_TILES, _SIDE = 8, 2448  # DeepGlobe's size
_LOGITS = DEEPGLOBE.num_known


def measure_input(config: ml_collections.ConfigDict, num_steps: int) -> list[dict[str, Any]]:
    """Crops a second that reach the device, and bytes that cross to it in a step, in each mode of `data.tiles`.

    Random tiles of DeepGlobe's size at the scale of `config`, from a cache that is warm.
    """
    config.train.num_steps = 2 * num_steps
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tile_set = random_tiles(config, Path(folder))
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


def random_tiles(config: ml_collections.ConfigDict, folder: Path) -> tiles.TileSet:
    """Tiles of DeepGlobe's size at the scale of `config`, a thousandth of their pixels labelled, cached in `folder`."""
    rng = np.random.default_rng(0)
    side = -(-_SIDE // tiles.reduction(config.data.scale))

    def random_image() -> np.ndarray:
        return rng.integers(0, 256, (side, side, 3), np.uint8)

    images = [tile_cache.mapped(folder / f"{index}.npy", random_image) for index in range(_TILES)]
    labels = [np.where(rng.random((side, side)) < 1e-3, 0, IGNORE).astype(np.uint8) for _ in images]
    names, ones = [str(index) for index in range(_TILES)], [np.ones(7, np.float32)] * _TILES
    return tiles.TileSet(names, images, labels, ones, [None] * _TILES, [()] * _TILES)


def measure_model(config: ml_collections.ConfigDict, size: int) -> dict[str, Any]:
    """What the model of `config` costs in training, float32 and one crop of `size` pixels a device; nothing is run.

    The peak is the compiler's own figure for the whole training step on the device at hand: state, crop,
    activations and gradients that it keeps, and its scratch space; without and with `model.remat`. Resident tiles come
    on top.
    """
    config.model.dtype = "float32"
    shape = (1, size, size, 3)
    peaks = []
    for remat in (False, True):
        config.model.remat = remat
        step, model, tx, make_arguments = step_of(config, 1, size)
        arguments = (state_shapes(model, tx, shape), *jax.eval_shape(make_arguments))
        peaks.append(_peak_bytes(step.lower(*arguments).compile()))
    told = summary.model_summary(model, config.model, shape)
    return {
        "model": summary.describe(told),
        "parameters": told["parameters"],
        "gflops": told["gflops"],
        "receptive_field": told["receptive_field"],
        "size": size,
        "peak_bytes": peaks[0],
        "peak_bytes_remat": peaks[1],
        "devices": parallel.describe(),
    }


def measure_losses(config: ml_collections.ConfigDict, num_steps: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of the training step with partial cross entropy alone, and with each term beside it.

    On random crops of `data.crop` pixels, `train.batch_size` of them a device, a thousandth of their pixels labelled;
    medians over `num_steps`. Then value and gradient of partial cross entropy alone for the same logits, and of gated
    CRF beside the way it is usually written, for those of one crop.
    """
    shape = (config.train.batch_size, config.data.crop, config.data.crop)
    compiled, states, others = {}, {}, {}
    for name in terms.TERMS:
        for other in terms.TERMS:
            config.loss[other].weight = float(other in (name, "partial_cross_entropy"))
        step, model, tx, make_arguments = step_of(config, *shape[:2])
        state = create_train_state(model, tx, jax.random.key(0), (1, *shape[1:], 3))
        batch, plan, knobs = make_arguments()
        states[name], knobs = parallel.replicate((state, knobs))
        rows_of = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), (batch, plan))
        others[name] = (*jax.tree.map(parallel.shard_rows, rows_of), knobs)
        compiled[name] = step.lower(states[name], *others[name]).compile()

    seconds: dict[str, list[float]] = {name: [] for name in terms.TERMS}
    for _ in range(num_steps + 1):  # the first warms up; round by round, so that a slow minute falls on all
        for name in terms.TERMS:
            start = time.monotonic()
            states[name], _ = jax.block_until_ready(compiled[name](states[name], *others[name]))
            seconds[name].append(time.monotonic() - start)
    median = {name: float(np.median(taken[1:])) for name, taken in seconds.items()}
    rows: list[dict[str, Any]] = [
        {
            "term": name,
            "step_seconds": median[name],
            "share_of_step": 1 - median["partial_cross_entropy"] / median[name],
            "peak_bytes": _peak_bytes(compiled[name]),
            "shape": [*shape, _LOGITS],
            "devices": parallel.describe(),
        }
        for name in terms.TERMS
    ]
    key = jax.random.key(0)
    logits, image = jax.random.normal(key, (*shape, _LOGITS)), jax.random.uniform(key, (*shape, 3))
    labels, label_mask = jnp.zeros(shape, jnp.uint8), image[..., 0] < 1e-3
    crf = {name: config.loss.gated_crf[name] for name in ("radius", "sigma_color", "sigma_position")}
    # Of one crop: the unfolded one keeps a window of each of its pixels.
    for name, function, arguments in (
        ("partial_cross_entropy alone", losses.partial_cross_entropy, (logits, labels, label_mask)),
        ("gated_crf alone", functools.partial(regularizers.gated_crf, **crf), (logits[:1], image[:1])),
        ("gated_crf alone, unfolded", functools.partial(gated_crf_unfolded, **crf), (logits[:1], image[:1])),
    ):
        graded = jax.jit(jax.value_and_grad(function, has_aux=True)).lower(*arguments).compile()
        taken = []
        for _ in range(num_steps + 1):
            start = time.monotonic()
            jax.block_until_ready(graded(*arguments))
            taken.append(time.monotonic() - start)
        row = {"term": name, "seconds": float(np.median(taken[1:])), "peak_bytes": _peak_bytes(graded)}
        rows.append(row | {"shape": [*arguments[0].shape]})
    return rows


def measure_restarts(num_steps: int) -> dict[str, list[dict[str, Any]]]:
    """Seconds that a run of configs/quickstart.py takes to its first step, and that saving takes of a step.

    Returns:
      "starts": from the command to the first step done, of a fresh run and of one that goes on from a checkpoint,
      without and with a warm `train.compilation_cache`; medians of three. "steps": mean of a step, of `num_steps` less
      the first two, where none and where each is saved; of the config's model and of one twice as wide.
    """
    starts, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _run_script(place, "prepare_data", "--dataset=synthetic_v1", "--data_dir=data")
        _run_train(place, "fill", 1, *_CACHE, until="train: steps 1/")
        for cache in ((), _CACHE):
            seconds: dict[str, list[float]] = {"fresh": [], "resumed": []}
            for index in range(3):
                name = f"start_{len(cache)}_{index}"
                seconds["fresh"].append(_run_train(place, name, 1, *cache, until="train: steps 1/"))
                _run_train(place, name, 1, *cache, until="train: steps 4/")  # two saves are whole by then
                seconds["resumed"].append(_run_train(place, name, 1, *cache, until="train: steps "))
            starts += [
                {"run": run, "compilation_cache": bool(cache), "seconds": float(np.median(taken))}
                for run, taken in seconds.items()
            ]
        for width in (16, 32):
            row: dict[str, Any] = {"width": width}
            for name, every in (("step_seconds", num_steps), ("saved_step_seconds", 1)):
                run, size = (
                    f"{name}_{width}",
                    (f"--config.model.width={width}", f"--config.train.num_steps={num_steps}"),
                )
                _run_train(place, run, every, *_CACHE, *size, until="report: ")
                rates = [record["steps_per_second"] for record in writers.read_lines(place / run / "timing.jsonl")]
                row[name] = float(np.mean(1 / np.array(rates[2:])))
            saved = (place / run / "checkpoints" / str(num_steps)).rglob("*")
            row["checkpoint_bytes"] = sum(path.stat().st_size for path in saved if path.is_file())
            rows.append(row | {"devices": parallel.describe(), "cores": os.cpu_count()})
    return {"starts": starts, "steps": rows}


_CACHE = ("--config.train.compilation_cache=compiled",)


def _run_train(place: Path, workdir: str, saved_every: int, *flags: str, until: str) -> float:
    """Seconds from the start of a training to the line that it prints; it is killed then."""
    return _run_script(
        place,
        "train",
        f"--config={faults.ROOT}/configs/quickstart.py",
        f"--workdir={workdir}",
        "--config.data.eval_split=",
        "--config.train.log_every_steps=1",
        f"--config.train.checkpoint_every_steps={saved_every}",
        *flags,
        until=until,
    )


def _run_script(place: Path, script: str, *flags: str, until: str = "prepared: ") -> float:
    start = time.monotonic()
    with faults.process(place, script, flags) as (process, told):
        while until not in told.read_text():
            if process.poll() not in (None, 0):
                raise RuntimeError(f"{script}.py ended with {process.poll()}; expected 0: {told.read_text()[-2000:]}")
            time.sleep(0.005)
        return time.monotonic() - start


def gated_crf_unfolded(
    logits: jax.Array, image: jax.Array, *, radius: int, sigma_color: float, sigma_position: float
) -> tuple[jax.Array, jax.Array]:
    """`regularizers.gated_crf` as it is usually written: a pixel's window in new axes, differentiated by JAX."""
    p = jax.nn.softmax(logits)
    _, height, width, _ = p.shape
    size = range(2 * radius + 1)

    def unfold(x: jax.Array) -> jax.Array:  # [B, H, W, K] -> [B, H, W, (2 radius + 1)^2, K]
        padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
        return jnp.stack([padded[:, r : r + height, c : c + width] for r in size for c in size], -2)

    rows, cols = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    position = jnp.broadcast_to(jnp.stack([rows, cols], -1) / sigma_position, (*p.shape[:-1], 2))
    features = jnp.concatenate([image / sigma_color, position], -1)
    inside = unfold(jnp.ones((*p.shape[:-1], 1)))[..., 0]
    distance = jnp.sum((unfold(features) - features[..., None, :]) ** 2, -1)
    kernel = (jnp.exp(-distance / 2) * inside).at[..., len(size) ** 2 // 2].set(0)
    return jnp.sum(kernel) - jnp.einsum("bhwk,bhwkc,bhwc->", kernel, unfold(p), p), jnp.float32(p[..., 0].size)


def step_of(
    config: ml_collections.ConfigDict, rows: int, size: int, *, resident: bool = False
) -> tuple[Any, nn.Module, optax.GradientTransformation, Callable[[], tuple[Any, ...]]]:
    """The mapped training step of `config`, its model and optimizer, and what makes its other arguments.

    These are `rows` random crops on each device, their plan, and the knobs. `resident`: the step takes tiles instead
    of crops, and cuts these by the plan.
    """
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    model = models.create_model(config.model, _LOGITS)
    step = steps.make_train_step(
        models.create_model(config.model, _LOGITS, axis_name=parallel.AXIS),
        tx,
        terms.make_terms(config.loss),
        lambda keys, image, label: augment.Views(image, label, image, image),
        class_names=DEEPGLOBE.names[:_LOGITS],
        cut=functools.partial(tiles.cut, size=config.data.crop) if resident else lambda batch, plan: batch,
        ema_decay=config.train.ema_decay,
    )

    def make_arguments() -> tuple[Any, ...]:
        key, devices = jax.random.key(0), jax.local_device_count()
        shape = (devices, rows, size, size)
        image = jax.random.randint(key, (*shape, 3), 0, 256).astype(jnp.uint8)
        label = jnp.where(jax.random.uniform(key, shape) < 1e-3, 0, IGNORE).astype(jnp.uint8)
        batch = tiles.Batch(image, label, jnp.ones((devices, rows, DEEPGLOBE.num_classes)))
        plan = jax.random.randint(key, (devices, rows, 4), 0, 2**30)
        knobs = steps.Knobs(jax.random.key_data(key), jnp.ones(_LOGITS), jnp.array(terms.make_schedules(config.loss)))
        return batch, plan, knobs

    return parallel.map_train_step(step, resident=resident), model, tx, make_arguments


def _peak_bytes(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    # Donated arguments come back as outputs in the same place.
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(kept + memory.temp_size_in_bytes)

"""The training loop and nothing else."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from clu import parameter_overview

from pcejax import (
    augment,
    cached_features,
    datasets,
    evaluate,
    input_pipeline,
    interrupts,
    metrics,
    models,
    optimizer,
    parallel,
    runs,
    steps,
    taught,
    terms,
    tiled_inference,
    tiles,
    trained,
    training_log,
    writers,
)
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.label_options import describe, label_options
from pcejax.models import pretrained, summary
from pcejax.train_state import TrainState, create_train_state, state_shapes

_DECODING_EVERY = 5.0  # seconds between lines of progress


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the run that `config` describes in `workdir`, going on from its newest checkpoint, and scores it.

    Resuming, in this order:
      1. the workdir's config must be this one;
      2. tiles are decoded and points drawn again, a pure function of config and dataset;
      3. the newest checkpoint that is whole must have been taught by the same labels; its state is restored, and what
         was measured since its last record;
      4. records of later steps are dropped, and the plan starts at the state's step.

    Returns:
      The scores of `config.data.eval_split`, as `evaluate.score_split` gives them; {} where it is "": a
      dataset of points alone has no mask to score.

    Raises:
      UserError: config, dataset and workdir do not fit, or a loss is not finite.
      Interrupted: a signal asked the run to stop; what it had done is saved.
    """
    _check(config)
    runs.check_config(workdir, config)
    result = _finished(config, workdir)
    parallel.check_same(f"{config.to_json()} {result is None}", "the config, or whether the run is done,")
    if result is not None:
        scored = " and scored" if result else ""
        print(f"{workdir}: done already, {config.train.num_steps} steps trained{scored}", flush=True)
        return result
    if config.train.compilation_cache:
        parallel.cache_compilations(config.train.compilation_cache)
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend = datasets.legend_of(builder)
    num_logits = trained.num_logits(config, legend)
    model = models.create_model(config.model, num_logits, axis_name=parallel.AXIS)
    eval_model = models.create_model(config.model, num_logits)
    bands = datasets.bands_of(builder)
    image_shape = (1, config.data.crop, config.data.crop, bands.num)
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    # Weights that cannot be had end the run before it decodes tiles; a run that goes on has them in its checkpoint.
    fresh = _latest_step(workdir) is None
    initial = initial_variables(config, state_shapes(eval_model, tx, image_shape), bands) if fresh else {}
    map_rows = tiled_inference.make_mapper(steps.make_eval_step(eval_model, bands), config, metres=bands.metres)
    map_image = functools.partial(tiled_inference.map_image, map_rows)
    eval_tiles = tiles.read(builder, config.data.eval_split) if config.data.eval_split else []
    eval_tile_ids = [tile.tile_id for tile in eval_tiles]
    tile_set = tiles.load(config, _print_progress("decode"))
    seen_config = cached_features.of_pixels(config) if config.data.cached_views else config
    input_pipeline.check(seen_config, tile_set)
    about = taught.about_run(config, tile_set, legend, bands)
    evaluate.protocol(config, about, eval_tile_ids, config.data.eval_split)  # a mixed split ends the run here
    model_summary = summary.model_summary(eval_model, config.model, image_shape)
    runs.open_workdir(workdir, config, model_summary)

    key = jax.random.key(config.seed)
    state = create_train_state(eval_model, tx, key, image_shape, initial)
    keep, keep_every_steps = config.train.keep_checkpoints, config.train.keep_every_steps
    with Checkpoints(workdir, keep=keep, keep_every_steps=keep_every_steps) as checkpoints:
        unlogged: list[metrics.StepMetrics] = []
        if checkpoints.latest_step() is not None:
            taught.check_labels(checkpoints.about(), about, workdir)
            state, unlogged = checkpoints.restore(state), list(map(metrics.from_json, checkpoints.unlogged()))
            print(f"resumed at step {int(state.step)} of {config.train.num_steps}", flush=True)
            _print_changed_devices(checkpoints.about())
        else:
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False), flush=True)
        step = first_step = int(state.step)
        parallel.check_same(f"{about['labels_hash']} {step}", "the labels, or the checkpoint,")
        checkpoints.discard_after(step)
        print(f"model: {summary.describe(model_summary)}", flush=True)
        _print_start(config, tile_set, about)

        seen_tiles = tile_set
        seen_bands: datasets.Bands | None = bands
        augmented: Callable[..., augment.Views] = functools.partial(augment.augment, **config.augment)
        if config.data.cached_views:
            seen_tiles, levels = cached_features.compute(
                config, tile_set, eval_model, state.ema_variables(), bands, _print_progress("encode")
            )
            model = models.create_model(config.model, num_logits, axis_name=parallel.AXIS, cached=levels)
            seen_bands, augmented = None, cached_features.as_they_are
        resident = config.data.tiles == "device"
        train_step = parallel.map_train_step(
            steps.make_train_step(
                model,
                tx,
                terms.make_terms(config.loss),
                augmented,
                class_names=legend.names[:num_logits],
                cut=functools.partial(tiles.cut, size=seen_config.data.crop) if resident else lambda batch, plan: batch,
                ema_decay=config.train.ema_decay,
                balance_crops=config.loss.balance_crops,
                accumulation=config.train.accumulation,
                bands=seen_bands,
            ),
            resident=resident,
        )
        log = training_log.TrainingLog(seen_config, workdir, seen_tiles, first_step, unlogged)
        due = _Due(config)
        state = parallel.replicate(state)
        class_weights = jnp.array(list(about["class_weights"].values()))
        schedules = jnp.array(terms.make_schedules(config.loss))
        knobs = parallel.replicate(steps.Knobs(jax.random.key_data(key), class_weights, schedules))

        def so_far() -> trained.Trained:
            return trained.Trained(config, legend, bands, about, step, state.ema_variables(), map_rows, map_image)

        def score(model: trained.Trained) -> dict[str, Any]:
            return evaluate.score_split(model, builder, config.data.eval_split, workdir)

        # Nothing crosses between host and device in the loop but what says so: the plan in, metrics out.
        with interrupts.deferred() as interrupted, jax.transfer_guard("disallow"):
            for source, plan in input_pipeline.feed(seen_config, seen_tiles, first_step):
                state, step_metrics = train_step(state, source, plan, knobs)
                step += 1
                log.add(step, step_metrics)
                # Several processes agree where they wait for the devices anyway.
                agreeing = jax.process_count() == 1 or step % config.train.log_every_steps == 0
                last, stop = step == config.train.num_steps, agreeing and parallel.any_process(interrupted())
                if config.train.eval_every_steps and step % config.train.eval_every_steps == 0 and not last:
                    log.scalars(step, {"miou": score(so_far())["miou"]})
                    every = config.train.pictures_every_evaluations * config.train.eval_every_steps
                    if every and step % every == 0:
                        log.pictures(step, runs.pictures_folder(workdir, config.data.eval_split))
                # After all records of the step: a run that goes on from here has them.
                if last or stop or due.save(step):
                    checkpoints.save(state, about | {"devices": parallel.describe()}, log.unlogged())
                if stop and not last:
                    break
        log.close()
    if step < config.train.num_steps:
        parallel.leave()
        raise interrupts.Interrupted(f"by {interrupts.name()} at step {step}, which is saved")
    # The last checkpoint is on disk: scores of the last step mean that nothing is left to do.
    calibrated = evaluate.calibrate(so_far(), builder, workdir)
    return score(calibrated) if config.data.eval_split else {}


class _Due:
    """When a checkpoint is due: by steps, and by minutes since the one before."""

    def __init__(self, config: ml_collections.ConfigDict):
        self._every_steps = config.train.checkpoint_every_steps
        self._every_seconds = 60 * config.train.checkpoint_every_minutes or math.inf
        self._saved = time.monotonic()

    def save(self, step: int) -> bool:
        due = step % self._every_steps == 0 or time.monotonic() - self._saved > self._every_seconds
        if due:
            self._saved = time.monotonic()
        return due


def initial_variables(config: ml_collections.ConfigDict, shapes: TrainState, bands: datasets.Bands) -> dict[str, Any]:
    """What a fresh run starts from instead of random variables: another run's, or pretrained ones; {} for none.

    Raises:
      UserError: they cannot be had.
    """
    if config.init_from:
        return trained.variables_for(Path(config.init_from), shapes)
    initial = pretrained.variables(config.model, bands.num)
    if initial:
        print(f"encoder: {pretrained.describe(config.model)}", flush=True)
    return initial


def _finished(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The scores of a run that has nothing left to do, {} where none are asked for; None of any other run."""
    if not config.data.eval_split:
        calibrated = runs.calibration_path(workdir)
        done = not config.points.held_out or (
            calibrated.exists() and json.loads(calibrated.read_text())["step"] == config.train.num_steps
        )
        return {} if done and _latest_step(workdir) == config.train.num_steps else None
    path = runs.evaluation_path(workdir, config.data.eval_split)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    return result if result["step"] == config.train.num_steps else None


def _latest_step(workdir: Path) -> int | None:
    if not (workdir / "checkpoints").exists():  # to ask makes the folder
        return None
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest_step()


def _check(config: ml_collections.ConfigDict) -> None:
    rows = parallel.rows_per_device(config.train.batch_size, "train.batch_size")
    if config.train.accumulation < 1 or rows % config.train.accumulation:
        raise UserError(
            f"train.accumulation={config.train.accumulation}; expected a divisor of {rows}, the crops of a step that "
            "each device takes"
        )
    label_options(config.points)
    terms.make_terms(config.loss)
    if config.data.cached_views:
        cached_features.check(config)
    if config.loss.unknown_class_cross_entropy.weight and not config.train_unknown:
        raise UserError(
            "loss.unknown_class_cross_entropy takes unlabelled pixels as the unknown class, which has no logit; set "
            "train_unknown=True"
        )
    for field, least in (
        ("num_steps", 1),
        ("log_every_steps", 1),
        ("checkpoint_every_steps", 1),
        ("eval_every_steps", 0),
        ("checkpoint_every_minutes", 0),
        ("keep_checkpoints", 1),
        ("keep_every_steps", 0),
        ("pictures_every_evaluations", 0),
        ("max_skipped_steps", 0),
    ):
        if config.train[field] < least:
            raise UserError(f"train.{field}={config.train[field]}; expected {least} or more")
    if config.train.eval_every_steps and not config.data.eval_split:
        raise UserError(
            f"train.eval_every_steps={config.train.eval_every_steps} with data.eval_split=''; expected a split to "
            "score; name one, or set train.eval_every_steps to 0"
        )
    start, *stop = config.train.profile_steps or (2, 2)
    if len(stop) != 1 or not 2 <= start <= stop[0]:
        raise UserError(
            f"train.profile_steps={config.train.profile_steps}; expected (first, last), after step 1, which compiles; "
            "or () for none"
        )


def _print_progress(what: str) -> Callable[[int, int], None]:
    progress, last = None, time.monotonic()

    def on_tile(done: int, total: int) -> None:
        nonlocal progress, last
        progress = progress or writers.Progress(total)
        if done == total or time.monotonic() - last > _DECODING_EVERY:
            last = time.monotonic()
            print(f"{what}: tiles {progress.line(done)}", flush=True)

    return on_tile


def _print_changed_devices(old: dict[str, Any]) -> None:
    if old["devices"] != parallel.describe():
        print(
            f"devices: {old['devices']} before, {parallel.describe()} now: the run goes on, and is no longer bit for "
            "bit the one that nothing cut",
            flush=True,
        )


def _print_start(config: ml_collections.ConfigDict, tile_set: tiles.TileSet, about: dict[str, Any]) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in about["label_counts"].items() if count)
    unlabelled = len(tile_set.images) - len(tile_set.tile_ids)
    images = f"{len(tile_set.tile_ids)} labelled{f' and {unlabelled} unlabelled' if unlabelled else ''}"
    megabytes = sum(image.nbytes for image in tile_set.images) / 1e6
    per_device, accumulation = config.train.batch_size // jax.device_count(), config.train.accumulation
    rows = "labelled pixels" if config.data.cached_views else "crops"
    place = "on each device" if config.data.tiles == "device" else "on the host"
    print(
        f"devices: {parallel.describe()}; a step has {config.train.batch_size} {rows}, {per_device} on each device"
        f"{f', in {accumulation} micro-batches' if accumulation > 1 else ''}\n"
        f"tiles: {images}, {megabytes:.0f} MB of images {place}\n"
        f"labels: {describe(label_options(config.points))}: {about['labelled_share']:.6%} of the pixels: {counts}",
        flush=True,
    )
    if about["underfull"]:
        short = ", ".join(f"{name} on {count}" for name, count in about["underfull"].items())
        print(f"labels: fewer points than the budget, on so many tiles: {short}", flush=True)

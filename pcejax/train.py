"""The training loop and nothing else."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from clu import parameter_overview

from pcejax import (
    augment,
    datasets,
    evaluate,
    input_pipeline,
    losses,
    metrics,
    models,
    optimizer,
    parallel,
    runs,
    steps,
    terms,
    tiled_inference,
    tiles,
    trained,
    writers,
)
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.label_options import describe, label_options
from pcejax.legend import IGNORE, Legend
from pcejax.models import pretrained, summary
from pcejax.train_state import create_train_state

_DECODING_EVERY = 5.0  # seconds between lines of progress


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the run that `config` describes in `workdir`, going on from its newest checkpoint, and scores it.

    Resuming, in this order:
      1. the workdir's config must be this one;
      2. tiles are decoded and points drawn again, a pure function of config and dataset;
      3. the newest checkpoint must have been taught by the same labels; its state is restored;
      4. records of later steps are dropped, and the plan starts at the state's step.

    Returns:
      The scores of `config.data.eval_split`, as `evaluate.score_split` gives them; {} where it is "": a
      dataset of points alone has no mask to score.

    Raises:
      UserError: config, dataset and workdir do not fit, or the loss is not finite.
    """
    _check(config)
    runs.check_config(workdir, config)
    result = _finished(config, workdir)
    if result is not None:
        scored = " and scored" if result else ""
        print(f"{workdir}: done already, {config.train.num_steps} steps trained{scored}", flush=True)
        return result
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend = datasets.legend_of(builder)
    num_logits = trained.num_logits(config, legend)
    model = models.create_model(config.model, num_logits, axis_name=parallel.AXIS)
    eval_model = models.create_model(config.model, num_logits)
    bands = datasets.bands_of(builder)
    # Weights that cannot be had end the run before it decodes tiles; a run that goes on has them in its checkpoint.
    initial = pretrained.variables(config.model, bands.num) if _latest_step(workdir) is None else {}
    map_image = tiled_inference.make_mapper(steps.make_eval_step(eval_model, bands), config)
    eval_tiles = tiles.read(builder, config.data.eval_split) if config.data.eval_split else []
    eval_tile_ids = [tile.tile_id for tile in eval_tiles]
    tile_set = tiles.load(config, _print_decoding())
    input_pipeline.check(config, tile_set)
    about = about_run(tile_set, legend, bands)
    about["class_weights"] = _class_weights(config, legend.names[:num_logits], about["label_counts"])
    evaluate.protocol(config, about, eval_tile_ids, config.data.eval_split)  # a mixed split ends the run here
    image_shape = (1, config.data.crop, config.data.crop, bands.num)
    model_summary = summary.model_summary(eval_model, config.model, image_shape)
    runs.open_workdir(workdir, config, model_summary)

    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    key = jax.random.key(config.seed)
    state = create_train_state(eval_model, tx, key, image_shape, initial)
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            _check_labels(checkpoints.about(), about, workdir)
            state = checkpoints.restore(state)
            print(f"resumed at step {int(state.step)} of {config.train.num_steps}", flush=True)
        else:
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False), flush=True)
            if initial:
                print(f"encoder: {pretrained.describe(config.model)}", flush=True)
        step = first_step = int(state.step)
        print(f"model: {summary.describe(model_summary)}", flush=True)
        _print_start(config, tile_set, about)

        resident = config.data.tiles == "device"
        train_step = parallel.map_train_step(
            steps.make_train_step(
                model,
                tx,
                terms.make_terms(config.loss),
                functools.partial(augment.augment, **config.augment),
                class_names=legend.names[:num_logits],
                cut=functools.partial(tiles.cut, size=config.data.crop) if resident else lambda batch, plan: batch,
                ema_decay=config.train.ema_decay,
                balance_crops=config.loss.balance_crops,
                bands=bands,
            ),
            resident=resident,
        )
        schedule = optimizer.make_schedule(config.optimizer, config.train.num_steps)
        writer = writers.Writer(workdir, first_step)
        state = parallel.replicate(state)
        knobs = parallel.replicate(
            steps.Knobs(
                key, jnp.array(list(about["class_weights"].values())), jnp.array(terms.make_schedules(config.loss))
            )
        )

        def score(state: Any) -> dict[str, Any]:
            model = trained.Trained(config, legend, bands, about, step, state.ema_variables(), map_image)
            return evaluate.score_split(model, builder, config.data.eval_split, workdir)

        progress, measured, logged = writers.Progress(config.train.num_steps, step), [], (step, time.monotonic())
        # Nothing crosses between host and device in the loop but what says so: the plan in, metrics out.
        with jax.transfer_guard("disallow"):
            for source, plan in input_pipeline.feed(config, tile_set, first_step):
                state, step_metrics = train_step(state, source, plan, knobs)
                measured.append(step_metrics)
                step += 1
                last = step == config.train.num_steps
                if step % config.train.log_every_steps == 0 or last:
                    values = metrics.compute(parallel.to_host(measured))
                    measured = []
                    if not all(math.isfinite(value) for value in values.values()):
                        raise UserError(
                            f"steps {logged[0] + 1} to {step}: not finite: {values}; the checkpoint before is kept; "
                            "lower optimizer.learning_rate, or raise optimizer.warmup_steps"
                        )
                    now = time.monotonic()
                    timing = {"steps_per_second": (step - logged[0]) / (now - logged[1])}
                    logged = (step, now)
                    with jax.transfer_guard("allow"):
                        values["learning_rate"] = float(schedule(step - 1))
                    writer.scalars(step, values, timing)
                    print(
                        f"train: steps {progress.line(step)}, loss {values['loss']:.4f}, "
                        f"accuracy at labels {values['accuracy']:.3f}",
                        flush=True,
                    )
                if config.train.eval_every_steps and step % config.train.eval_every_steps == 0 and not last:
                    writer.scalars(step, {"miou": score(state)["miou"]}, {})
                # After all records of the step: a run that goes on from here has them.
                if step % config.train.checkpoint_every_steps == 0 or last:
                    checkpoints.save(state, about)
    writer.close()
    # The last checkpoint is on disk: scores of the last step mean that nothing is left to do.
    return score(state) if config.data.eval_split else {}


def about_run(tile_set: tiles.TileSet, legend: Legend, bands: datasets.Bands) -> dict[str, Any]:
    """What a checkpoint tells of the run's labels, as JSON types.

    label_counts: labelled pixels at the training scale, by class; labels_per_tile: on the tile with the
    fewest and with the most; labelled_share: of all pixels of the tiles. point_counts: points by the class
    that they got, empty where none were clicked. underfull: by class, the tiles on which the class,
    or one of its components, got fewer points than the budget.
    """
    per_tile = [np.bincount(label.reshape(-1), minlength=IGNORE + 1) for label in tile_set.labels]
    counts = np.sum(per_tile, axis=0)
    labelled = [int(tile[:IGNORE].sum()) for tile in per_tile]
    clicked = np.concatenate([*(p.class_id for p in tile_set.points if p is not None), np.zeros(0, int)])
    point_counts = np.bincount(clicked, minlength=legend.num_classes)
    short = np.bincount(np.concatenate([*tile_set.underfull, []]).astype(int), minlength=legend.num_classes)
    return {
        "legend": legend.to_dict(),
        "bands": bands._asdict(),
        "labels_hash": tile_set.hash(),
        "tile_ids": tile_set.tile_ids,
        "label_counts": {name: int(counts[class_id]) for class_id, name in enumerate(legend.names)},
        "labels_per_tile": [min(labelled), max(labelled)],
        "labelled_share": float(counts[:IGNORE].sum() / counts.sum()),
        "point_counts": {name: int(n) for name, n in zip(legend.names, point_counts, strict=True) if n},
        "underfull": {name: int(n) for name, n in zip(legend.names, short, strict=True) if n},
    }


def _finished(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The scores of a run that has nothing left to do, {} where none are asked for; None of any other run."""
    if not config.data.eval_split:
        return {} if _latest_step(workdir) == config.train.num_steps else None
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
    parallel.rows_per_device(config.train.batch_size, "train.batch_size")
    label_options(config.points)
    terms.make_terms(config.loss)
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
    ):
        if config.train[field] < least:
            raise UserError(f"train.{field}={config.train[field]}; expected {least} or more")
    if config.train.eval_every_steps and not config.data.eval_split:
        raise UserError(
            f"train.eval_every_steps={config.train.eval_every_steps} with data.eval_split=''; expected a split to "
            "score; name one, or set train.eval_every_steps to 0"
        )
    if config.train.checkpoint_every_steps % config.train.log_every_steps:
        raise UserError(
            f"train.checkpoint_every_steps={config.train.checkpoint_every_steps}; expected a multiple of "
            f"train.log_every_steps={config.train.log_every_steps}, so that a run that was cut logs what one that was "
            "not logs"
        )


def _check_labels(old: dict[str, Any], new: dict[str, Any], workdir: Path) -> None:
    if old["labels_hash"] != new["labels_hash"]:
        raise UserError(
            f"{workdir}: the checkpoint was taught by other labels ({old['label_counts']}) than config and dataset "
            f"give now ({new['label_counts']}); was the dataset prepared anew? restore it, or take another --workdir"
        )


def _class_weights(
    config: ml_collections.ConfigDict, names: Sequence[str], label_counts: dict[str, int]
) -> dict[str, float]:
    """The weight of each class that has a logit: from the config, or from the counts of the labels that teach."""
    loss = config.loss
    if loss.effective_number_beta:
        if loss.class_weights:
            raise UserError("loss.class_weights and loss.effective_number_beta are both set; expected one of them")
        counts = np.array([label_counts[name] for name in names])
        return dict(
            zip(names, losses.effective_number_weights(counts, loss.effective_number_beta).tolist(), strict=True)
        )
    weights = loss.class_weights or (1.0,) * len(names)
    if len(weights) != len(names):
        raise UserError(f"loss.class_weights has {len(weights)} values; expected {len(names)}, one for each logit")
    return dict(zip(names, map(float, weights), strict=True))


def _print_decoding() -> Callable[[int, int], None]:
    progress, last = None, time.monotonic()

    def on_tile(done: int, total: int) -> None:
        nonlocal progress, last
        progress = progress or writers.Progress(total)
        if done == total or time.monotonic() - last > _DECODING_EVERY:
            last = time.monotonic()
            print(f"decode: tiles {progress.line(done)}", flush=True)

    return on_tile


def _print_start(config: ml_collections.ConfigDict, tile_set: tiles.TileSet, about: dict[str, Any]) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in about["label_counts"].items() if count)
    unlabelled = len(tile_set.images) - len(tile_set.tile_ids)
    images = f"{len(tile_set.tile_ids)} labelled{f' and {unlabelled} unlabelled' if unlabelled else ''}"
    megabytes = sum(image.nbytes for image in tile_set.images) / 1e6
    place = "on each device" if config.data.tiles == "device" else "on the host"
    print(
        f"devices: {parallel.describe()}, {config.train.batch_size // jax.device_count()} crops each a step\n"
        f"tiles: {images}, {megabytes:.0f} MB of images {place}\n"
        f"labels: {describe(label_options(config.points))}: {about['labelled_share']:.6%} of the pixels: {counts}",
        flush=True,
    )
    if about["underfull"]:
        short = ", ".join(f"{name} on {count}" for name, count in about["underfull"].items())
        print(f"labels: fewer points than the budget, on so many tiles: {short}", flush=True)

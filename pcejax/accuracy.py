"""The scores of a run beside a peer's: the same run with the plain form of each op, or trained by PyTorch.

Each side is trained in a process of its own (`accuracy_run.py`, `torch_training.py`), one after the other. What
PyTorch learnt is scored by our evaluation: the nets are equal, as `peers.py` shows.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pcejax import (
    augment,
    datasets,
    input_pipeline,
    models,
    optimizer,
    parallel,
    peers,
    runs,
    steps,
    taught,
    terms,
    tiles,
    train,
    trained,
    writers,
)
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.jax_peer import flat
from pcejax.legend import IGNORE
from pcejax.train_state import TrainState, create_train_state, state_shapes

PEERS = ("plain", "torch")

_PROGRESS_EVERY = 5.0  # seconds
_FIELDS = peers.MODEL_FIELDS | {
    "train.accumulation": (1,),
    "data.cached_views": (0,),
    "loss.partial_cross_entropy.weight": (1.0,),
    "loss.partial_cross_entropy.start": (0,),
    "loss.partial_cross_entropy.warmup_steps": (0,),
    "loss.partial_cross_entropy.label_smoothing": (0.0,),
    "loss.partial_cross_entropy.focal_gamma": (0.0,),
    "loss.partial_cross_entropy.weighted_mean": (True,),
    **{f"loss.{name}.weight": (0.0,) for name in terms.TERMS if name != "partial_cross_entropy"},
}


def measure(
    config: ml_collections.ConfigDict,
    against: str,
    seeds: Sequence[int],
    on_seed: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Trains the run of each seed on both sides and scores both on `data.eval_split`.

    Args:
      config: the run's; the seed's place is `seed`, so labels and tiles are the same for all.
      against: of `PEERS`.
      seeds: one or more.
      on_seed: called with what is known after each seed.

    Returns:
      "rows", one a seed: "seed", and of "ours" and "theirs" the miou, the seconds of training with its start, and the
      median seconds of a step; "ours" and "theirs", mean and SD of their mIoU over the seeds; "difference", ours minus
      theirs, by seed; "split", "protocol", "against".

    Raises:
      UserError: the config has what PyTorch's side lacks, torch is missing, or a side ended by an error.
    """
    _check(config, against, seeds)
    jax.config.update("jax_platforms", "cpu")  # the sides need the accelerator for themselves
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            of_seed = config.copy_and_resolve_references()
            with of_seed.unlocked():
                of_seed.seed = seed
            told = f"seed {seed}, "
            print(f"{told}ours:", flush=True)
            ours, scores = _run(of_seed, "train", Path(folder) / f"{seed}_ours", f"{told}ours")
            print(f"{told}{against}:", flush=True)
            workdir = Path(folder) / f"{seed}_{against}"
            if against == "plain":
                theirs, _ = _run(of_seed, "plain", workdir, f"{told}plain")
            else:
                theirs = run_torch(of_seed, workdir, f"{told}torch")
            rows.append({"seed": seed, "ours": ours, "theirs": theirs})
            about = {"split": scores["split"], "protocol": scores["protocol"], "against": against}
            result = about | _summary(rows) | {"rows": [*rows], "config": json.loads(config.to_json())}
            on_seed(result)
    return result


def describe(result: dict[str, Any]) -> str:
    """What `measure` returned, as lines."""
    against = result["against"]
    lines = [f"{result['split']} ({result['protocol']})", f"{'seed':>6} {'ours':>8} {against:>8} {'apart':>8}"]

    def line(name: Any, ours: float, theirs: float, apart: float) -> str:
        return f"{name:>6} {ours:8.4f} {theirs:8.4f} {apart:+8.4f}"

    for row, apart in zip(result["rows"], result["difference"]["by_seed"], strict=True):
        lines.append(line(row["seed"], row["ours"]["miou"], row["theirs"]["miou"], apart))
    sides = [result[name] for name in ("ours", "theirs", "difference")]
    lines.append(line("mean", *(side["mean"] for side in sides)))
    if len(result["rows"]) > 1:
        lines.append(f"{'SD':>6} " + " ".join(f"{side['sd']:8.4f}" for side in sides))
    for name, label in (("ours", "ours"), ("theirs", against)):
        seconds, step = (np.mean([row[name][key] for row in result["rows"]]) for key in ("seconds", "step_seconds"))
        lines.append(f"{label}: trained in {writers.format_duration(float(seconds))}, {1e3 * step:.0f} ms a step")
    return "\n".join(lines)


def _check(config: ml_collections.ConfigDict, against: str, seeds: Sequence[int]) -> None:
    if against not in PEERS:
        raise UserError(f"--against={against!r}; expected one of {list(PEERS)}")
    if not seeds or len({*seeds}) < len(seeds):
        raise UserError(f"--seeds={','.join(map(str, seeds))}; expected one or more, each once")
    if not config.data.eval_split:
        raise UserError("data.eval_split=''; expected a split, which both sides are scored on")
    if against == "torch":
        check_torch(config)


def check_torch(config: ml_collections.ConfigDict) -> None:
    """Checks that PyTorch can train the run of `config`.

    Raises:
      UserError: it lacks what the config has, or torch is not installed.
    """
    peers.check_fields(config, _FIELDS)
    if not peers.has_torch():
        raise UserError("torch is not installed; pip install .[bench]")


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ours, theirs = (np.array([row[name]["miou"] for row in rows]) for name in ("ours", "theirs"))

    def spread(values: np.ndarray) -> dict[str, Any]:
        return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None}

    by_seed = ours - theirs
    return {
        "ours": spread(ours),
        "theirs": spread(theirs),
        "difference": spread(by_seed) | {"by_seed": by_seed.tolist()},
    }


def _run(config: ml_collections.ConfigDict, do: str, workdir: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `measure` tells of a side that we train, and all of its scores; see `accuracy_run.main`."""
    start = time.monotonic()
    path = workdir.with_suffix(".json")
    path.write_text(config.to_json())
    ended = subprocess.run([sys.executable, "-m", "pcejax.accuracy_run", do, str(workdir), str(path)], check=False)
    if ended.returncode:
        raise UserError(f"{name}: the process ended with {ended.returncode}; its error is above; mend that first")
    scores = json.loads(runs.evaluation_path(workdir, config.data.eval_split).read_text())
    rates = [record["steps_per_second"] for record in writers.read_lines(workdir / "timing.jsonl")]
    told = {
        "miou": scores["miou"],
        "seconds": time.monotonic() - start - scores["seconds"],
        "step_seconds": float(1 / np.median(rates)) if rates else None,
    }
    return told, scores


def run_torch(config: ml_collections.ConfigDict, workdir: Path, name: str) -> dict[str, Any]:
    """What `measure` tells of PyTorch's side, whose run is then in `workdir` as if we had trained it.

    A run that was cut after its training is only scored, and nothing is told of seconds.

    Raises:
      UserError: the workdir holds another run, crops do not fit the tiles, or PyTorch's process, or the one that scores
        what it learnt, ended by an error.
    """
    runs.check_config(workdir, config)
    with Checkpoints(workdir) as checkpoints:
        told = {}
        if checkpoints.latest_step() is None:
            checkpoints.discard_after(0)  # what a save that was cut left
            told = _save_torch(config, workdir, checkpoints, name)
    return told | {"miou": _run(config, "score", workdir, f"{name}, scored")[0]["miou"]}


def _save_torch(
    config: ml_collections.ConfigDict, workdir: Path, checkpoints: Checkpoints, name: str
) -> dict[str, Any]:
    """Trains and saves; gives what is known of the seconds."""
    start = time.monotonic()
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    legend, bands = datasets.legend_of(builder), datasets.bands_of(builder)
    tile_set = tiles.load(config)
    input_pipeline.check(config, tile_set)
    about = taught.about_run(config, tile_set, legend, bands)
    state = initial_state(config, trained.num_logits(config, legend), bands)
    arrays, told = train_in_torch(state, config, crops(config, tile_set, about, bands), bands.num, name)
    told["seconds"] = time.monotonic() - start
    runs.open_workdir(workdir, config, {})
    checkpoints.save(learnt(state, arrays, config), about | {"devices": told["device"]}, [])
    del told["loss"]
    return told


def initial_state(config: ml_collections.ConfigDict, num_logits: int, bands: datasets.Bands) -> TrainState:
    """The state that the run of `config` starts with."""
    model = models.create_model(config.model, num_logits)
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    shape = (1, config.data.crop, config.data.crop, bands.num)
    initial = train.initial_variables(config, state_shapes(model, tx, shape), bands)
    return create_train_state(model, tx, jax.random.key(config.seed), shape, initial)


def crops(
    config: ml_collections.ConfigDict, tile_set: tiles.TileSet, about: dict[str, Any], bands: datasets.Bands
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What each step of the run learns from: crops as augmented, labels, and weights; see `torch_training.train`."""
    class_weights = jnp.array(list(about["class_weights"].values()))
    augmented = functools.partial(augment.augment, **config.augment)
    see = steps.make_see(
        augmented, num_classes=len(class_weights), balance_crops=config.loss.balance_crops, bands=bands
    )
    key_data = jax.random.key_data(jax.random.key(config.seed))

    @jax.jit
    def seen(batch: tiles.Batch, plan: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        rows, _ = see(batch, plan, key_data)
        known = jnp.where(rows["labels"] == IGNORE, 0, rows["labels"])
        return rows["view"], rows["labels"], rows["label_mask"] * class_weights[known]

    for plan, batch in input_pipeline.batches(config, tile_set, 0):
        image, label, weight = seen(batch, plan)
        yield np.asarray(image, np.float32), np.asarray(label), np.asarray(weight, np.float32)


def train_in_torch(
    state: TrainState,
    config: ml_collections.ConfigDict,
    batches: Iterator[tuple[np.ndarray, ...]],
    num_bands: int,
    name: str,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains from `state` in a process of its own, and gives what `torch_training.main` does.

    Raises:
      UserError: the process ended by an error.
    """
    num_steps, side = config.train.num_steps, config.data.crop
    schedule = optimizer.make_schedule(config.optimizer, num_steps)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = {key: str(folder / f"{key}.npz") for key in ("weights", "statistics", "state")}
        for key, tree in (("weights", state.params), ("statistics", state.batch_stats)):
            np.savez(files[key], allow_pickle=False, **flat(tree))
        spec = files | {
            **peers.net_of(config.model),
            "crops": (config.train.batch_size, side, side, num_bands),
            "schedule": np.asarray(jax.vmap(schedule)(jnp.arange(num_steps, dtype=jnp.int32)), np.float64).tolist(),
            "optimizer": json.loads(config.optimizer.to_json()),
            "ema_decay": config.train.ema_decay,
        }
        writers.write_json(folder / "spec.json", spec)
        told = _feed(Path(folder, "spec.json"), batches, num_steps, name)
        with np.load(files["state"]) as arrays:
            return dict(arrays), told


def _feed(spec: Path, batches: Iterator[tuple[np.ndarray, ...]], num_steps: int, name: str) -> dict[str, Any]:
    """What `torch_training.main` prints."""
    command = [sys.executable, "-m", "pcejax.torch_training", str(spec)]
    progress, last, told = writers.Progress(num_steps), time.monotonic(), b""
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                for done, batch in enumerate(batches, 1):
                    for array in batch:
                        process.stdin.write(np.ascontiguousarray(array).data)
                    if done == num_steps or time.monotonic() - last > _PROGRESS_EVERY:
                        last = time.monotonic()
                        print(f"{name}: steps {progress.line(done)}", flush=True)
                process.stdin.close()
                told = process.stdout.read()
            except BrokenPipeError:
                raise  # it ends by itself
            except BaseException:
                process.kill()
                raise
    except BrokenPipeError:
        process.wait()
    if process.returncode:
        raise UserError(f"{name}: the process ended with {process.returncode}; its error is above; mend that first")
    return json.loads(told)


def learnt(state: TrainState, arrays: dict[str, np.ndarray], config: ml_collections.ConfigDict) -> TrainState:
    """The initial state with what PyTorch learnt, arrays by "<tree>/<name>", in its place."""
    trees: dict[str, Any] = {"params": {}, "batch_stats": {}, "ema_params": {}, "ema_batch_stats": {}}
    trees |= flax.traverse_util.unflatten_dict(arrays, sep="/")
    typed = {
        name: jax.tree.map(lambda old, new: new.astype(old.dtype), getattr(state, name), tree)
        for name, tree in trees.items()
    }
    return parallel.to_host(state)._replace(step=np.int32(config.train.num_steps), **typed)

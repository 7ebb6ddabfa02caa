"""A run's model, ready to map images."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import ml_collections
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from pcejax import datasets, models, optimizer, parallel, runs, steps, tiled_inference
from pcejax.calibration import Calibration
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.legend import Legend
from pcejax.train_state import TrainState, state_shapes


class Trained(NamedTuple):
    """What evaluation and prediction need of a run."""

    config: ml_collections.ConfigDict
    legend: Legend
    bands: datasets.Bands
    about: dict[str, Any]  # what the checkpoint tells of the run's labels: see taught.about_run
    step: int
    variables: Any  # the running means, on the devices
    map_rows: tiled_inference.MapRows
    map_image: Callable[[Any, np.ndarray], np.ndarray]  # variables, image [H, W, bands] -> logits [H, W, C]
    calibration: Calibration | None = None  # None where it is uncalibrated


def num_logits(config: ml_collections.ConfigDict, legend: Legend) -> int:
    """Logits a pixel: one for each class, the unknown one only where it is trained."""
    return legend.num_classes if config.train_unknown else legend.num_known


def load(workdir: Path, *, dihedral_moves: bool = False) -> Trained:
    """The newest checkpoint of the run in `workdir`; with `dihedral_moves` see `tiled_inference.make_mapper`.

    It is calibrated where a temperature was fitted at this step (`evaluate.calibrate`), but for `dihedral_moves`: means
    over moves are less sure than what it was fitted on.

    Raises:
      UserError: there is no run, no checkpoint, or legend and config are not those of its parameters.
    """
    config, about, model, state = _restore(workdir)
    legend, bands = Legend.from_dict(about["legend"]), datasets.Bands.from_dict(about["bands"])
    eval_step = steps.make_eval_step(model, bands)
    map_rows = tiled_inference.make_mapper(eval_step, config, metres=bands.metres, dihedral_moves=dihedral_moves)
    map_image = functools.partial(tiled_inference.map_image, map_rows)
    variables = parallel.replicate(state.ema_variables())
    fitted = None if dihedral_moves else _calibration(workdir, int(state.step))
    return Trained(config, legend, bands, about, int(state.step), variables, map_rows, map_image, fitted)


def _calibration(workdir: Path, step: int) -> Calibration | None:
    path = runs.calibration_path(workdir)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found["step"] != step:
        print(f"{path}: of step {found['step']}, and the checkpoint of step {step}; passed over", flush=True)
        return None
    return None if found["temperature"] is None else Calibration(**found)


def load_state(workdir: Path) -> TrainState:
    """The newest checkpoint's state of the run in `workdir`, as host arrays; raises as `load`."""
    return _restore(workdir)[-1]


def _restore(workdir: Path) -> tuple[ml_collections.ConfigDict, dict[str, Any], nn.Module, TrainState]:
    config = runs.read_config(workdir)
    with Checkpoints(workdir) as checkpoints:
        about = checkpoints.about()
        legend = Legend.from_dict(about["legend"])
        model = models.create_model(config.model, num_logits(config, legend))
        tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
        shape = (1, config.data.crop, config.data.crop, datasets.Bands.from_dict(about["bands"]).num)
        like = state_shapes(model, tx, shape)
        state = checkpoints.restore(like)
        for (path, wanted), leaf in zip(tree_leaves_with_path(like.params), jax.tree.leaves(state.params), strict=True):
            if leaf.shape != wanted.shape:
                raise UserError(
                    f"{workdir}: {keystr(path)} of the checkpoint is {leaf.shape}; expected {wanted.shape}, as "
                    f"config.json and its legend of {legend.num_classes} classes say; restore the workdir's own files"
                )
        return config, about, model, state


def variables_for(workdir: Path, shapes: TrainState) -> dict[str, Any]:
    """The running means of the run in `workdir`, for a run of another config to start from; tells what is taken.

    Args:
      workdir: of the other run.
      shapes: of the state that starts. A variable is taken where it has the name and the shape of one of these.

    Returns:
      {"params": ..., "batch_stats": ...} as host arrays, as much of it as there is.

    Raises:
      UserError: there is no run, no checkpoint, or nothing of it fits.
    """
    have = flax.traverse_util.flatten_dict(parallel.to_host(load(workdir).variables), sep="/")
    wanted = flax.traverse_util.flatten_dict({"params": shapes.params, "batch_stats": shapes.batch_stats}, sep="/")
    taken = {name: have[name] for name, leaf in wanted.items() if name in have and have[name].shape == leaf.shape}
    if not taken:
        raise UserError(f"init_from={str(workdir)!r}: none of its variables has name and shape of one of this model's")
    print(f"start: {len(taken)} of {len(wanted)} variables from {workdir}", flush=True)
    for name in sorted({*wanted, *have} - {*taken}):
        here = wanted[name].shape if name in wanted else "none"
        there = have[name].shape if name in have else "none"
        print(f"start: not taken: {name}: {there} there, {here} here", flush=True)
    return flax.traverse_util.unflatten_dict(taken, sep="/")

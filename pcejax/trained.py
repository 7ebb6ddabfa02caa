"""A run's model, ready to map images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from pcejax import datasets, models, optimizer, parallel, runs, steps, tiled_inference
from pcejax.checkpoints import Checkpoints
from pcejax.legend import Legend
from pcejax.train_state import state_shapes


class Trained(NamedTuple):
    """What evaluation and prediction need of a run."""

    config: ml_collections.ConfigDict
    legend: Legend
    bands: datasets.Bands
    about: dict[str, Any]  # what the checkpoint tells of the run's labels: see train.about_run
    step: int
    variables: Any  # the running means, on the devices
    map_image: Callable[[Any, np.ndarray], np.ndarray]  # variables, image [H, W, bands] -> logits [H, W, C]


def num_logits(config: ml_collections.ConfigDict, legend: Legend) -> int:
    """Logits a pixel: one for each class, the unknown one only where it is trained."""
    return legend.num_classes if config.train_unknown else legend.num_known


def load(workdir: Path) -> Trained:
    """The newest checkpoint of the run in `workdir`.

    Raises:
      UserError: there is no run, or no checkpoint.
    """
    config = runs.read_config(workdir)
    with Checkpoints(workdir) as checkpoints:
        about = checkpoints.about()
        legend = Legend.from_dict(about["legend"])
        model = models.create_model(config.model, num_logits(config, legend))
        tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
        bands = datasets.Bands.from_dict(about["bands"])
        shape = (1, config.data.crop, config.data.crop, bands.num)
        state = checkpoints.restore(state_shapes(model, tx, shape))
    map_image = tiled_inference.make_mapper(steps.make_eval_step(model, bands), config)
    return Trained(config, legend, bands, about, int(state.step), parallel.replicate(state.ema_variables()), map_image)

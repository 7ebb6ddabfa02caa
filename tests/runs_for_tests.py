"""A prepared dataset and a run without training, for the tests of what comes after it."""

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from configs import quickstart
from pcejax import datasets, models, optimizer, parallel, runs, taught, tiles, trained
from pcejax.checkpoints import Checkpoints
from pcejax.datasets.prepare import prepare_dataset
from pcejax.legend import DEEPGLOBE
from pcejax.train_state import state_shapes

SIZE = 96
NAME = f"synthetic_v1/{SIZE}px_3-2-2-1_seed0"


def prepare(data_dir):
    """Three tiles to learn from, two to validate, two to test, and one without a mask."""
    prepare_dataset("synthetic_v1", data_dir, size=SIZE, num_train=3, num_validation=2, num_test=2, num_unlabelled=1)


def config_of(data_dir, **overrides):
    config = quickstart.get_config("smoke")
    config.data.update(name=NAME, data_dir=str(data_dir), crop=32, scale=1.0)
    config.points.budget = 4
    config.model.update(depth=1, width=2)
    config.inference.update(window=48, overlap=16, batch_size=2)
    config.update_from_flattened_dict(overrides)
    return config.lock()


def state_of(config, num_logits, step=0, seed=0):
    """A state of random numbers, without the compilation that a true one takes."""
    model = models.create_model(config.model, num_logits)
    tx = optimizer.make_optimizer(config.optimizer, config.train.num_steps, config.model.frozen_stages)
    shape = (1, config.data.crop, config.data.crop, 3)
    rng = np.random.default_rng(seed)

    def fill(leaf):
        values = (
            rng.normal(size=leaf.shape) if np.issubdtype(leaf.dtype, np.floating) else rng.integers(9, size=leaf.shape)
        )
        return np.asarray(values, leaf.dtype)

    state = jax.tree.map(fill, state_shapes(model, tx, shape))._replace(step=np.int32(step))
    # As squares of gradients are: training goes on from it.
    return state._replace(opt_state=jax.tree.map(np.abs, state.opt_state))


def save_run(workdir, config, step=6):
    """A workdir with config, manifest and one checkpoint, as training would leave it; returns the state."""
    about = taught.about_run(config, tiles.load(config), DEEPGLOBE, datasets.RGB)
    state = state_of(config, trained.num_logits(config, DEEPGLOBE), step)
    runs.open_workdir(workdir, config, {})
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, about | {"devices": parallel.describe()}, [])
    return state


def builder_of(config) -> tfds.core.DatasetBuilder:
    return datasets.open_dataset(config.data.name, config.data.data_dir)


def save_image(path, shape, seed=0):
    image = np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image

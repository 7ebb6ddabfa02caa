"""A small U-Net on drawn scenes, 10 points per class and tile: the whole way in minutes on a CPU.

Command: scripts/quickstart.sh
2 CPU cores: 7:30 with the install, beside other work; mIoU 0.651 on the four test scenes, 0.591 on validation.
"""

import ml_collections

from configs import default
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for the quickstart, `"smoke"` for a few steps that only show that all parts meet."""
    config = default.get_config()
    config.data.name = "synthetic_v1/768px_16-4-4-4_seed0"
    config.data.eval_split = "validation"
    config.data.scale = 0.25
    config.data.crop = 96  # half a tile: nearly every crop holds points of several classes
    config.data.anchored_share = 1.0
    config.points.budget = 10
    config.loss.balance_crops = True
    config.augment.contrast = 0.2
    config.model.width = 16
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 30
    config.train.num_steps = 900
    config.train.batch_size = 16
    config.train.ema_decay = 0.98
    config.train.log_every_steps = 20
    config.train.checkpoint_every_steps = 300
    config.inference.window = 192  # a whole tile
    config.inference.overlap = 32
    config.inference.batch_size = 1
    if variant == "smoke":
        config.model.width = 4
        config.model.depth = 2
        config.data.crop = 32
        config.train.num_steps = 6
        config.train.log_every_steps = 2
        config.train.checkpoint_every_steps = 2
    elif variant:
        raise UserError(f"configs/quickstart.py:{variant}: expected no variant, or :smoke")
    return config

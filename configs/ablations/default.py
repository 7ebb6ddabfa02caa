"""Every field of an ablation, with its default, and what a size means. The other ablations start from this one."""

from typing import Any

import ml_collections

from pcejax.errors import UserError

SIZES = ("smoke", "demo", "full")

DENSE = {
    annotator: {"points.annotator": annotator, "loss.balance_crops": False} for annotator in ("dense", "dense_balanced")
}
"""Levels of whole masks: all pixels weigh alike, or the classes of a tile; of points, the classes of a crop do."""


def budgets(*points: int) -> dict[str, dict[str, Any]]:
    """Levels of so many points per class and tile."""
    return {str(budget): {"points.budget": budget} for budget in points}


def against(axis: str, level: str, others: Any) -> tuple[tuple[str, str, str], ...]:
    """Differences of other levels from one."""
    return tuple((axis, other, level) for other in others if other != level)


def get_config(name: str, size: str) -> ml_collections.ConfigDict:
    """An ablation without axes.

    `smoke`: a few steps of tiny nets, which show that all parts meet. `demo`: within 40 minutes on 2 CPU cores. Both on
    drawn scenes, which scripts/ablate.py prepares. `full`: DeepGlobe on accelerators, not run yet.
    """
    if size not in SIZES:
        raise UserError(f"configs/ablations/{name}.py:{size}: expected one of :{', :'.join(SIZES)}")
    ablation = ml_collections.ConfigDict(convert_dict=False)
    ablation.name = name  # of the file
    ablation.size = size
    ablation.title = ""
    ablation.question = ""  # what is asked, and what counts as an answer
    ablation.watermark = ""  # of the report and its figures
    ablation.base = ""  # --config of scripts/train.py that all arms start from
    ablation.overrides = {}  # fields that all arms set, such as {"train.num_steps": 600}
    ablation.axes = {}  # axis -> label of each level -> fields that it sets; arms are all combinations
    ablation.factor = ""  # the axis that is compared, which may set what is else equal in all arms
    ablation.budget_axis = ""  # the axis whose levels are budgets; "" for none
    ablation.references = {}  # level of the budget axis that others are held against, by the reference's name
    ablation.differences = ()  # (axis, level, other) that are asked for: level minus other
    ablation.folds = {}  # label -> splits that it sets; an arm is run on each, and the tiles of all are scored as one
    ablation.seeds = (0, 1, 2)  # initialisation and crops; crossed with the point seeds
    ablation.point_seeds = (0, 1, 2)  # draws of points, and of tiles
    ablation.point_seeds_of = {}  # axis -> level -> point seeds of its own
    ablation.baselines = {}  # name (pcejax/baselines.py) -> draws of points that it is taught by, at each budget
    ablation.peer = ""  # config that PyTorch trains on the same labels, at each budget; "" for none; needs torch
    ablation.peer_draws = (0,)  # of points, crops and initialisation
    ablation.prepare = {}  # options of scripts/prepare_data.py --dataset=synthetic_v1; {} where the dataset is a user's
    # Of an annotator's work, after Bearman et al., 2016, on PASCAL VOC: 22.1 an image for a click on each of its 1.5
    # classes, which are 2.4 a click and 1 for each of the 18.5 other classes, to be ruled out; 239.7 for a mask.
    ablation.seconds = {"click": 2.4, "tile": 18.5, "mask": 239.7}
    if size == "full":
        ablation.base = "configs/unet.py"
        # GLNet's lists: 454 tiles to learn from, and the 207 that it reports on.
        ablation.overrides = {"data.train_split": "train", "data.eval_split": "crossvali"}
        return ablation
    smoke = size == "smoke"
    ablation.watermark = "demonstration on synthetic scenes"
    ablation.base = "configs/quickstart.py:smoke" if smoke else "configs/quickstart.py"
    ablation.prepare = {
        "size": 128 if smoke else 384,
        "num_train": 4 if smoke else 16,
        "num_validation": 4 if smoke else 24,
        "num_test": 0,
        "num_unlabelled": 0,
    }
    side, *counts = ablation.prepare.values()
    ablation.overrides = {"data.name": f"synthetic_v1/{side}px_{'-'.join(map(str, counts))}_seed0"}
    if smoke:
        ablation.seeds, ablation.point_seeds = (0, 1), (0,)
        ablation.overrides |= {"model.depth": 1, "model.width": 2, "inference.window": 32, "inference.overlap": 8}
    else:
        ablation.point_seeds = (0, 1)
        # Batch norm: in a schedule this short it fits its labels, when group norm has just begun to.
        ablation.overrides |= {
            "model.depth": 3,
            "model.width": 8,
            "model.norm": "batch",
            "data.crop": 64,
            "train.num_steps": 600,
            "train.batch_size": 8,
            "inference.window": 96,
        }
    return ablation

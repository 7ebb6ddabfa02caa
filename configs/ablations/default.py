"""Every field of an ablation, with its default, and what the sizes have in common. The ablations start from this one."""

import ml_collections

from pcejax.errors import UserError

SIZES = ("smoke", "demo", "full")


def get_config(name: str, size: str) -> ml_collections.ConfigDict:
    """An ablation without axes.

    `smoke`: a few steps of tiny nets, which show that all parts meet. `demo`: within 40 minutes on 2 CPU cores. Both on
    drawn scenes, which scripts/ablate.py prepares. `full`: DeepGlobe on accelerators, which was not run yet.
    """
    if size not in SIZES:
        raise UserError(f"configs/ablations/{name}.py:{size}: expected one of :{', :'.join(SIZES)}")
    ablation = ml_collections.ConfigDict(convert_dict=False)
    ablation.name = name  # of the file
    ablation.size = size
    ablation.title = ""
    ablation.question = ""  # what is asked, and what counts as an answer
    ablation.watermark = ""  # over the report's figures
    ablation.base = ""  # --config of scripts/train.py that all arms start from
    ablation.overrides = {}  # fields that all arms set: {"train.num_steps": 600}
    ablation.axes = {}  # axis -> label of each level -> fields that it sets; arms are all combinations
    ablation.factor = ""  # the axis that is compared; the only one that may set what the protocol keeps equal
    ablation.budget_axis = ""  # the axis whose levels are budgets; "" for none
    ablation.references = {}  # level of the budget axis that a curve is held against, by the reference's name
    ablation.differences = ()  # (axis, level, against) that are asked for: level minus against
    ablation.seeds = (0, 1, 2)  # initialisation, crops; crossed with the point seeds
    ablation.point_seeds = (0, 1, 2)  # draws of the points
    ablation.point_seeds_of = {}  # axis -> level -> point seeds of its own
    ablation.prepare = {}  # options of scripts/prepare_data.py --dataset=synthetic_v1; {} where the dataset is the user's
    # Seconds of an annotator's work, from Bearman et al., 2016, on PASCAL VOC: 22.1 an image for one click on each of
    # its 1.5 classes, of which 2.4 a click and 1 for each of the other 18.5 classes to be ruled out; 239.7 for a mask.
    ablation.seconds = {"click": 2.4, "tile": 18.5, "mask": 239.7}
    if size == "full":
        # The lists of GLNet: 454 tiles to learn from, scored on the 207 that it reports on.
        ablation.base = "configs/unet.py"
        ablation.overrides = {"data.train_split": "train", "data.eval_split": "crossvali"}
        return ablation
    smoke = size == "smoke"
    ablation.watermark = "demonstration on synthetic scenes"
    ablation.base = "configs/quickstart.py:smoke" if smoke else "configs/quickstart.py"
    ablation.prepare = (
        {"size": 128, "num_train": 4, "num_validation": 4, "num_test": 0, "num_unlabelled": 0}
        if smoke
        else {"size": 384, "num_train": 16, "num_validation": 24, "num_test": 0, "num_unlabelled": 0}
    )
    sizes = "-".join(str(count) for option, count in ablation.prepare.items() if option.startswith("num_"))
    ablation.overrides = {"data.name": f"synthetic_v1/{ablation.prepare['size']}px_{sizes}_seed0"}
    if smoke:
        ablation.seeds = ablation.point_seeds = (0, 1)
        ablation.overrides |= {"model.depth": 1, "model.width": 2, "inference.window": 32, "inference.overlap": 8}
    else:
        # Batch norm, since in a schedule this short it fits its labels when group norm has just begun to.
        ablation.overrides |= {
            "model.depth": 3,
            "model.width": 8,
            "model.norm": "batch",
            "data.crop": 64,
            "train.num_steps": 600,
            "train.batch_size": 8,
            "train.checkpoint_every_steps": 300,
            "inference.window": 96,
        }
    return ablation

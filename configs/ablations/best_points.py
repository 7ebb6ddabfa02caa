"""The best map per labelled point, on a handful of tiles: configs/best_points.py over budgets, beside baselines.

Commands, with DeepGlobe prepared as configs/unet.py says, of which eight tiles are enough:
  scripts/ablate.py --config=configs/ablations/best_points.py:across --workdir=runs/best_across
  scripts/ablate.py --config=configs/ablations/best_points.py:within --workdir=runs/best_within
"""

import itertools

import ml_collections

from configs.ablations import default
from pcejax.errors import UserError

TILES = 8
FOLDS = {
    "-".join(map(str, range(at, at + 2))): {
        "data.train_split": f"train[:{at}]+train[{at + 2}:{TILES}]" if at else f"train[2:{TILES}]",
        "data.eval_split": f"train[{at}:{at + 2}]",
    }
    for at in range(0, TILES, 2)
}
"""Two tiles are scored by a net that the six others taught."""

_QUESTIONS = {
    "across": "How good a map of other tiles do so few points teach? Each pair of tiles is mapped by a net that the "
    "other six taught; the confusion matrices of all are one.",
    "within": "How good a map of the clicked tiles themselves do so few points teach? Pixels within 8 of a point are "
    "left out.",
}


def get_config(size: str = "across") -> ml_collections.ConfigDict:
    """`"smoke"`, on drawn scenes; `"across"` tiles or `"within"` them."""
    if size not in ("smoke", *_QUESTIONS):
        raise UserError(f"configs/ablations/best_points.py:{size}: expected one of :smoke, :{', :'.join(_QUESTIONS)}")
    ablation = default.get_config("best_points", "smoke" if size == "smoke" else "full")
    ablation.size = size
    ablation.title = "The best map per labelled point"
    ablation.question = _QUESTIONS[size if size in _QUESTIONS else "across"]
    ablation.seeds = ablation.point_seeds = (0, 1)
    ablation.baselines = {
        "trees on colour and texture windows": tuple(range(5)),
        "linear head on a frozen encoder": tuple(range(200)),
    }
    points = default.budgets(1, 5, 20, 100)
    if size == "smoke":
        ablation.seeds, ablation.point_seeds = (0,), (0,)
        ablation.baselines = dict.fromkeys(ablation.baselines, (0, 1))
        points = default.budgets(1, 2)
        ablation.folds = {
            "a": {"data.train_split": "train[2:]", "data.eval_split": "train[:2]"},
            "b": {"data.train_split": "train[:2]", "data.eval_split": "train[2:]"},
        }
    else:
        ablation.base = "configs/best_points.py"
        ablation.overrides = {"data.train_split": f"train[:{TILES}]", "data.eval_split": f"train[:{TILES}]"}
        if size == "across":
            ablation.folds = FOLDS
    # Dense masks of the tiles that are scored would test nothing.
    dense = default.DENSE if size == "across" else {}
    ablation.axes = {"points": points | dense}
    ablation.factor = ablation.budget_axis = "points"
    ablation.references = {label: label for label in dense}
    ablation.differences = tuple(("points", more, fewer) for fewer, more in itertools.pairwise(points))
    ablation.point_seeds_of = {"points": dict.fromkeys(dense, (0,))} if dense else {}
    return ablation

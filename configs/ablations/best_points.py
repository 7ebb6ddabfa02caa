"""The best map per labelled point, on a handful of tiles: configs/best_points.py over budgets, beside baselines.

Commands, with the eight tiles of DeepGlobe prepared as docs/findings.md says:
  scripts/ablate.py --config=configs/ablations/best_points.py:across --workdir=runs/best_across
  scripts/ablate.py --config=configs/ablations/best_points.py:within --workdir=runs/best_within
  scripts/ablate.py --config=configs/ablations/best_points.py:removals --workdir=runs/best_removals
"""

import itertools
import operator
from typing import Any

import ml_collections

from configs import best_points
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
    "removals": "What is each part of the recipe worth, at 20 points per class and tile, on two folds of four? Each "
    "level is the recipe without one part.",
}

REMOVALS: dict[str, dict[str, Any]] = {
    "none": {},
    "pretrained": {"model.pretrained": False},
    "coarse_scales": {"model.scales": (1,)},
    "fine_scales": {"model.scales": (4,)},
    "views": {"data.cached_views": 1},
    "colour_moves": {"augment.brightness": 0.0, "augment.color": 0.0, "augment.contrast": 0.0},
    "dihedral_moves": {"augment.dihedral_moves": False},
    "running_mean": {"train.ema_decay": 0.0},
    "adapted_priors": {"inference.adapt_priors": False},
    "smoothing": {"inference.smoothing_m": 0.0},
}
"""What each level sets: the recipe without the part that it is named after."""


def get_config(size: str = "across") -> ml_collections.ConfigDict:
    """`"smoke"`, on drawn scenes; `"across"` tiles, `"within"` them, or `"removals"`."""
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
        if size != "within":
            ablation.folds = FOLDS
    if size == "removals":
        return _removals(ablation)
    # Dense masks of the tiles that are scored would test nothing.
    dense = default.DENSE if size == "across" else {}
    ablation.axes = {"points": points | dense}
    ablation.factor = ablation.budget_axis = "points"
    ablation.references = {label: label for label in dense}
    ablation.differences = tuple(("points", more, fewer) for fewer, more in itertools.pairwise(points))
    ablation.point_seeds_of = {"points": dict.fromkeys(dense, (0,))} if dense else {}
    return ablation


def _removals(ablation: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    recipe = best_points.get_config()
    whole = {field: operator.attrgetter(field)(recipe) for level in REMOVALS.values() for field in level}
    ablation.axes = {"without": {name: whole | changes for name, changes in REMOVALS.items()}}
    ablation.factor = "without"
    ablation.overrides = ablation.overrides | {"points.budget": 20}
    ablation.folds = dict(itertools.islice(FOLDS.items(), 2))
    ablation.baselines = {}
    ablation.seeds, ablation.point_seeds = (0,), (0, 1)
    ablation.differences = default.against("without", "none", REMOVALS)
    return ablation

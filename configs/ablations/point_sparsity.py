"""How few points are enough? Budgets per class and tile, up to whole masks.

Command: scripts/ablate.py --config=configs/ablations/point_sparsity.py:demo --workdir=runs/point_sparsity
"""

import itertools

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("point_sparsity", size)
    ablation.title = "Point sparsity: how few labelled points are enough"
    ablation.question = (
        "How does mIoU grow with the points per class and tile? An answer is the budget, with an interval, at which it "
        "reaches 90 and 95 % of what more points would give. Dense masks are there to compare with."
    )
    points = default.budgets(1, 3) if size == "smoke" else default.budgets(1, 3, 10, 30, 100)
    ablation.axes = {"points": points | default.DENSE}
    ablation.factor = ablation.budget_axis = "points"
    ablation.references = {label: label for label in default.DENSE}
    labels = [*points]
    ablation.differences = tuple(("points", more, fewer) for fewer, more in itertools.pairwise(labels))
    # Which points there are matters most where there are few; not at all where there are all.
    few, ablation.point_seeds = (2, (0,)) if size == "smoke" else (5, (0, 1, 2))
    draws = dict.fromkeys(labels[: few - 3], tuple(range(few)))
    ablation.point_seeds_of = {"points": draws | dict.fromkeys(default.DENSE, (0,))}
    return ablation

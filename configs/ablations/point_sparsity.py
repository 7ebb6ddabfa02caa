"""How few points are enough? Budgets per class and tile, up to dense masks.

Command: scripts/ablate.py --config=configs/ablations/point_sparsity.py:demo --workdir=runs/point_sparsity
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`: see configs/ablations/default.py."""
    ablation = default.get_config("point_sparsity", size)
    ablation.title = "Point sparsity: how few labelled points are enough"
    ablation.question = (
        "How does mIoU grow with the points per class and tile, and at which budget does it reach 90 and 95 % of what "
        "more points would give? An answer is a budget with an interval; dense masks are there to compare with."
    )
    budgets = (1, 3) if size == "smoke" else (1, 3, 10, 30, 100)
    points = {str(budget): {"points.budget": budget} for budget in budgets}
    ablation.axes = {"points": points | DENSE}
    ablation.factor = ablation.budget_axis = "points"
    ablation.references = {label: label for label in DENSE}
    labels = [*points]
    ablation.differences = tuple(("points", more, fewer) for fewer, more in zip(labels, labels[1:], strict=False))
    few = tuple(range(3 if size == "smoke" else 5))
    ablation.point_seeds_of = {"points": dict.fromkeys(labels[: 1 if size == "smoke" else 2], few)}
    ablation.point_seeds_of["points"] |= dict.fromkeys(DENSE, (0,))
    return ablation


# Points weigh a class alike in each crop; masks weigh all pixels alike, or the classes of a tile.
DENSE = {
    annotator: {"points.annotator": annotator, "loss.balance_crops": False} for annotator in ("dense", "dense_balanced")
}
"""Levels of whole masks."""

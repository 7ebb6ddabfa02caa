"""The claim: a deeper U-Net maps better. Or is it the FLOPs?

Command: scripts/ablate.py --config=configs/ablations/depth.py:demo --workdir=runs/depth
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("depth", size)
    ablation.title = "Depth: does a deeper U-Net map better"
    ablation.question = (
        "The claim: a deeper U-Net maps better. It holds if the deeper net is ahead at equal width, and at equal FLOPs "
        "too, and if a net that is as much wider instead, and as costly, is not as far ahead."
    )
    # GFLOPs of the two depths at equal width: scripts/train.py prints them.
    shallow, deep, width, gflops_shallow, gflops_deep = {
        "smoke": (1, 2, 8, 0.467, 0.823),
        "demo": (2, 4, 16, 3.22, 6.08),
        "full": (4, 5, 32, 24.2, 29.9),
    }[size]
    ablation.axes = {
        "depth": {
            "shallow": {"model.depth": shallow, "model.width": width},
            "deep": {"model.depth": deep, "model.width": width},
            "deep_equal_flops": {"model.depth": deep, "model.gflops": gflops_shallow},
            "wide_equal_flops": {"model.depth": shallow, "model.gflops": gflops_deep},
        },
        "points": default.budgets(2) if size == "smoke" else default.budgets(3, 30),
    }
    ablation.factor, ablation.budget_axis = "depth", "points"
    ablation.differences = (
        *default.against("depth", "shallow", ablation.axes["depth"]),
        ("depth", "deep", "wide_equal_flops"),
    )
    if size == "demo":
        ablation.overrides["train.num_steps"] = 450
    return ablation

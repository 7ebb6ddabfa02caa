"""How many wrong clicks can be borne?

Command: scripts/ablate.py --config=configs/ablations/label_noise.py:demo --workdir=runs/label_noise
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("label_noise", size)
    ablation.title = "Label noise: how many wrong clicks can be borne"
    ablation.question = (
        "How much mIoU is lost when a share of the clicks is called another class, at few points and at many? An "
        "answer is the difference from clean clicks. Noise is nested: what is wrong at 10 % is wrong at 20 %."
    )
    shares = (0.0, 0.2) if size == "smoke" else (0.0, 0.1, 0.2, 0.4)
    noise = {f"{share:.1f}": {"points.label_noise": share} for share in shares}
    ablation.axes = {
        "noise": noise,
        "points": default.budgets(2) if size == "smoke" else default.budgets(3, 30),
    }
    ablation.factor, ablation.budget_axis = "noise", "points"
    ablation.differences = default.against("noise", "0.0", noise)
    return ablation

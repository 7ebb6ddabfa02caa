"""At which resolution should the net see? Crops cover the same ground at each.

Command: scripts/ablate.py --config=configs/ablations/scale.py:demo --workdir=runs/scale
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("scale", size)
    ablation.title = "Scale: the resolution at which the net sees"
    ablation.question = (
        "Does a net map better when it sees more detail, or when it sees more of the ground around? Crops cover the "
        "same ground at each scale, and scores are of native pixels; an answer is the difference between scales. What "
        "a step costs is not equal: the report has the durations."
    )
    scales = (0.25, 0.5) if size == "smoke" else (0.25, 0.5, 1.0)
    # Side of a crop and of a window, and their overlap, pixels at the scale 0.25.
    crop, window, overlap = {"smoke": (32, 32, 8), "demo": (48, 96, 32), "full": (128, 256, 64)}[size]
    ablation.axes = {
        "scale": {
            f"{scale:g}": {
                "data.scale": scale,
                "data.crop": round(crop * 4 * scale),
                "inference.window": round(window * 4 * scale),
                "inference.overlap": round(overlap * 4 * scale),
            }
            for scale in scales
        },
        "points": default.budgets(2) if size == "smoke" else default.budgets(3, 30),
    }
    ablation.factor, ablation.budget_axis = "scale", "points"
    ablation.differences = default.against("scale", "0.25", ablation.axes["scale"])
    if size == "demo":
        ablation.point_seeds = (0,)  # its arms take the longest
    return ablation

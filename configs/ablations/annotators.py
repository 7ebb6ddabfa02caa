"""What should be clicked? Ways to label about as much, beside each other.

Command: scripts/ablate.py --config=configs/ablations/annotators.py:demo --workdir=runs/annotators
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("annotators", size)
    ablation.title = "Annotators: what to click, and where"
    ablation.question = (
        "Which way to label teaches most? Points of balanced classes are the standard; an answer is the difference of "
        "each other way from it. Uniform points are about as many; strokes and blocks label more pixels, which the "
        "report counts."
    )
    budget, uniform = {"smoke": (2, 8), "demo": (10, 35), "full": (10, 40)}[size]
    balanced = {"points.annotator": "balanced", "points.budget": budget}
    ablation.axes = {
        "annotator": {
            "balanced": balanced,
            "balanced_interior": balanced | {"points.placement": "interior"},
            "balanced_boundary": balanced | {"points.placement": "boundary"},
            "uniform": {"points.annotator": "uniform", "points.budget": uniform},
            "component": {"points.annotator": "component", "points.budget": 1},
            "scribble": {"points.annotator": "scribble"},
            "block": {"points.annotator": "block"},
        }
    }
    ablation.factor = "annotator"
    ablation.differences = default.against("annotator", "balanced", ablation.axes["annotator"])
    return ablation

"""The claim: partial cross entropy beats plain cross entropy on sparse labels. And what terms beside it are worth.

Command: scripts/ablate.py --config=configs/ablations/loss.py:demo --workdir=runs/loss

`table` and `table_deepglobe` are the settings of the table in docs/losses.md, on drawn scenes and on the eight tiles of
DeepGlobe that docs/findings.md names; its three runs a cell are the arms whose seed and draw are equal.
"""

from typing import Any

import ml_collections

from configs.ablations import default

WEIGHTS = {
    "hard_pixel_cross_entropy": 1.0,
    "partial_dice": 0.5,
    "entropy": 0.1,
    "total_variation": 0.5,
    "gated_crf": 0.003,
    "consistency": 3.0,
    "pseudo_labels": 0.3,
    "propagation": 1.0,
}
"""Of the term beside partial cross entropy: the better of one to three, on synthetic validation tiles."""


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"`, `"full"`, `"table"` or `"table_deepglobe"`."""
    table = size in ("table", "table_deepglobe")
    ablation = default.get_config("loss", "full" if table else size)
    ablation.title = "Loss: partial cross entropy, plain cross entropy, and terms beside it"
    ablation.question = (
        "The claim: partial cross entropy beats plain cross entropy on sparse labels. It holds if it is ahead of cross "
        "entropy with unlabelled pixels as the unknown class, and of the loss that is divided by all pixels. For each "
        "term beside it: is it ahead of partial cross entropy alone?"
    )
    if table:
        ablation.size = size
        ablation.base = "configs/quickstart.py" if size == "table" else "configs/unet.py:cpu"
        ablation.overrides = _TABLE | _SPLITS[size]
    added = {"smoke": ["propagation"], "demo": ["hard_pixel_cross_entropy", "propagation"]}.get(size, [*WEIGHTS])
    steps = {"smoke": 6, "full": 10_000}.get(size, 600)
    losses = {"partial_cross_entropy": {"loss.partial_cross_entropy.weight": 1.0}}
    losses |= {name: _instead(name) for name in ("unknown_class_cross_entropy", "all_pixel_cross_entropy")}
    losses |= {name: {f"loss.{name}.weight": WEIGHTS[name], f"loss.{name}.warmup_steps": steps // 2} for name in added}
    ablation.axes = {
        "loss": losses,
        "points": default.budgets(*{"smoke": (2,), "full": (3, 30)}.get(size, (5, 20))),
    }
    ablation.factor, ablation.budget_axis = "loss", "points"
    ablation.differences = (
        *(
            ("loss", "partial_cross_entropy", name)
            for name in ("unknown_class_cross_entropy", "all_pixel_cross_entropy")
        ),
        *default.against("loss", "partial_cross_entropy", added),
    )
    return ablation


def _instead(name: str) -> dict[str, Any]:
    return {
        "loss.partial_cross_entropy.weight": 0.0,
        f"loss.{name}.weight": 1.0,
        "train_unknown": name == "unknown_class_cross_entropy",
    }


_TABLE = {
    "model.depth": 3,
    "model.norm": "batch",
    "data.crop": 64,
    "train.num_steps": 600,
    "train.batch_size": 8,
    "train.log_every_steps": 50,
    "train.checkpoint_every_steps": 600,
}
_SPLITS = {
    "table": {"data.eval_split": "test"},  # weights were chosen on "validation"
    # Of a folder of eight tiles six, and two.
    "table_deepglobe": {
        "data.train_split": "train[:3]+train[4:6]+train[7:]",
        "data.eval_split": "train[3:4]+train[6:7]",
    },
}

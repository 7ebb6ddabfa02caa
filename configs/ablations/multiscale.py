"""The claim: fusing features of several scales helps. Or is it the parameters?

Command: scripts/ablate.py --config=configs/ablations/multiscale.py:demo --workdir=runs/multiscale
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("multiscale", size)
    ablation.title = "Several scales: does fusing them help"
    ablation.question = (
        "The claim: a U-Net that fuses features of several scales maps better. It holds if a net is ahead of its "
        "control, which has plain convolutions of as many parameters in the branches' place."
    )
    fused = {
        f"{name}_{fuse}": {"model.fusion.at": "both", "model.fusion.branches": branches, "model.fusion.fuse": fuse}
        for name, branches in (("pool", "pooling"), ("dilated", "dilated"))
        for fuse in ("concat", "sum")
    }
    controls = {f"{name}_control": level | {"model.fusion.plain_control": True} for name, level in fused.items()}
    ablation.axes = {
        "fusion": {"none": {"model.fusion.at": ""}} | fused | controls,
        "points": default.budgets(2) if size == "smoke" else default.budgets(3, 30),
    }
    ablation.factor, ablation.budget_axis = "fusion", "points"
    ablation.differences = (
        *(("fusion", name, f"{name}_control") for name in fused),
        *default.against("fusion", "none", fused),
    )
    # Of every arm: a cell of a grid is a part of the image at hand, so windows are as large as crops.
    window = {"smoke": 32, "demo": 64, "full": 256}[size]
    ablation.overrides |= {"inference.window": window, "inference.overlap": window // 4}
    if size != "full":
        ablation.overrides["model.fusion.grids"] = (1, 2, 4)
    if size == "demo":
        ablation.point_seeds = (0,)  # its arms take the longest
    return ablation

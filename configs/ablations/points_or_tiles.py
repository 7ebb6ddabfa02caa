"""The same number of clicks: a few on many tiles, or many on a few?

Command: scripts/ablate.py --config=configs/ablations/points_or_tiles.py:demo --workdir=runs/points_or_tiles
"""

import ml_collections

from configs.ablations import default


def get_config(size: str = "demo") -> ml_collections.ConfigDict:
    """`"smoke"`, `"demo"` or `"full"`."""
    ablation = default.get_config("points_or_tiles", size)
    ablation.title = "Points or tiles: the same clicks on few or many tiles"
    ablation.question = (
        "Are clicks better spent on more tiles, or on more points of each? Points x tiles are a grid whose diagonals "
        "are equal numbers of clicks; an answer is how mIoU changes along lines of equal cost."
    )
    points = {"smoke": (1, 2), "demo": (2, 4, 8), "full": (1, 4, 16)}[size]
    tiles = {"smoke": (2, 4), "demo": (4, 8, 16), "full": (28, 113, 454)}[size]
    ablation.axes = {
        "tiles": {str(count): {"data.num_labelled_tiles": count} for count in tiles},
        "points": default.budgets(*points),
    }
    ablation.factor, ablation.budget_axis = "tiles", "points"
    ablation.differences = default.against("tiles", str(tiles[0]), map(str, tiles)) + default.against(
        "points", str(points[0]), map(str, points)
    )
    if size != "smoke":
        ablation.seeds, ablation.point_seeds = (0, 1), (0, 1, 2)  # draws choose the tiles too
    return ablation

"""The maps of an ablation's settings, side by side for the same tile."""

from __future__ import annotations

import io

from PIL import Image

from pcejax import metrics, pages, pictures, runs
from pcejax.ablation_results import FIT, Arm, Results, setting

MAX_TILES = 3
"""Tiles that are shown."""

_IMAGE, _TRUTH, _MAP = 0, 1, 2  # panels of an evaluation's sheets


def grid(results: Results) -> list[str]:
    """HTML of the first tiles that all settings have a map of: image, truth, and the map of each setting.

    A setting is shown by its run of median mIoU over all tiles, the lower one of two.
    """
    assert results.legend
    num_known = results.legend.num_known
    groups: dict[str, list[Arm]] = {}
    for arm in results.arms:
        groups.setdefault(setting(arm.run.levels), []).append(arm)
    shown = {name: sorted(arms, key=lambda arm: arm.miou)[(len(arms) - 1) // 2] for name, arms in groups.items()}
    folders = [runs.pictures_folder(arm.workdir, arm.split) for arm in shown.values()]
    tiles = sorted(set.intersection(*({path.stem for path in folder.glob("*.png")} for folder in folders)))
    if not tiles:
        return []
    told = "Of each setting the run of median mIoU, and its mIoU on the tile. The tiles are the first ones, not chosen."
    parts = ["<h2>Maps</h2>", pages.element("p", told, "note"), pages.key(results.legend.to_dict())]
    for tile in tiles[:MAX_TILES]:
        sheets = [Image.open(folder / f"{tile}.png") for folder in folders]
        row = [_picture(sheets[0], _IMAGE, "image"), _picture(sheets[0], _TRUTH, "truth")]
        for arm, sheet in zip(shown.values(), sheets, strict=True):
            levels = arm.run.levels
            name = setting(levels) if len(levels) > 1 else "".join(levels.values())
            score = metrics.miou(arm.run.matrices[tile], num_known)
            mark = ", taught by these pixels" if arm.protocol == FIT else ""
            row.append(_picture(sheet, _MAP, f"{name}: {score:.2f}{mark}"))
        parts += [pages.element("h3", tile), f"<div class='row'>{''.join(row)}</div>"]
    return parts


def _picture(sheet: Image.Image, panel: int, caption: str) -> str:
    file = io.BytesIO()
    pictures.panel(sheet, panel).save(file, "PNG", optimize=True)
    return pages.picture(file.getvalue(), caption)

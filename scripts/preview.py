#!/usr/bin/env python3
"""Shows what a config teaches by: scripts/preview.py --config=configs/unet.py --sheet=crops.png --points=points.csv"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from pcejax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/unet.py.", lock_config=True)
_SHEET = flags.DEFINE_string("sheet", None, "PNG to draw: crops, labels, augmented views, as training sees them.")
_POINTS = flags.DEFINE_list("points", [], "Files to write the points into, each a .csv, .geojson or .gpkg.")
flags.mark_flag_as_required("config")


def main() -> None:
    from pcejax import preview

    if _SHEET.value:
        preview.draw_sheet(_CONFIG.value, Path(_SHEET.value))
        print(f"sheet: {_SHEET.value}")
    for path in _POINTS.value:
        print(f"points: {preview.write_points(_CONFIG.value, Path(path))} in {path}")


if __name__ == "__main__":
    cli.run(main)

#!/usr/bin/env python3
"""Prepares a dataset: scripts/prepare_data.py --dataset=deepglobe --manual_dir=<zip or folder> --data_dir=data"""

from pathlib import Path

from absl import flags

from pcejax import cli

_DATASET = flags.DEFINE_string("dataset", None, "deepglobe, synthetic_v1, or folder for your own.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of all prepared datasets.", required=True)
_IMAGES_DIR = flags.DEFINE_string("images_dir", None, "Also write the images there, as <split>/<tile id>.jpg.")
_OPTIONS = (
    flags.DEFINE_string("manual_dir", None, "deepglobe: the archive's zip, or its extracted folder; folder: yours."),
    flags.DEFINE_string("name", None, "folder: name of the dataset (default: that of --manual_dir)."),
    flags.DEFINE_list("bands", None, "folder: bands to take of each image, from 1, such as 4,3,2 (default all)."),
    flags.DEFINE_integer("size", None, "synthetic_v1: height and width of a tile in pixels (default 768)."),
    flags.DEFINE_integer("num_train", None, "synthetic_v1: tiles (default 16)."),
    flags.DEFINE_integer("num_validation", None, "synthetic_v1: tiles (default 4)."),
    flags.DEFINE_integer("num_test", None, "synthetic_v1: tiles (default 4)."),
    flags.DEFINE_integer("num_unlabelled", None, "synthetic_v1: tiles without a mask (default 4)."),
    flags.DEFINE_integer("seed", None, "synthetic_v1: of the world (default 0)."),
    flags.DEFINE_string(
        "scene", None, "synthetic_v1: landscape (default); or context or no_context, to check runs by."
    ),
)


def main() -> None:
    from pcejax.datasets import export, prepare

    options = {flag.name: flag.value for flag in _OPTIONS if flag.value is not None}
    folder = prepare.prepare_dataset(_DATASET.value, _DATA_DIR.value, **options)
    if _IMAGES_DIR.value:
        export.write_images(folder, Path(_IMAGES_DIR.value))
        print(f"images: {_IMAGES_DIR.value}")


if __name__ == "__main__":
    cli.run(main)

#!/usr/bin/env python3
"""Maps images with a trained run: scripts/predict.py --workdir=runs/unet --input=images/ --output=maps"""

from pathlib import Path

from absl import flags

from pcejax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_INPUT = flags.DEFINE_string("input", None, "Image file, folder of images, or glob.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the maps.", required=True)


def main() -> None:
    from pcejax import predict

    predict.predict(Path(_WORKDIR.value), _INPUT.value, Path(_OUTPUT.value))
    print(f"maps are in {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)

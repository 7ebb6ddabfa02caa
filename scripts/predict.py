#!/usr/bin/env python3
"""Maps images with a trained run: scripts/predict.py --workdir=runs/unet --input=images/ --output=maps"""

from pathlib import Path

from absl import app, flags

from pcejax.errors import exit_with_message

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_INPUT = flags.DEFINE_string("input", None, "Image file, folder of images, or glob.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the maps.", required=True)


def main(_: list[str]) -> None:
    from pcejax import predict

    with exit_with_message():
        predict.predict(Path(_WORKDIR.value), _INPUT.value, Path(_OUTPUT.value))
        print(f"maps are in {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)

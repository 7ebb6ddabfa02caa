#!/usr/bin/env python3
"""Maps images with a trained run: scripts/predict.py --workdir=runs/unet --input=images/ --output=maps"""

from pathlib import Path

from absl import flags

from pcejax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_INPUT = flags.DEFINE_string("input", None, "Image file, folder of images, or glob.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the maps.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace maps that are there.")
_CONFIDENCE = flags.DEFINE_bool("confidence", False, "GeoTIFFs: also write the probability of the class mapped.")
_PROBABILITIES = flags.DEFINE_bool("probabilities", False, "GeoTIFFs: also write the probability of each class.")
_MOVES = flags.DEFINE_bool("dihedral_moves", False, "Average over flips and quarter turns, for eight times the work.")


def main() -> None:
    from pcejax import predict

    predict.predict(
        Path(_WORKDIR.value),
        _INPUT.value,
        Path(_OUTPUT.value),
        overwrite=_OVERWRITE.value,
        dihedral_moves=_MOVES.value,
        confidence=_CONFIDENCE.value,
        probabilities=_PROBABILITIES.value,
    )
    print(f"maps are in {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)

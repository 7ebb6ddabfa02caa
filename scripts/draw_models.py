#!/usr/bin/env python3
"""Draws the model of each config in configs/: scripts/draw_models.py --output=docs/models"""

from pathlib import Path

from absl import flags

from pcejax import cli

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the drawings, <config>.svg.", required=True)
_SIZE = flags.DEFINE_integer("size", 256, "Side of the image, pixels.")


def main() -> None:
    import matplotlib

    from configs import all_configs
    from pcejax import model_drawing, models

    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a quarter of the bytes
    matplotlib.rcParams["svg.hashsalt"] = "pcejax"  # the same file for the same model
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in all_configs().items():
        model = models.create_model(config.model, 6)
        figure = model_drawing.draw(f"configs/{name}.py", model, config.model, _SIZE.value)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    cli.run(main)

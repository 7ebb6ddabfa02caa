#!/usr/bin/env python3
"""Draws what each annotator labels on a drawn scene: scripts/draw_annotators.py --output=docs/annotators.jpg"""

from pathlib import Path

from absl import flags

from pcejax import cli

_OUTPUT = flags.DEFINE_string("output", None, "Picture to write.", required=True)

_SIZE = 768  # px, side of the scene
_CELL = 320  # px, side of a panel
_PANELS = (
    ("truth", None),
    ("uniform, 60", {"annotator": "uniform", "budget": 60}),
    ("balanced, 10", {"annotator": "balanced", "budget": 10}),
    ("component, 3", {"annotator": "component", "budget": 3}),
    ("balanced, 10, interior", {"annotator": "balanced", "budget": 10, "placement": "interior"}),
    ("balanced, 10, boundary", {"annotator": "balanced", "budget": 10, "placement": "boundary"}),
    ("balanced, 10, 80 px apart", {"annotator": "balanced", "budget": 10, "min_distance_px": 80}),
    ("balanced, 10, discs of 12 px", {"annotator": "balanced", "budget": 10, "point_radius": 12}),
    ("balanced, 10, a third mistaken", {"annotator": "balanced", "budget": 10, "label_noise": 0.33}),
    ("scribble", {"annotator": "scribble", "scribble_width": 9}),
    ("block", {"annotator": "block"}),
    ("dense", {"annotator": "dense"}),
)


def main() -> None:
    from PIL import Image, ImageDraw

    from configs import default
    from pcejax import annotators, label_options, pictures
    from pcejax.datasets.landscapes import draw_tile
    from pcejax.legend import DEEPGLOBE

    image, mask = draw_tile(0, 2, _SIZE)
    columns = 4
    sheet = Image.new("RGB", (columns * (_CELL + 8) - 8, len(_PANELS) // columns * (_CELL + 28)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, (title, fields) in enumerate(_PANELS):
        if fields is None:
            panel = pictures.overlay(image, mask, DEEPGLOBE)
        else:
            options = label_options.label_options(default.get_config().points.to_dict() | fields)
            annotation = annotators.annotate(
                mask, "scene", None, options, legend=DEEPGLOBE, factor=1, train_unknown=False
            )
            if options.point_radius:
                annotation = annotation._replace(points=None)  # the discs themselves, not marks for the eye
            panel = pictures.with_annotation(image, annotation, DEEPGLOBE)
        x, y = index % columns * (_CELL + 8), index // columns * (_CELL + 28)
        pen.text((x + 2, y + 6), title, fill=(0, 0, 0), font_size=14)
        sheet.paste(Image.fromarray(panel).resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y + 24))
    sheet.save(Path(_OUTPUT.value), quality=85)


if __name__ == "__main__":
    cli.run(main)

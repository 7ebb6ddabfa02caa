#!/usr/bin/env python3
"""Scores a run on whole tiles, or any map by reference points:

scripts/evaluate.py --workdir=runs/unet --split=test
scripts/evaluate.py --map=map.tif --reference_points=reference.gpkg --draw_reference=500
scripts/evaluate.py --map=map.tif --reference_points=reference.gpkg
"""

from pathlib import Path

from absl import flags

from pcejax import cli
from pcejax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_SPLIT = flags.DEFINE_string("split", None, "Split or slices to score, such as test or train[6:].")
_BASELINES = flags.DEFINE_bool("baselines", False, "Also score trees taught by the same points.")
_MAP = flags.DEFINE_string("map", None, "GeoTIFF or PNG of classes, to be scored by reference points.")
_LEGEND = flags.DEFINE_string("legend", None, "The map's legend.yaml; DeepGlobe's classes if not given.")
_POINTS = flags.DEFINE_string("reference_points", None, "Points of the map: .csv, .geojson or .gpkg.")
_DRAW = flags.DEFINE_integer("draw_reference", None, "Draw so many reference points and write them, to be labelled.")
_MINIMUM = flags.DEFINE_integer("min_per_class", 50, "Least points in a class; the rest is in proportion to area.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the points drawn.")


def main() -> None:
    if _MAP.value and _POINTS.value and not _WORKDIR.value:
        score_map(Path(_MAP.value), Path(_POINTS.value))
    elif _WORKDIR.value and _SPLIT.value and not _MAP.value and not _POINTS.value:
        score_run(Path(_WORKDIR.value), _SPLIT.value)
    else:
        raise UserError("expected --workdir and --split to score a run, or --map and --reference_points to score a map")


def score_run(workdir: Path, split: str) -> None:
    from pcejax import baselines, evaluate, report

    evaluate.print_scores(evaluate.evaluate(workdir, split))
    if _BASELINES.value:
        baselines.score_baselines(workdir, split)
    print(f"report: {report.build_report(workdir)}")


def score_map(path: Path, points: Path) -> None:
    from pcejax import reference_points

    legend = Path(_LEGEND.value) if _LEGEND.value else None
    if _DRAW.value is not None:
        reference_points.draw(path, legend, points, _DRAW.value, _MINIMUM.value, _SEED.value)
    else:
        reference_points.print_scores(reference_points.score(path, legend, points))


if __name__ == "__main__":
    cli.run(main)

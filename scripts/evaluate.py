#!/usr/bin/env python3
"""Scores a trained run on whole tiles: scripts/evaluate.py --workdir=runs/unet --split=test"""

from pathlib import Path

from absl import flags

from pcejax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SPLIT = flags.DEFINE_string("split", None, "Split or slices to score, such as test or train[6:].", required=True)
_BASELINES = flags.DEFINE_bool("baselines", False, "Also score trees taught by the same points.")


def main() -> None:
    from pcejax import baselines, evaluate, report

    workdir = Path(_WORKDIR.value)
    evaluate.print_scores(evaluate.evaluate(workdir, _SPLIT.value))
    if _BASELINES.value:
        baselines.score_baselines(workdir, _SPLIT.value)
    print(f"report: {report.build_report(workdir)}")


if __name__ == "__main__":
    cli.run(main)

#!/usr/bin/env python3
"""Trains a run, or goes on with it: scripts/train.py --config=configs/unet.py --workdir=runs/unet"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from pcejax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/unet.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, report.", required=True)
flags.mark_flag_as_required("config")


def main() -> None:
    from pcejax import evaluate, report, train

    workdir = Path(_WORKDIR.value)
    scores = train.train_and_evaluate(_CONFIG.value, workdir)
    if scores:
        evaluate.print_scores(scores)
    print(
        f"run:     {workdir} (metrics.jsonl, tensorboard/, checkpoints/)\n"
        f"report:  {report.build_report(workdir)}\n"
        f"next:    scripts/predict.py --workdir={workdir} --input=<images> --output={workdir}/maps"
    )


if __name__ == "__main__":
    cli.run(main)

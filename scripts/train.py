#!/usr/bin/env python3
"""Trains a run, or goes on with it: scripts/train.py --config=configs/unet.py --workdir=runs/unet

On several hosts, one process each, all with the same command (under SLURM: srun, and none of the three):
  scripts/train.py --config=... --workdir=... --coordinator=<host 0>:<port> --num_processes=2 --process_id=<0 or 1>
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from pcejax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/unet.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, report.", required=True)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "<host>:<port> of process 0, where a run has several.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
flags.mark_flag_as_required("config")


def main() -> None:
    from pcejax import evaluate, parallel, report, train

    parallel.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    workdir = Path(_WORKDIR.value)
    scores = train.train_and_evaluate(_CONFIG.value, workdir)
    if not parallel.is_primary():
        return
    if scores:
        evaluate.print_scores(scores)
    print(
        f"run:     {workdir} (metrics.jsonl, tensorboard/, checkpoints/)\n"
        f"report:  {report.build_report(workdir)}\n"
        f"next:    scripts/predict.py --workdir={workdir} --input=<images> --output={workdir}/maps"
    )


if __name__ == "__main__":
    cli.run(main)

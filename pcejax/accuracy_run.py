"""A run of a comparison of scores, in a process of its own: `pcejax/accuracy.py` starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_collections

from pcejax import cli, evaluate, ops, ops_benchmark, train


def main(do: str, workdir: Path, config_file: Path) -> None:
    """Does one of three things.

    Args:
      do: "train", train and score the run | "plain", the same with the plain form of each op | "score", score the
        checkpoint that is in `workdir`.
      workdir: of the run.
      config_file: the run's config as JSON.
    """
    config = ml_collections.ConfigDict(json.loads(config_file.read_text())).lock()
    if do == "score":
        evaluate.evaluate(workdir, config.data.eval_split)
        return
    if do == "plain":
        for name, form in ops_benchmark.PLAIN.items():
            setattr(ops, name, form)
    train.train_and_evaluate(config, workdir)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv[1:] = []
    cli.run(lambda: main(arguments[0], Path(arguments[1]), Path(arguments[2])))

"""An ablation's peer: a recipe of PyTorch's users, trained by PyTorch on the labels of the arms."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from pcejax import ablation_grid, ablation_results, accuracy, metrics, runs, writers
from pcejax.ablation_grid import Arm
from pcejax.legend import Legend

_SHARED = (
    "data.name",
    "data.data_dir",
    "data.train_split",
    "data.eval_split",
    "data.num_labelled_tiles",
    "train.num_steps",
)
"""What the peer takes from the arms, beside their points."""


class _Run(NamedTuple):
    level: str
    draw: int
    fold: str
    config: ml_collections.ConfigDict


def check(ablation: ml_collections.ConfigDict, arms: Sequence[Arm], workdir: Path) -> None:
    """Checks that the peer, if any, can be trained, and that what is there of it is of its config: see `score`.

    Raises:
      UserError: torch is missing, the peer's config is, or it has what PyTorch's side lacks; or `workdir` holds runs
        of another config.
    """
    if ablation.peer:
        for run in _runs(ablation, arms):
            accuracy.check_torch(run.config)
            runs.check_config(_folder(workdir, run), run.config)


def score(ablation: ml_collections.ConfigDict, arms: Sequence[Arm], workdir: Path) -> None:
    """Trains `ablation.peer` in PyTorch for each of `ablation.peer_draws` at each budget, on each fold.

    A draw is of the points, and of crops and initialisation too. Each run is a folder in `workdir / "peer"` as if we
    had trained it. When the folds of a draw are done, a line is appended where baselines have theirs, see
    `baseline_draws.score`. What was cut goes on with the first run that is not done.
    """
    path = ablation_results.baselines_path(workdir)
    name = f"{ablation.peer}, by PyTorch"
    found = {(line["level"], line["draw"]) for line in writers.read_lines(path) if line["baseline"] == name}
    missing = [run for run in _runs(ablation, arms) if (run.level, run.draw) not in found] if ablation.peer else []
    if missing:
        jax.config.update("jax_platforms", "cpu")  # PyTorch needs the accelerator
    matrices: dict[str, list[list[int]]] = {}
    for done, run in enumerate(missing):
        folder = _folder(workdir, run)
        scores = runs.evaluation_path(folder, run.config.data.eval_split)
        if not scores.exists():
            accuracy.run_torch(run.config, folder, f"peer {done + 1}/{len(missing)}: {_told(run)}")
        result = json.loads(scores.read_text())
        matrices |= result["tiles"]
        if (run.level, run.draw) != next((run[:2] for run in missing[done + 1 : done + 2]), None):
            num_known = Legend.from_dict(result["legend"]).num_known
            miou = float(metrics.miou(np.sum([*matrices.values()], 0), num_known))
            line = {"baseline": name, "level": run.level, "draw": run.draw, "miou": miou, "tiles": matrices}
            writers.append_line(path, line)
            print(f"peer: {run.level} points, draw {run.draw}: mIoU {miou:.3f}", flush=True)
            matrices = {}


def _told(run: _Run) -> str:
    return f"{run.level} points, draw {run.draw}{f', fold {run.fold}' if run.fold else ''}"


def _folder(workdir: Path, run: _Run) -> Path:
    return workdir / "peer" / _told(run).replace(" ", "_")


def _runs(ablation: ml_collections.ConfigDict, arms: Sequence[Arm]) -> Iterator[_Run]:
    """All of them, the folds of a draw one after the other."""
    of_level: dict[str, dict[str, Arm]] = {}
    for arm in arms:
        of_level.setdefault(arm.levels[ablation.budget_axis], {}).setdefault(arm.fold, arm)
    budgets = ablation_grid.budgets(ablation, arms)
    for draw in ablation.peer_draws:
        for level in (level for level, budget in budgets.items() if budget is not None):
            for fold, arm in of_level[level].items():
                ours = ablation_grid.config_of(ablation, arm.overrides)
                theirs = ablation_grid.load(ablation.peer)
                theirs.points = ours.points.copy_and_resolve_references()
                theirs.update_from_flattened_dict({field: operator.attrgetter(field)(ours) for field in _SHARED})
                theirs.seed = theirs.points.seed = draw
                yield _Run(level, draw, fold, theirs.lock())

"""Runs the arms of an ablation that are not done yet, whatever was cut before."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from pcejax import (
    ablation_grid,
    ablation_peer,
    ablation_report,
    ablation_results,
    baseline_draws,
    datasets,
    interrupts,
    runs,
    writers,
)
from pcejax.ablation_grid import Arm
from pcejax.datasets import prepare
from pcejax.errors import UserError
from pcejax.launchers import Ended, Launcher, Task

_EVERY = 10.0  # seconds between lines of progress


def run_ablation(
    ablation: ml_collections.ConfigDict, workdir: Path, launch: Launcher, command: Sequence[str]
) -> list[str]:
    """Runs what is missing of the ablation in `workdir`, and writes its report.

    Starting, in this order:
      1. the arms are expanded, and the protocol is checked;
      2. the workdir must hold this ablation or none, and its arms these configs;
      3. a drawn dataset is prepared where it is missing;
      4. baselines are scored over their draws of points;
      5. arms without the scores of their last step are started, those of the first seeds first. One that was cut goes
         on from its checkpoint;
      6. the peer is trained by PyTorch.

    Args:
      ablation: fields: configs/ablations/default.py.
      workdir: of the ablation.
      launch: runs the arms.
      command: that started it, for the report.

    Returns:
      The arms that failed; they kept no other from ending.

    Raises:
      UserError: ablation, dataset and workdir do not fit.
      Interrupted: a signal asked to stop, and all arms did; what they had done is saved.
    """
    arms = ablation_grid.expand(ablation)
    ablation_peer.check(ablation, arms, workdir)
    configs = {arm.name: ablation_grid.config_of(ablation, _overrides(workdir, arm)) for arm in arms}
    for arm in arms:
        runs.check_config(_folder(workdir, arm), configs[arm.name])
    _open_workdir(workdir, ablation_grid.describe(ablation, arms, command))
    _prepare(ablation, next(iter(configs.values())))
    _score_baselines(ablation, arms, workdir)
    missing = [arm for arm in arms if not _is_done(_folder(workdir, arm), configs[arm.name])]
    tasks = [Task(arm.name, _command(ablation, workdir, arm), workdir / "logs" / f"{arm.name}.txt") for arm in missing]
    exit_codes = _run(workdir, tasks, configs, launch)
    failed = _failed(exit_codes)
    done = len(arms) - len(missing) + list(exit_codes.values()).count(0)
    if done + len(failed) < len(arms):
        raise interrupts.Interrupted(f"by {interrupts.name()}; {done} of {len(arms)} arms are done")
    ablation_peer.score(ablation, arms, workdir)
    if done:
        print(f"report: {ablation_report.write_report(workdir)}", flush=True)
    return failed


def _run(
    workdir: Path, tasks: Sequence[Task], configs: Mapping[str, ml_collections.ConfigDict], launch: Launcher
) -> dict[str, int]:
    """Runs the tasks, and tells of them; returns the exit codes of those that ended."""
    folders = [workdir / "arms" / name for name in configs]
    by_name = {task.name: task for task in tasks}
    exit_codes: dict[str, int] = {}
    progress = writers.Progress(sum(config.train.num_steps for config in configs.values()), _steps(folders))
    told = -math.inf
    with interrupts.deferred() as asked:
        for ended in launch(tasks, asked):
            for end in ended:
                exit_codes[end.name] = end.exit_code
                record = {"arm": end.name, "seconds": round(end.seconds, 1), "exit_code": end.exit_code}
                writers.append_line(workdir / "durations.jsonl", record)
                took = writers.format_duration(end.seconds)
                print(f"{end.name}: {_outcome(by_name[end.name], configs[end.name], end, took)}", flush=True)
            if ended or time.monotonic() - told > _EVERY:
                told = time.monotonic()
                codes = list(exit_codes.values())
                done, failed = len(configs) - len(tasks) + codes.count(0), len(_failed(exit_codes))
                print(
                    f"ablation: arms {done}/{len(configs)}{f', {failed} failed' if failed else ''}; "
                    f"steps {progress.line(_steps(folders))}",
                    flush=True,
                )
    return exit_codes


def _failed(exit_codes: Mapping[str, int]) -> list[str]:
    return [name for name, code in exit_codes.items() if code not in (0, interrupts.EXIT_CODE)]


def _steps(folders: Iterable[Path]) -> int:
    """Steps that all arms have recorded."""
    records = (writers.read_lines(folder / "metrics.jsonl") for folder in folders)
    return sum(lines[-1]["step"] for lines in records if lines)


def _outcome(task: Task, config: ml_collections.ConfigDict, end: Ended, took: str) -> str:
    """How the arm's start ended, for people."""
    folder = task.log.parents[1] / "arms" / task.name
    if end.exit_code == 0:
        result = json.loads(runs.evaluation_path(folder, config.data.eval_split).read_text())
        return f"done after {took}, mIoU {result['miou']:.3f}"
    if end.exit_code == interrupts.EXIT_CODE:
        return f"stopped after {took}"
    last_start = task.log.read_text(errors="replace").rpartition("\n$ ")[2]
    lines = [line for line in last_start.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return (
        f"failed with exit code {end.exit_code} after {took}: {errors[-1]}\n"
        f"  all that it told: {task.log}\n  again, alone: {shlex.join(task.command)}"
    )


def _open_workdir(workdir: Path, told: dict[str, Any]) -> None:
    """Writes ablation.json, or checks that the one there is the same but for the command."""
    path = workdir / "ablation.json"
    if not path.exists():
        writers.write_json(path, told)
        return
    old = json.loads(path.read_text())
    differing = [name for name in {**old, **told} if name != "command" and old.get(name) != told.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {_difference(old.get(name), told.get(name))}" for name in differing)
        raise UserError(f"{workdir} holds another ablation: {shown}; take another --workdir, or start with its config")


def _difference(old: Any, new: Any) -> str:
    """The two values; of two lists what only one of them has."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = [value for value in old if value not in new], [value for value in new if value not in old]
        return f"{len(old)} there alone, such as {old[:1]}; {len(new)} now alone, such as {new[:1]}"
    return f"{old!r} there, {new!r} now"


def _prepare(ablation: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    """Has the dataset there: draws one that is drawn; any other is the user's."""
    try:
        datasets.open_dataset(config.data.name, config.data.data_dir)
    except UserError:
        if not ablation.prepare:
            raise
        prepare.prepare_dataset("synthetic_v1", config.data.data_dir, **ablation.prepare)


def _score_baselines(ablation: ml_collections.ConfigDict, arms: Sequence[Arm], workdir: Path) -> None:
    if not ablation.baselines:
        return
    jax.config.update("jax_platforms", "cpu")  # the arms need the accelerators
    budgets = {level: count for level, count in ablation_grid.budgets(ablation, arms).items() if count is not None}
    folds = {arm.fold: arm for arm in reversed(arms) if arm.levels[ablation.budget_axis] in budgets}
    configs = {fold: ablation_grid.config_of(ablation, arm.overrides) for fold, arm in folds.items()}
    baseline_draws.score(ablation.baselines, budgets, configs, ablation_results.baselines_path(workdir))


def _is_done(folder: Path, config: ml_collections.ConfigDict) -> bool:
    path = runs.evaluation_path(folder, config.data.eval_split)
    return path.exists() and json.loads(path.read_text())["step"] == config.train.num_steps


def _folder(workdir: Path, arm: Arm) -> Path:
    return workdir / "arms" / arm.name


def _overrides(workdir: Path, arm: Arm) -> dict[str, Any]:
    """Those of the arm, and the caches that arms share."""
    cache = workdir / "cache"
    return arm.overrides | {"data.cache_dir": str(cache / "tiles"), "train.compilation_cache": str(cache / "compiled")}


def _command(ablation: ml_collections.ConfigDict, workdir: Path, arm: Arm) -> list[str]:
    """The arm's run, as a user can start it."""
    script, base = (os.path.relpath(ablation_grid.ROOT / path) for path in ("scripts/train.py", ablation.base))
    flags = ablation_grid.flags(_overrides(workdir, arm))
    return [sys.executable, script, f"--config={base}", f"--workdir={_folder(workdir, arm)}", *flags]

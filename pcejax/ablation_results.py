"""An ablation's workdir -> what its report is made of, from result files alone."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from pcejax import interrupts, label_options, metrics, runs, writers
from pcejax.ablation_statistics import Run
from pcejax.errors import UserError
from pcejax.legend import Legend

FIT = "fit"
"""The protocol of an arm that the very pixels of its score taught: a score that tests nothing."""

_SEEDS = ("seed", "points.seed")
_OF_AN_EVALUATION = ("tiles", "legend", "protocol", "points", "step", "dataset")


class Arm(NamedTuple):
    """An arm that is trained and scored, on all folds: what is no score is its first fold's."""

    name: str  # without that of a fold
    workdir: Path  # of its first fold
    split: str  # that is scored there
    run: Run
    miou: float  # of all its tiles
    protocol: str
    dataset: str
    points: dict[str, Any]  # of its evaluation: what taught it
    config: dict[str, Any]  # flat: "train.num_steps" -> value
    manifest: dict[str, Any]


class _Scored(NamedTuple):
    """What an arm left behind on one fold."""

    told: dict[str, Any]  # of ablation.json
    folder: Path
    evaluation: dict[str, Any]
    config: dict[str, Any]


class Unfinished(NamedTuple):
    """An arm without a score of its last step: why, and the last line of its log, "" where it has none."""

    name: str
    why: str
    last_line: str


class Results(NamedTuple):
    """What an ablation's workdir holds.

    about: ablation.json. legend: of all arms, None where none is scored. seconds: of each arm that was started,
    over all its starts.
    """

    about: dict[str, Any]
    legend: Legend | None
    arms: list[Arm]
    unfinished: list[Unfinished]
    baselines: list[dict[str, Any]]  # see baseline_draws.score
    seconds: dict[str, float]


def read(workdir: Path) -> Results:
    """The results of the ablation in `workdir`, finished or not.

    Raises:
      UserError: there is no ablation; a file of results is damaged; arms differ in legend, tiles or protocol.
    """
    path = workdir / "ablation.json"
    if not path.exists():
        raise UserError(
            f"{workdir}: no ablation there, ablation.json is missing; expected the --workdir of scripts/ablate.py"
        )
    about = json.loads(path.read_text())
    starts: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for record in writers.read_lines(workdir / "durations.jsonl"):
        starts[record["arm"]].append(record)
    folds: dict[str, list[_Scored]] = {}
    unfinished, legends = [], {}
    for told in about["arms"]:
        folder = workdir / "arms" / told["name"]
        evaluation = _evaluation(runs.evaluation_path(folder, told["eval_split"]))
        config = _read(folder / "config.json") if evaluation else {}
        if evaluation and evaluation["step"] == config["train"]["num_steps"]:
            folds.setdefault(_name(told), []).append(_Scored(told, folder, evaluation, config))
            legends[told["name"]] = evaluation["legend"]
        else:
            why = f"scored at step {evaluation['step']}, not at its last" if evaluation else _why(starts[told["name"]])
            unfinished.append(Unfinished(told["name"], why, _last_line(workdir / "logs" / f"{told['name']}.txt")))
    _check_alike("legend", legends)
    whole = (scored for scored in folds.values() if len(scored) == about["folds"])
    arms = [_arm(scored, about["seconds"]) for scored in whole]
    _check_alike("tiles", {arm.name: sorted(arm.run.matrices) for arm in arms})
    _check_alike("protocol", {arm.name: arm.protocol for arm in arms if arm.protocol != FIT})
    seconds = {name: sum(record["seconds"] for record in records) for name, records in starts.items() if records}
    legend = Legend.from_dict(next(iter(legends.values()))) if arms else None
    return Results(about, legend, arms, unfinished, writers.read_lines(baselines_path(workdir)), seconds)


def baselines_path(workdir: Path) -> Path:
    """Where the scores of an ablation's baselines are."""
    return workdir / "baselines.jsonl"


def annotator_hours(points: Mapping[str, Any], seconds: Mapping[str, float]) -> float:
    """Hours of an annotator's work that the labels of a run take, NaN for strokes and blocks, which have no price.

    Args:
      points: of the run's evaluation.
      seconds: "click" a point, "tile" opened for points, "mask" of a whole tile.
    """
    if points["annotator"] in label_options.DENSE:
        return points["num_tiles"] * seconds["mask"] / 3600
    if points["annotator"] not in label_options.POINTS:
        return float("nan")
    clicks = sum(points["point_counts"].values())
    return (clicks * seconds["click"] + points["num_tiles"] * seconds["tile"]) / 3600


def setting(levels: Mapping[str, str]) -> str:
    """Levels in words, such as "points=3, model=deep"."""
    return ", ".join(f"{axis}={level}" for axis, level in levels.items())


def differing_fields(arms: Sequence[Arm]) -> dict[str, dict[str, list[Any]]]:
    """Config fields in which arms differ, seeds apart: field -> level or setting -> its values, one if all is well.

    A field that one axis alone decides is told by that axis's levels, another by whole settings.
    """
    differing = {}
    for name in sorted({name for arm in arms for name in arm.config} - {*_SEEDS}):
        values = [arm.config.get(name) for arm in arms]
        if all(value == values[0] for value in values):
            continue
        every = tuple(arms[0].run.levels)
        for axes in (*((axis,) for axis in every), every):
            by_level: dict[str, list[Any]] = {}
            for arm, value in zip(arms, values, strict=True):
                seen = by_level.setdefault(setting({axis: arm.run.levels[axis] for axis in axes}), [])
                seen += [value] if value not in seen else []
            differing[name] = by_level
            if all(len(seen) == 1 for seen in by_level.values()):
                break
    return differing


def _arm(folds: Sequence[_Scored], seconds: Mapping[str, float]) -> Arm:
    """The arm of which these are the folds: the tiles of all, and the mean of an annotator's hours."""
    told, folder, evaluation, config = folds[0]
    matrices = {tile: np.array(matrix, np.int64) for fold in folds for tile, matrix in fold.evaluation["tiles"].items()}
    if len(matrices) < sum(len(fold.evaluation["tiles"]) for fold in folds):
        raise UserError(f"{folder}: its folds score a tile more than once; expected splits of their own")
    hours = [annotator_hours(fold.evaluation["points"], seconds) for fold in folds]
    run = Run(told["levels"], told["seed"], told["point_seed"], matrices, float(np.mean(hours)))
    num_known = Legend.from_dict(evaluation["legend"]).num_known
    return Arm(
        _name(told),
        folder,
        told["eval_split"],
        run,
        float(metrics.miou(np.sum(list(matrices.values()), 0), num_known)),
        evaluation["protocol"],
        evaluation["dataset"],
        evaluation["points"],
        traverse_util.flatten_dict(config, sep="."),
        _read(folder / "manifest.json"),
    )


def _name(told: Mapping[str, Any]) -> str:
    return told["name"].removesuffix(f",fold={told['fold']}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; expected what the arm's training wrote; remove the arm's folder and start again"
        ) from error


def _evaluation(path: Path) -> dict[str, Any] | None:
    """The scores at `path`, None where there are none yet."""
    if not path.exists():
        return None
    again = "remove the file and start again: the arm is scored from its checkpoint"
    try:
        result = json.loads(path.read_text())
        missing = [name for name in _OF_AN_EVALUATION if name not in result]
        sides = {np.array(matrix, np.int64).shape for matrix in result.get("tiles", {}).values()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, {error}; {again}") from error
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)} in it; expected what an evaluation writes; {again}")
    num = len(result["legend"]["names"])
    if sides != {(num, num)}:
        raise UserError(f"{path}: matrices of {sorted(sides)}; expected ({num}, {num}) on every tile; {again}")
    return result


def _why(starts: list[dict[str, Any]]) -> str:
    if not starts:
        return "not started, or not ended yet"
    code = starts[-1]["exit_code"]
    if code == interrupts.EXIT_CODE:
        return "stopped; the same command goes on with it"
    return f"failed with exit code {code}" if code else "ended without scores"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _check_alike(what: str, values: Mapping[str, Any]) -> None:
    first = next(iter(values), "")
    for name, value in values.items():
        if value != values[first]:
            raise UserError(
                f"arms {first} and {name} are scored with another {what}: {values[first]} and {value}; expected one "
                "for all arms; was the dataset prepared anew? remove the folders of the arms that are older"
            )

"""Runs of an ablation -> scores of its settings, their paired differences and their curves, with intervals.

Every score comes from confusion matrices summed over the tiles; unknown truth is left out as in `metrics.miou`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pcejax import crossed_bootstrap, metrics, saturation
from pcejax.crossed_bootstrap import Interval, Labels, Resamples
from pcejax.errors import UserError

MIN_TILES = 20
"""Below, intervals are descriptive and no difference is claimed."""

_REFERENCES = ("dense", "dense_balanced")


class Run(NamedTuple):
    """A finished arm."""

    levels: dict[str, str]  # axis -> label of its level
    seed: int
    point_seed: int
    matrices: dict[str, np.ndarray]  # tile id -> int64 [C, C], truth by row, C the legend's number of classes
    annotator_hours: float


class _Scored(NamedTuple):
    """A run's scores. `[.., 1 + known]` are the mIoU and then each class's IoU, NaN where it is absent."""

    run: Run
    draw: int | None  # None where no draw of points taught it
    scores: np.ndarray  # [1 + known]
    by_tiles: np.ndarray  # [resamples, 1 + known], on resampled tiles
    tiles: np.ndarray  # [tiles], mIoU of each


def summarise(
    runs: Sequence[Run],
    axes: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    budget_axis: str | None,
    budgets: Mapping[str, int | None],
    references: Mapping[str, str],
    differences: Sequence[tuple[str, str, str]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The statistics of an ablation, as JSON types.

    Args:
      runs: those that finished, all scored on the same tiles; what failed is left out.
      axes: labels of each axis's levels, in order.
      class_names: of the known classes.
      budget_axis: axis whose levels are budgets.
      budgets: clicks of each of its levels, None where it has none: its runs have no draw of points.
      references: level of the budget axis that is `dense`, or `dense_balanced`.
      differences: (axis, level, against): the paired differences that are asked for, level minus against, at each
        combination of the other axes' levels.
      resamples: of tiles, seeds and point draws.
      seed: of the resamples.

    Returns:
      `tiles`, `descriptive`, `level`, `resamples`, `comparisons` (how many differences were tested), `settings`,
      `differences` and `saturation`. Settings without a run and differences without a pair are left out. An interval
      names what it was `resampled` over, since a factor of one level cannot be; it is None for one run on one tile.

    Raises:
      UserError: there is no run, runs were scored on different tiles, or one has nothing to score.
    """
    tile_ids = _common_tiles(runs)
    draws = [_draw(run, budget_axis, budgets) for run in runs]
    resampled = Resamples(len(tile_ids), Labels([run.seed for run in runs], draws), resamples, seed)
    settings: dict[tuple[str, ...], list[_Scored]] = {levels: [] for levels in itertools.product(*axes.values())}
    for run, draw in zip(runs, draws, strict=True):
        scored = _score(run, draw, tile_ids, len(class_names), resampled)
        settings[tuple(run.levels[axis] for axis in axes)].append(scored)
    settings = {levels: group for levels, group in settings.items() if group}
    descriptive = len(tile_ids) < MIN_TILES
    told_settings = [
        _setting(dict(zip(axes, levels, strict=True)), group, class_names, len(tile_ids))
        for levels, group in settings.items()
    ]
    if budget_axis is not None:
        _add_retention(told_settings, budget_axis, references)
    told_differences = []
    for axis, level, against in differences:
        at = list(axes).index(axis)
        for levels, group in settings.items():
            other = settings.get((*levels[:at], against, *levels[at + 1 :]))
            if levels[at] != level or other is None or not (pairs := _pairs(group, other)):
                continue
            held = {name: label for name, label in zip(axes, levels, strict=True) if name != axis}
            told = {"axis": axis, "level": level, "against": against, "held": held}
            told_differences.append(told | _difference(pairs, tile_ids, descriptive))
    return {
        "tiles": len(tile_ids),
        "descriptive": descriptive,
        "level": crossed_bootstrap.LEVEL,
        "resamples": resamples,
        "comparisons": len(told_differences),
        "settings": told_settings,
        "differences": told_differences,
        "saturation": _saturation(settings, axes, budget_axis, budgets, resampled) if budget_axis else [],
    }


def _name(run: Run) -> str:
    levels = ",".join(f"{axis}={label}" for axis, label in run.levels.items())
    return f"run {levels},seed={run.seed},draw={run.point_seed}"


def _common_tiles(runs: Sequence[Run]) -> list[str]:
    if not runs:
        raise UserError("no arm has finished; expected one at least; see what the arms printed, then run them again")
    tile_ids = list(runs[0].matrices)
    for run in runs:
        differing = sorted(set(run.matrices) ^ set(tile_ids))
        if differing:
            raise UserError(
                f"{_name(run)}: scored on other tiles than {_name(runs[0])}: {', '.join(differing[:5])} are in only "
                "one of them; expected the same tiles in all arms; score them on one split"
            )
    return tile_ids


def _draw(run: Run, budget_axis: str | None, budgets: Mapping[str, int | None]) -> int | None:
    drawn = budget_axis is None or budgets[run.levels[budget_axis]] is not None
    return run.point_seed if drawn else None


def _score(run: Run, draw: int | None, tile_ids: list[str], num_known: int, resampled: Resamples) -> _Scored:
    matrices = np.stack([run.matrices[tile_id] for tile_id in tile_ids])

    def scores(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([metrics.miou(matrix, num_known)[..., None], metrics.iou(matrix, num_known)], -1)

    whole = scores(matrices.sum(0))
    if np.isnan(whole[0]):
        raise UserError(
            f"{_name(run)}: no pixel of a known class on any tile; expected masks; score it on another split"
        )
    return _Scored(
        run, draw, whole, scores(np.tensordot(resampled.tiles, matrices, 1)), metrics.miou(matrices, num_known)
    )


def _labels(group: Sequence[_Scored]) -> Labels:
    return Labels([scored.run.seed for scored in group], [scored.draw for scored in group])


def _setting(
    levels: dict[str, str], group: list[_Scored], class_names: Sequence[str], num_tiles: int
) -> dict[str, Any]:
    labels = _labels(group)
    scores = np.stack([scored.scores for scored in group])  # [runs, 1 + known]
    by_tiles = np.stack([scored.by_tiles for scored in group], 1)  # [resamples, runs, 1 + known]
    spread = crossed_bootstrap.interval(scores[:, 0], by_tiles[..., 0], num_tiles, labels)
    iou, iou_interval = {}, {}
    for column, name in enumerate(class_names, 1):
        present = ~np.isnan(scores[:, column])
        iou[name] = float(scores[present, column].mean()) if present.any() else None
        tiles_with = sum(matrix[column - 1].any() for matrix in group[0].run.matrices.values())
        # Resamples of one tile with the class are all alike.
        iou_interval[name] = (
            _bounds(crossed_bootstrap.interval(scores[:, column], by_tiles[..., column], num_tiles, labels), 0.0)
            if present.all() and tiles_with > 1
            else None
        )
    return {
        "levels": levels,
        "runs": len(group),
        "seeds": len(set(labels.seeds)),
        "point_seeds": len(set(labels.draws)),
        "miou": float(scores[:, 0].mean()),
        "sd_seeds": _pooled_deviation(scores[:, 0], labels.draws),
        "sd_point_seeds": _pooled_deviation(scores[:, 0], labels.seeds),
        "interval": _bounds(spread, 0.0),
        "resampled": list(spread.factors) if spread else [],
        "iou": iou,
        "iou_interval": iou_interval,
        "annotator_hours": float(np.mean([scored.run.annotator_hours for scored in group])),
        "retention": dict.fromkeys(_REFERENCES),
    }


def _bounds(interval: Interval | None, least: float) -> list[float] | None:
    return None if interval is None else [max(interval.low, least), min(interval.high, 1.0)]


def _pooled_deviation(values: np.ndarray, held: Sequence[int | None]) -> float | None:
    """Standard deviation among values of the same `held`, pooled over those; None where each is alone."""
    groups = [values[[label == level for label in held]] for level in set(held)]
    freedom = len(values) - len(groups)
    return float(np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom)) if freedom else None


def _add_retention(settings: list[dict[str, Any]], budget_axis: str, references: Mapping[str, str]) -> None:
    """The mIoU over that of each reference at the same levels of the other axes: a description, without interval."""
    miou = {tuple(setting["levels"].items()): setting["miou"] for setting in settings}
    for setting in settings:
        for name, level in references.items():
            of_reference = miou.get(tuple((setting["levels"] | {budget_axis: level}).items()))
            setting["retention"][name] = setting["miou"] / of_reference if of_reference else None


def _pairs(group: Sequence[_Scored], other: Sequence[_Scored]) -> list[tuple[_Scored, _Scored]]:
    """Runs of the same seed and the same draw; one without a draw is paired with every draw of its seed."""
    return [
        (one, two)
        for one in group
        for two in other
        if one.run.seed == two.run.seed and (one.draw == two.draw or None in (one.draw, two.draw))
    ]


def _difference(pairs: list[tuple[_Scored, _Scored]], tile_ids: list[str], descriptive: bool) -> dict[str, Any]:
    labels = Labels(
        [one.run.seed for one, _ in pairs], [two.draw if one.draw is None else one.draw for one, two in pairs]
    )
    values = np.array([one.scores[0] - two.scores[0] for one, two in pairs])
    by_tiles = np.stack([one.by_tiles[:, 0] - two.by_tiles[:, 0] for one, two in pairs], 1)
    spread = crossed_bootstrap.interval(values, by_tiles, len(tile_ids), labels)
    apart = spread is not None and not spread.low <= 0.0 <= spread.high
    tiles = np.mean([one.tiles - two.tiles for one, two in pairs], 0)
    return {
        "difference": float(values.mean()),
        "interval": _bounds(spread, -1.0),
        "resampled": list(spread.factors) if spread else [],
        "claim": apart and not descriptive and len(set(labels.seeds)) > 1,
        "pairs": len(pairs),
        "tiles": {
            tile_id: None if np.isnan(value) else float(value) for tile_id, value in zip(tile_ids, tiles, strict=True)
        },
    }


def _saturation(
    settings: Mapping[tuple[str, ...], list[_Scored]],
    axes: Mapping[str, Sequence[str]],
    budget_axis: str,
    budgets: Mapping[str, int | None],
    resampled: Resamples,
) -> list[dict[str, Any]]:
    """The curve over budgets at each combination of the other axes' levels."""
    at = list(axes).index(budget_axis)
    curves: dict[tuple[str, ...], list[tuple[int, list[_Scored]]]] = {}
    for levels, group in settings.items():
        budget = budgets[levels[at]]
        if budget is not None:
            curves.setdefault((*levels[:at], *levels[at + 1 :]), []).append((budget, group))
    result = []
    for held, curve in curves.items():
        points, moved = [], []
        for budget, group in sorted(curve, key=lambda point: point[0]):
            labels, values = _labels(group), np.array([scored.scores[0] for scored in group])
            by_tiles = np.stack([scored.by_tiles[:, 0] for scored in group], 1)
            spread = crossed_bootstrap.interval(values, by_tiles, resampled.tiles.shape[1], labels)
            points.append([budget, float(values.mean())])
            means = resampled.means(by_tiles, labels)
            moved.append(means if spread is None else crossed_bootstrap.rescaled(means, values.mean(), spread))
        names = [axis for axis in axes if axis != budget_axis]
        told = {"held": dict(zip(names, held, strict=True)), "points": points}
        result.append(told | saturation.summary(points, np.stack(moved, 1)))
    return result

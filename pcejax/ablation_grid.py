"""An ablation's config -> its arms: each a run of scripts/train.py, and all of them comparable."""

from __future__ import annotations

import itertools
import json
import operator
import re
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from pcejax.errors import UserError
from pcejax.label_options import DENSE

ROOT = Path(__file__).parents[1]
"""Of `scripts` and `configs`."""

_EQUAL_SECTIONS = ("augment", "optimizer")
_EQUAL = (
    "train.num_steps",
    "train.batch_size",
    "train.accumulation",
    "train.ema_decay",
    "data.name",
    "data.train_split",
    "data.unlabelled_split",
    "data.eval_split",
    "data.anchored_share",
    "data.unlabelled_share",
)
"""What is equal in all arms, dense ones included, unless it is the factor; and so is the ground that a crop covers."""

_SEEDS = ("seed", "points.seed")


class Arm(NamedTuple):
    """A run of the ablation."""

    name: str  # of its folder, such as "points=3,seed=0,draw=1", with ",fold=a" where there are folds
    levels: dict[str, str]  # axis -> label
    seed: int
    point_seed: int
    fold: str  # "" without folds
    overrides: dict[str, Any]  # field -> value, of the base config


def expand(ablation: ml_collections.ConfigDict) -> list[Arm]:
    """The arms of an ablation (fields: configs/ablations/default.py): all combinations of levels, seeds, draws, folds.

    Those of the first seeds come first, so that an ablation that is cut has compared all levels a few times.

    Raises:
      UserError: a field is wrong, or arms could not be compared: see `check_protocol`.
    """
    _check_fields(ablation)
    arms = []
    for seed in ablation.seeds:
        for labels in itertools.product(*ablation.axes.values()):
            levels = dict(zip(ablation.axes, labels, strict=True))
            for point_seed in _point_seeds(ablation, levels):
                names = {**levels, "seed": str(seed), "draw": str(point_seed)}
                overrides = dict(ablation.overrides)
                for axis, label in levels.items():
                    overrides |= ablation.axes[axis][label]
                overrides |= {"seed": seed, "points.seed": point_seed}
                name = ",".join(f"{axis}={label}" for axis, label in names.items())
                for fold, splits in ablation.folds.items():
                    arms.append(Arm(f"{name},fold={fold}", levels, seed, point_seed, fold, overrides | splits))
                if not ablation.folds:
                    arms.append(Arm(name, levels, seed, point_seed, "", overrides))
    check_protocol(ablation, arms)
    return sorted(arms, key=lambda arm: _turn(ablation, arm))


def config_of(ablation: ml_collections.ConfigDict, overrides: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config that `scripts/train.py --config=<base>` with the overrides as flags gives, locked.

    Raises:
      UserError: no such base config or field, or a value of another type.
    """
    config = load(ablation.base).lock()
    for field, value in overrides.items():
        try:
            operator.attrgetter(field)(config)
            config.update_from_flattened_dict({field: value})
        except AttributeError as error:  # ml_collections names the nearest
            cause = error.args[0]  # the message, or the KeyError that has it
            told = str(cause.args[0] if isinstance(cause, KeyError) else cause).replace("\n", "; ")
            raise UserError(f"{ablation.name}: {field}={value!r}: no field {told}") from error
        except (TypeError, KeyError) as error:
            raise UserError(f"{ablation.name}: {field}={value!r}: {error}") from error
    return config


def flags(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as flags of scripts/train.py."""
    return [f"--config.{field}={value}" for field, value in overrides.items()]


def check_protocol(ablation: ml_collections.ConfigDict, arms: Iterable[Arm]) -> None:
    """Checks that arms differ in nothing but what is compared (DESIGN, "Protocol of a comparison").

    Steps, crops and the ground that they cover, schedule, augmentation, anchoring and splits are equal in all arms,
    unless they are the factor, every level of which sets them then; splits, in all arms of a fold. Levels of points
    differ in `points.budget` alone, so that budgets are nested.

    Raises:
      UserError: they do; the message has the field, two arms and their values.
    """
    arms = list(arms)
    configs = {arm.name: config_of(ablation, arm.overrides) for arm in arms}
    factor = [*ablation.axes[ablation.factor].values()]
    first = next(iter(configs.values()))
    fields = (*_EQUAL, *(f"{section}.{name}" for section in _EQUAL_SECTIONS for name in first[section]))
    kept: dict[str, Callable[[ml_collections.ConfigDict], Any]] = {
        field: operator.attrgetter(field) for field in fields if not all(field in level for level in factor)
    }
    # Levels of another scale have other crops, of the same ground.
    if any("data.crop" not in level or "data.scale" in level for level in factor):
        kept["data.crop / data.scale"] = lambda config: config.data.crop / config.data.scale
    for (field, value_of), fold in itertools.product(kept.items(), dict.fromkeys(arm.fold for arm in arms)):
        values = {arm.name: value_of(configs[arm.name]) for arm in arms if arm.fold == fold}
        name, other = _differing(values)
        if name != other:
            raise UserError(
                f"{ablation.name}: {field} is {values[name]} in arm {name} and {values[other]} in arm {other}; "
                f"expected it equal in all arms, or set by every level of the factor, {ablation.factor!r}"
            )
    for name, config in configs.items():
        if not config.data.eval_split:
            raise UserError(f"{ablation.name}: data.eval_split='' in arm {name}; expected the split that is scored")
    _check_nested(ablation)


def budgets(ablation: ml_collections.ConfigDict, arms: Iterable[Arm]) -> dict[str, int | None]:
    """`points.budget` of each level of the budget axis, None of dense masks; {} without such an axis."""
    axis, found = ablation.budget_axis, {}
    for arm in arms if axis else ():
        if arm.levels[axis] not in found:
            points = config_of(ablation, arm.overrides).points
            found[arm.levels[axis]] = None if points.annotator in DENSE else points.budget
    return {label: found[label] for label in ablation.axes[axis]} if axis else {}


def describe(ablation: ml_collections.ConfigDict, arms: list[Arm], command: Sequence[str]) -> dict[str, Any]:
    """What `ablation.json` holds, as JSON types."""
    told = {
        name: ablation[name]
        for name in ("name", "size", "title", "question", "watermark", "base", "factor", "references", "seconds")
    }
    told |= {
        "command": [*command],
        "axes": {axis: list(levels) for axis, levels in ablation.axes.items()},
        "budget_axis": ablation.budget_axis or None,
        "budgets": budgets(ablation, arms),
        "differences": ablation.differences,
        "folds": max(1, len(ablation.folds)),
        "arms": [arm._asdict() | {"eval_split": config_of(ablation, arm.overrides).data.eval_split} for arm in arms],
    }
    return json.loads(json.dumps(told))


def load(base: str) -> ml_collections.ConfigDict:
    """The config that `--config=<base>` gives.

    Raises:
      UserError: there is no such file.
    """
    path, colon, variant = base.partition(":")
    if not (ROOT / path).is_file():
        raise UserError(f"base={base!r}: no such config; expected one of scripts/train.py, such as configs/unet.py")
    get_config = runpy.run_path(str(ROOT / path))["get_config"]
    return get_config(variant) if colon else get_config()


def _point_seeds(ablation: ml_collections.ConfigDict, levels: Mapping[str, str]) -> tuple[int, ...]:
    """Those of the first level that has some of its own, or else the ablation's."""
    own = (ablation.point_seeds_of.get(axis, {}).get(label) for axis, label in levels.items())
    return next((seeds for seeds in own if seeds), ablation.point_seeds)


def _turn(ablation: ml_collections.ConfigDict, arm: Arm) -> tuple[int, int]:
    return ablation.seeds.index(arm.seed), _point_seeds(ablation, arm.levels).index(arm.point_seed)


def _differing(values: Mapping[str, Any]) -> tuple[str, str]:
    """The first name, and the first one of another value; itself where there is none."""
    first = next(iter(values))
    return first, next((name for name, value in values.items() if value != values[first]), first)


def _check_fields(ablation: ml_collections.ConfigDict) -> None:
    name, axes = ablation.name, ablation.axes
    for axis, levels in (axes | ({"fold": ablation.folds} if ablation.folds else {})).items():
        for label in (axis, *levels):
            if not re.fullmatch(r"[\w.+-]+", label):
                raise UserError(
                    f"{name}: {label!r} of axis {axis!r}: expected letters, digits, _ . + or -: it is a path"
                )
        if not levels:
            raise UserError(f"{name}: axis {axis!r} has no levels; expected two or more")
    for axis, label in (
        (ablation.factor, None),
        *([(ablation.budget_axis, None)] if ablation.budget_axis else []),
        *((ablation.budget_axis, label) for label in ablation.references.values()),
        *((axis, label) for axis, *labels in ablation.differences for label in labels),
        *((axis, label) for axis, labels in ablation.point_seeds_of.items() for label in labels),
    ):
        if axis not in axes:
            raise UserError(f"{name}: no axis {axis!r}; expected one of {[*axes]}")
        if label is not None and label not in axes[axis]:
            raise UserError(f"{name}: no level {label!r} of axis {axis!r}; expected one of {[*axes[axis]]}")
    named: dict[str, str] = {}
    for axis, levels in (axes | {"fold": ablation.folds}).items():
        fields = {field for level in levels.values() for field in level}
        for field in sorted(fields):
            if field in _SEEDS:
                raise UserError(
                    f"{name}: axis {axis!r} sets {field}; expected it in seeds or point_seeds, which are crossed"
                )
            if field in named:
                raise UserError(f"{name}: axes {named[field]!r} and {axis!r} both set {field}; expected one of them")
            named[field] = axis
    for what, seeds in (("seeds", ablation.seeds), ("point_seeds", ablation.point_seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"{name}: {what}={seeds}; expected one or more, each once")


def _check_nested(ablation: ml_collections.ConfigDict) -> None:
    """That levels of the budget axis set the same fields to the same values, but for the budget; dense ones aside."""
    if not ablation.budget_axis:
        return
    levels = {
        label: {field: value for field, value in level.items() if field != "points.budget"}
        for label, level in ablation.axes[ablation.budget_axis].items()
        if level.get("points.annotator") not in DENSE
    }
    label, other = _differing(levels)
    if label != other:
        raise UserError(
            f"{ablation.name}: levels {label} and {other} of axis {ablation.budget_axis!r} set {levels[label]} and "
            f"{levels[other]} beside points.budget; expected the same, so that their points are nested"
        )

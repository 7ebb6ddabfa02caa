"""A grid becomes arms that can be compared; the shipped ablations are such grids."""

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs_for_tests import NAME, prepare

from configs.ablations import default, point_sparsity, scale
from pcejax import ablation_grid, label_options, tiles
from pcejax.errors import UserError
from pcejax.legend import IGNORE

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "configs" / "ablations").glob("[!_]*.py") if path.stem != "default")


def load(name, size):
    return importlib.import_module(f"configs.ablations.{name}").get_config(size)


def grid(**fields):
    """Two budgets and dense masks, two seeds, two draws."""
    ablation = default.get_config("tried", "smoke")
    ablation.axes = {"points": default.budgets(1, 3) | {"dense": default.DENSE["dense"]}}
    ablation.factor = ablation.budget_axis = "points"
    ablation.seeds = ablation.point_seeds = (0, 1)
    ablation.point_seeds_of = {"points": {"1": (0, 1, 2), "dense": (0,)}}
    ablation.update(fields)
    return ablation


def with_level(label, **fields):
    levels = grid().axes["points"]
    return {"points": levels | {label: levels[label] | {name.replace("__", "."): v for name, v in fields.items()}}}


# Arms


def test_arms_are_all_levels_by_seeds_by_the_draws_of_their_level():
    arms = ablation_grid.expand(grid())
    got = {(arm.levels["points"], arm.seed, arm.point_seed) for arm in arms}
    draws = {"1": (0, 1, 2), "3": (0, 1), "dense": (0,)}
    assert got == {(level, seed, draw) for level in draws for seed in (0, 1) for draw in draws[level]}
    assert len(arms) == len(got)


def test_axes_are_crossed():
    axes = {"depth": {"1": {"model.depth": 1}, "2": {"model.depth": 2}}, "points": default.budgets(1, 3)}
    arms = ablation_grid.expand(grid(axes=axes, factor="depth", point_seeds_of={}))
    assert len(arms) == 2 * 2 * 2 * 2
    assert {tuple(arm.levels.items()) for arm in arms} == {
        (("depth", depth), ("points", points)) for depth in "12" for points in "13"
    }


def test_names_tell_the_levels_and_are_the_same_each_time():
    names = [arm.name for arm in ablation_grid.expand(grid())]
    assert names == [arm.name for arm in ablation_grid.expand(grid())]
    assert names[0] == "points=1,seed=0,draw=0"
    assert len(set(names)) == len(names)


FOLDS = {
    fold: {"data.train_split": f"train[:{at}]+train[{at + 1}:]", "data.eval_split": f"train[{at}:{at + 1}]"}
    for at, fold in enumerate("abc")
}


def test_an_arm_is_run_on_each_fold():
    once, arms = ablation_grid.expand(grid()), ablation_grid.expand(grid(folds=FOLDS))
    assert [arm.name for arm in arms] == [f"{arm.name},fold={fold}" for arm in once for fold in FOLDS]
    assert [arm.overrides for arm in arms] == [arm.overrides | splits for arm in once for splits in FOLDS.values()]
    told = ablation_grid.describe(grid(folds=FOLDS), arms, [])
    assert told["folds"] == 3
    assert [arm["eval_split"] for arm in told["arms"][:3]] == ["train[0:1]", "train[1:2]", "train[2:3]"]


def test_splits_are_equal_in_all_arms_of_a_fold():
    levels = with_level("3", data__train_split="train[:1]")
    with pytest.raises(UserError, match=r"axes 'points' and 'fold' both set data\.train_split"):
        ablation_grid.expand(grid(axes=levels, folds=FOLDS))
    folds = {"a": {"data.eval_split": "train[2:]"}}
    with pytest.raises(UserError, match=r"data.train_split is train in arm .*fold=a and train\[:1\] in arm .*fold=a"):
        ablation_grid.expand(grid(axes=levels, folds=folds))


def test_the_first_seeds_and_draws_of_all_levels_come_first():
    arms = ablation_grid.expand(grid())
    assert [arm.levels["points"] for arm in arms[:3]] == ["1", "3", "dense"]
    assert [arm.seed for arm in arms] == sorted(arm.seed for arm in arms)


@pytest.mark.parametrize("label", ["1/2", "a b", "a=1", "1,2", ""])
def test_a_label_that_is_no_path_is_refused(label):
    with pytest.raises(UserError, match=r"of axis 'points': expected letters, digits"):
        ablation_grid.expand(grid(axes={"points": {label: {"points.budget": 2}}}, point_seeds_of={}))


PRINT_CONFIG = """
from absl import app, flags
from ml_collections import config_flags
config = config_flags.DEFINE_config_file("config", lock_config=True)
app.run(lambda _: print(config.value.to_json()))
"""


def test_an_arm_is_what_its_flags_give():
    """Values of every type that a field has, through the flags of scripts/train.py in a process of its own."""
    level = {
        "points.annotator": "uniform",
        "points.label_noise": 0.25,
        "train_unknown": True,
        "model.fusion.grids": (1, 2),
        "loss.class_weights": (1.0, 2.5),
        "optimizer.learning_rate": 1,
    }
    ablation = grid(axes={"points": {"all": level}}, point_seeds_of={})
    arm = ablation_grid.expand(ablation)[-1]
    flags = [f"--config={ROOT}/configs/quickstart.py:smoke", *ablation_grid.flags(arm.overrides)]
    told = subprocess.run(
        [sys.executable, "-c", PRINT_CONFIG, *flags], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    config = ablation_grid.config_of(ablation, arm.overrides)
    assert json.loads(told) == json.loads(config.to_json())
    assert (config.seed, config.points.seed, config.loss.class_weights) == (1, 1, (1.0, 2.5))


# Protocol


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"train__num_steps": 12}, "num_steps is 6 in arm points=1,seed=0,draw=0 and 12 in arm points=dense,seed=0"),
        ({"train__batch_size": 8}, "train.batch_size is 16 in arm .* and 8 in arm"),
        ({"data__crop": 16}, "data.crop / data.scale is 128.0 in arm .* and 64.0 in arm points=dense"),
        ({"data__scale": 0.5}, "data.crop / data.scale is 128.0 in arm .* and 64.0 in arm points=dense"),
        ({"data__anchored_share": 0.5}, "data.anchored_share is 1.0 in arm .* and 0.5 in arm points=dense"),
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate is 0.003 in arm .* and 0.5 in arm"),
        ({"optimizer__warmup_steps": 3}, "optimizer.warmup_steps"),
        ({"augment__blur": 0.5}, "augment.blur"),
        ({"train__ema_decay": 0.5}, "train.ema_decay"),
        ({"data__eval_split": "train"}, "data.eval_split"),
        ({"data__train_split": "train[:2]"}, "data.train_split"),
    ],
)  # fmt: skip
def test_arms_that_differ_in_more_than_the_factor_are_refused_with_both_values(fields, told):
    with pytest.raises(UserError, match=told):
        ablation_grid.expand(grid(axes=with_level("dense", **fields)))


def test_an_axis_beside_the_factor_cannot_differ_so():
    axes = {"points": default.budgets(1, 3), "steps": {"6": {"train.num_steps": 6}, "9": {"train.num_steps": 9}}}
    with pytest.raises(
        UserError, match=r"train.num_steps is 6 in arm points=1,steps=6.* and 9 in arm points=1,steps=9"
    ):
        ablation_grid.expand(grid(axes=axes, point_seeds_of={}))
    assert len(ablation_grid.expand(grid(axes=axes, point_seeds_of={}, factor="steps"))) == 16


def test_a_factor_that_all_levels_set_may_differ():
    for fields in ({"train.num_steps": (6, 9)}, {"data.crop": (16, 32)}, {"augment.blur": (0.0, 0.5)}):
        ((field, values),) = fields.items()
        axes = {"tried": {str(index): {field: value} for index, value in enumerate(values)}}
        arms = ablation_grid.expand(grid(axes=axes, factor="tried", budget_axis="", point_seeds_of={}))
        assert len(arms) == 8


def test_scales_cover_the_same_ground():
    levels = dict(scale.get_config("smoke").axes["scale"])
    ablation = grid(axes={"scale": levels}, factor="scale", budget_axis="", point_seeds_of={})
    ablation_grid.expand(ablation)
    levels["0.5"] = levels["0.5"] | {"data.crop": levels["0.25"]["data.crop"]}
    with pytest.raises(UserError, match=r"data.crop / data.scale is 128.0 in arm .* and 64.0 in arm"):
        ablation_grid.expand(ablation)


def test_levels_of_points_whose_points_are_not_nested_are_refused():
    with pytest.raises(UserError, match=r"levels 1 and 3 .* set {} and {'points.placement': 'interior'} beside"):
        ablation_grid.expand(grid(axes=with_level("3", points__placement="interior")))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"overrides": {"train.num_step": 3}}, "train.num_step=3: no field 'num_step'; Did you mean \"num_steps\""),
        ({"overrides": {"trian.num_steps": 3}}, "trian.num_steps=3: no field 'trian'; Did you mean \"train\""),
        ({"axes": with_level("3", points__budgt=3)}, "points.budgt=3: no field 'budgt'; Did you mean \"budget\""),
        ({"overrides": {"points.budget": "many"}}, "points.budget='many': "),
        ({"overrides": {"data.eval_split": ""}}, "data.eval_split='' in arm .*; expected the split that is scored"),
        ({"axes": with_level("3", seed=3)}, "axis 'points' sets seed; expected it in seeds or point_seeds"),
        ({"axes": {"points": {}}}, "axis 'points' has no levels"),
        ({"axes": grid().axes | {"more": default.budgets(2)}}, "axes 'points' and 'more' both set points.budget"),
        ({"factor": "pionts"}, "no axis 'pionts'; expected one of"),
        ({"budget_axis": "pionts"}, "no axis 'pionts'; expected one of"),
        ({"references": {"dense": "dence"}}, "no level 'dence' of axis 'points'; expected one of"),
        ({"differences": (("points", "1", "4"),)}, "no level '4' of axis 'points'"),
        ({"point_seeds_of": {"points": {"4": (0,)}}}, "no level '4' of axis 'points'"),
        ({"seeds": (0, 0)}, r"seeds=\(0, 0\); expected one or more, each once"),
        ({"point_seeds": ()}, r"point_seeds=\(\); expected one or more"),
        ({"base": "configs/gone.py"}, "base='configs/gone.py': no such config"),
        ({"base": "configs/unet.py:tpu"}, "configs/unet.py:tpu: expected no variant, or :cpu"),
    ],
)
def test_a_wrong_field_is_told(fields, told):
    with pytest.raises(UserError, match=told):
        ablation_grid.expand(grid(**fields))


# What ablation.json holds


def test_budgets_are_those_of_the_levels_and_none_of_dense_masks():
    ablation = grid()
    told = ablation_grid.describe(ablation, ablation_grid.expand(ablation), ["command"])
    assert told["budgets"] == {"1": 1, "3": 3, "dense": None}
    assert (told["budget_axis"], told["factor"], told["folds"]) == ("points", "points", 1)
    assert {arm["eval_split"] for arm in told["arms"]} == {"validation"}
    assert told["axes"] == {"points": ["1", "3", "dense"]}
    arm = next(arm for arm in told["arms"] if arm["name"] == "points=3,seed=1,draw=0")
    assert (arm["levels"], arm["seed"], arm["point_seed"]) == ({"points": "3"}, 1, 0)
    assert arm["overrides"].items() >= {"points.budget": 3, "seed": 1, "points.seed": 0}.items()
    assert told == json.loads(json.dumps(told))


def test_without_a_budget_axis_there_are_no_budgets():
    ablation = grid(budget_axis="")
    told = ablation_grid.describe(ablation, ablation_grid.expand(ablation), [])
    assert (told["budget_axis"], told["budgets"]) == (None, {})


# The shipped ablations


def sizes_of(name):
    return ("smoke", "across", "within", "removals") if name == "best_points" else default.SIZES


def test_the_nine_are_there():
    assert set(SHIPPED) == {
        "point_sparsity",
        "points_or_tiles",
        "annotators",
        "depth",
        "multiscale",
        "loss",
        "label_noise",
        "scale",
        "best_points",
    }


SIZED = [(name, size) for name in SHIPPED for size in sizes_of(name)]
SIZED += [("loss", "table"), ("loss", "table_deepglobe")]


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_a_shipped_ablation_can_be_compared_at_each_size(name, size):
    ablation = load(name, size)
    arms = ablation_grid.expand(ablation)
    told = ablation_grid.describe(ablation, arms, [])
    assert (told["name"], told["size"]) == (name, size)
    assert told["title"]
    assert told["question"]
    assert told["differences"]
    assert bool(told["watermark"]) == bool(ablation.prepare) == (size in ("smoke", "demo"))
    for arm in arms:
        config = ablation_grid.config_of(ablation, arm.overrides)
        label_options.label_options(config.points)  # raises where a field does nothing
    assert len({arm.name for arm in arms}) == len(arms)


@pytest.mark.parametrize("size", default.SIZES)
def test_the_example_in_the_documentation_is_whole(size):
    text = (ROOT / "docs" / "ablations.md").read_text()
    module: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], module)
    ablation = module["get_config"](size)
    assert len(ablation_grid.expand(ablation)) == 2 * 2 * len(ablation.seeds) * len(ablation.point_seeds)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_documentation_tells_the_number_of_arms(name):
    told = (ROOT / "docs" / "ablations.md").read_text()
    counts = ", ".join(str(len(ablation_grid.expand(load(name, size)))) for size in sizes_of(name))
    (row,) = [line for line in told.splitlines() if line.startswith(f"| `{name}`")]
    assert row.endswith(f"| {counts} |")


@pytest.mark.parametrize("name", [name for name in SHIPPED if "demo" in sizes_of(name)])
def test_a_demo_can_claim(name):
    """Claims need more than one seed, and 20 scored tiles."""
    ablation = load(name, "demo")
    assert len(ablation.seeds) > 1
    assert ablation.prepare["num_validation"] >= 20


@pytest.mark.parametrize("name", SHIPPED)
def test_an_unknown_size_is_told(name):
    expected = ", :".join(sizes_of(name))
    with pytest.raises(UserError, match=rf"configs/ablations/{name}.py:tiny: expected one of :{expected}"):
        load(name, "tiny")


def test_point_sparsity_is_as_the_question_asks():
    for size in ("demo", "full"):
        ablation = point_sparsity.get_config(size)
        draws = {label: set() for label in ("1", "3", "10", "30", "100", "dense", "dense_balanced")}
        for arm in ablation_grid.expand(ablation):
            draws[arm.levels["points"]].add(arm.point_seed)
        assert [len(seeds) for seeds in draws.values()] == [5, 5, 3, 3, 3, 1, 1]
        assert len(ablation.seeds) >= 3


def test_budgets_of_one_draw_are_nested(tmp_path):
    """Of the arms as they would be taught: a smaller budget's labels are among a larger one's, noise included."""
    prepare(tmp_path)
    ablation = grid(point_seeds_of={}, seeds=(0,))
    ablation.overrides = ablation.overrides | {"data.name": NAME, "data.data_dir": str(tmp_path), "data.scale": 1.0}
    ablation.overrides = ablation.overrides | {"points.label_noise": 0.3, "points.click_jitter_px": 3}
    ablation.axes = {"points": default.budgets(1, 2, 5, 9)}
    labels = {}
    for arm in ablation_grid.expand(ablation):
        tile_set = tiles.load(ablation_grid.config_of(ablation, arm.overrides))
        labels[arm.point_seed, int(arm.levels["points"])] = np.stack(tile_set.labels)
    for draw, (few, many) in itertools.product((0, 1), itertools.pairwise((1, 2, 5, 9))):
        there = labels[draw, few] != IGNORE
        np.testing.assert_array_equal(labels[draw, many][there], labels[draw, few][there])
        assert (labels[draw, many] != IGNORE).sum() > there.sum()
    assert (labels[0, 9] != labels[1, 9]).any()

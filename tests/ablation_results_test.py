import json
import math

import ablations_for_tests as made_up
import numpy as np
import pytest

from pcejax import ablation_results, interrupts, metrics, runs, writers
from pcejax.errors import UserError

SECONDS = {"click": 2.0, "tile": 10.0, "mask": 360.0}


@pytest.fixture
def workdir(tmp_path):
    return made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=2, tiles=2)


def evaluation_of(workdir, arm):
    return runs.evaluation_path(workdir / "arms" / arm, "validation")


def test_every_scored_arm_is_a_run_with_its_levels_seeds_and_matrices(workdir):
    results = ablation_results.read(workdir)
    assert [arm.name for arm in results.arms] == [arm["name"] for arm in results.about["arms"]]
    assert results.unfinished == []
    assert results.legend.num_known == 3
    arm = results.arms[3]
    assert (arm.run.levels, arm.run.seed, arm.run.point_seed) == ({"points": "3"}, 0, 1)
    told = json.loads(evaluation_of(workdir, "points=3,seed=0,draw=1").read_text())
    assert list(arm.run.matrices) == ["tile_00", "tile_01"]
    for tile, matrix in arm.run.matrices.items():
        assert matrix.dtype == np.int64
        np.testing.assert_array_equal(matrix, told["tiles"][tile])
    assert arm.miou == metrics.miou(sum(arm.run.matrices.values()), 3)
    assert arm.config["points.budget"] == 3
    assert arm.manifest["devices"] == "2 x cpu"


@pytest.mark.parametrize(
    ("annotator", "hours"),
    [
        ("balanced", (7 * 2 + 5 * 10) / 3600),
        ("file", (7 * 2 + 5 * 10) / 3600),
        ("dense", 5 * 360 / 3600),
        ("dense_balanced", 5 * 360 / 3600),
    ],
)
def test_hours_are_clicks_and_tiles_opened_or_masks(annotator, hours):
    counts = {"urban": 4, "water": 3} if annotator in ("balanced", "file") else {}
    points = {"annotator": annotator, "num_tiles": 5, "point_counts": counts}
    assert ablation_results.annotator_hours(points, SECONDS) == pytest.approx(hours)


@pytest.mark.parametrize("annotator", ["scribble", "block"])
def test_what_has_no_price_has_no_hours(annotator):
    points = {"annotator": annotator, "num_tiles": 5, "point_counts": {}}
    assert math.isnan(ablation_results.annotator_hours(points, SECONDS))


def test_durations_add_up_over_the_starts_of_an_arm(workdir):
    name = "points=1,seed=0,draw=0"
    writers.append_line(workdir / "durations.jsonl", {"arm": name, "seconds": 5, "exit_code": 0})
    results = ablation_results.read(workdir)
    assert results.seconds[name] == 95
    assert results.seconds["points=1,seed=0,draw=1"] == 90


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [
        (2, "failed with exit code 2"),
        (-9, "failed with exit code -9"),
        (interrupts.EXIT_CODE, "stopped"),
        (0, "ended without scores"),
        (None, "not started"),
    ],
)
def test_an_arm_without_scores_is_told_with_the_last_line_of_its_log(workdir, exit_code, told):
    name = "points=1,seed=0,draw=0"
    evaluation_of(workdir, name).unlink()
    (workdir / "durations.jsonl").unlink()
    if exit_code is not None:
        writers.append_line(workdir / "durations.jsonl", {"arm": name, "seconds": 5, "exit_code": exit_code})
    (workdir / "logs" / f"{name}.txt").write_text("step 1\nerror: no tile 119\n\n")
    results = ablation_results.read(workdir)
    (missing,) = results.unfinished
    assert (missing.name, missing.last_line) == (name, "error: no tile 119")
    assert missing.why.startswith(told)
    assert name not in [arm.name for arm in results.arms]


def test_scores_of_an_earlier_step_are_no_result(workdir):
    made_up.edit(evaluation_of(workdir, "points=1,seed=0,draw=0"), step=300)
    (missing,) = ablation_results.read(workdir).unfinished
    assert missing.why == "scored at step 300, not at its last"


def test_an_ablation_of_which_nothing_ran_has_no_arms(tmp_path):
    writers.write_json(tmp_path / "ablation.json", made_up.about_of("x", {"points": ["1"]}, []))
    results = ablation_results.read(tmp_path)
    assert (results.arms, results.legend, results.seconds) == ([], None, {})


def test_a_folder_without_an_ablation_is_told(tmp_path):
    with pytest.raises(UserError, match=r"ablation.json is missing; expected the --workdir of scripts/ablate.py"):
        ablation_results.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", '{"split": "val', "[]", "{}", '{"tiles": {"a": 3}, "legend": {"names": ["x"]}}', "null"]
)
def test_a_damaged_evaluation_is_named(workdir, text):
    path = evaluation_of(workdir, "points=1,seed=0,draw=1")
    path.write_text(text)
    with pytest.raises(
        UserError, match=r"points=1,seed=0,draw=1/report/evaluation_validation.json: (damaged|no \w+.* in it)"
    ):
        ablation_results.read(workdir)


def test_a_matrix_of_another_size_than_the_legend_is_named(workdir):
    path = evaluation_of(workdir, "points=1,seed=0,draw=1")
    made_up.edit(path, tiles={"tile_00": [[1, 0], [0, 1]], "tile_01": np.eye(4, dtype=int).tolist()})
    with pytest.raises(UserError, match=r"draw=1/report.*matrices of \[\(2, 2\), \(4, 4\)\]; expected \(4, 4\)"):
        ablation_results.read(workdir)


def test_a_damaged_config_is_named(workdir):
    path = workdir / "arms" / "points=1,seed=0,draw=1" / "config.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"draw=1/config.json"):
        ablation_results.read(workdir)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("legend", {"legend": made_up.LEGEND | {"names": ["urban", "trees", "water", "unknown"]}}),
        ("tiles", {"tiles": {"other": np.eye(4, dtype=int).tolist()}}),
        ("protocol", {"protocol": "within"}),
    ],
)
def test_arms_that_cannot_be_compared_are_refused_by_name(workdir, what, changes):
    made_up.edit(evaluation_of(workdir, "points=3,seed=0,draw=0"), **changes)
    with pytest.raises(UserError, match=f"arms points=1,seed=0,draw=0 and points=3,seed=0,draw=0 .* another {what}"):
        ablation_results.read(workdir)


def folded(workdir, *tiles):
    """The ablation's only arms of one draw, its folds having scored these tiles."""
    about = json.loads((workdir / "ablation.json").read_text())
    arms = [
        arm | {"name": f"{arm['name']},fold={fold}", "fold": fold}
        for arm in about["arms"]
        if arm["levels"]["points"] == "3" and arm["point_seed"] == 0
        for fold in "ab"
    ]
    made_up.edit(workdir / "ablation.json", arms=arms, folds=2)
    for arm, names in zip(arms, tiles, strict=True):
        points = made_up.points_of(3, 6 + len(names))
        config = made_up.config_of(points)
        made_up.write_arm(workdir, arm, 0.5, "validation", tiles=2, points=points, config=config)
        counts = json.loads(evaluation_of(workdir, arm["name"]).read_text())["tiles"]
        made_up.edit(evaluation_of(workdir, arm["name"]), tiles=dict(zip(names, counts.values(), strict=False)))
    return workdir


def test_the_tiles_of_all_folds_are_scored_as_one(workdir):
    (arm,) = ablation_results.read(folded(workdir, ["p", "q"], ["r"])).arms
    assert arm.name == "points=3,seed=0,draw=0"
    assert list(arm.run.matrices) == ["p", "q", "r"]
    assert arm.miou == metrics.miou(sum(arm.run.matrices.values()), 3)
    hours = [(9 * tiles * 2.4 + tiles * 18.5) / 3600 for tiles in (8, 7)]
    assert arm.run.annotator_hours == pytest.approx(np.mean(hours))


def test_an_arm_that_lacks_a_fold_is_none(workdir):
    folded(workdir, ["p", "q"], ["r"])
    evaluation_of(workdir, "points=3,seed=0,draw=0,fold=b").unlink()
    results = ablation_results.read(workdir)
    assert results.arms == []
    assert [arm.name for arm in results.unfinished] == ["points=3,seed=0,draw=0,fold=b"]


def test_folds_that_score_the_same_tile_are_refused(workdir):
    with pytest.raises(UserError, match="seed=0,draw=0,fold=a: its folds score a tile more than once"):
        ablation_results.read(folded(workdir, ["p", "q"], ["q"]))


def test_dense_arms_that_are_a_fit_stand_beside_arms_scored_within(workdir):
    for arm in ablation_results.read(workdir).arms:
        protocol = "fit" if "dense" in arm.name else "within"
        made_up.edit(evaluation_of(workdir, arm.name), protocol=protocol)
    assert [arm.protocol for arm in ablation_results.read(workdir).arms] == ["within"] * 4 + ["fit"] * 2


def arm_of(levels, config):
    run = ablation_results.Run(levels, 0, 0, {}, 0.0)
    return ablation_results.Arm("", None, "", run, 0.0, "across", "", {}, config, {})


def test_fields_that_differ_are_told_by_the_axis_that_decides_them():
    arms = [
        arm_of(
            {"depth": depth, "points": points},
            {
                "seed": seed,
                "points.seed": seed,
                "equal": 1,
                "model.depth": int(depth),
                "points.budget": int(points),
                "both": depth + points,
            },
        )
        for depth in ("3", "5")
        for points in ("1", "10")
        for seed in (0, 1)
    ]
    assert ablation_results.differing_fields(arms) == {
        "both": {f"depth={d}, points={p}": [d + p] for d in ("3", "5") for p in ("1", "10")},
        "model.depth": {"depth=3": [3], "depth=5": [5]},
        "points.budget": {"points=1": [1], "points=10": [10]},
    }


def test_a_field_that_no_level_decides_shows_all_its_values():
    arms = [arm_of({"points": "1"}, {"stray": seed, "seed": seed}) for seed in (0, 1)]
    assert ablation_results.differing_fields(arms) == {"stray": {"points=1": [0, 1]}}


def test_a_field_that_some_arms_lack_differs():
    arms = [arm_of({"loss": "a"}, {"loss.x": ()}), arm_of({"loss": "b"}, {})]
    assert ablation_results.differing_fields(arms) == {"loss.x": {"loss=a": [()], "loss=b": [None]}}

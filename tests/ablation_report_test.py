import csv
import json

import ablations_for_tests as made_up
import numpy as np
import pytest
from pages_for_tests import Page

from pcejax import ablation_report, ablation_results, runs, writers
from pcejax.errors import UserError


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two budgets and both references on 20 tiles, with an effect that is far from chance."""
    folder = tmp_path_factory.mktemp("sparsity")
    made_up.point_sparsity(folder, (1, 100), tiles=20, watermark="demonstration on synthetic scenes")
    assert ablation_report.write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(workdir):
    return Page(workdir / "report.html")


def write(workdir):
    return Page(ablation_report.write_report(workdir))


def rows_of(workdir):
    with (workdir / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_question_and_answer_come_first(workdir, page):
    told = json.loads((workdir / "summary.json").read_text())["differences"]
    order = [
        "How many points are enough?",
        "demonstration on synthetic scenes: no figure here is a finding.",
        "Does a click more per class and tile still make the map better",
        "Claimed: 1 of 1 differences that were asked for.",
        "where nothing differs, 0.05 claims are to be expected",
        f"points: 100 minus 1{told[0]['difference']:+.3f}",
        "claim: higher",
        "mIoU of each setting",
        "Figures",
        "What differs between arms",
    ]
    places = [page.text.find(words) for words in order]
    assert places == sorted(places)
    assert places[0] >= 0
    assert "Descriptive" not in page.text
    assert "Differences of each tile" not in page.text


def test_tables_files_and_page_have_the_same_scores(workdir, page):
    summary, rows = json.loads((workdir / "summary.json").read_text()), rows_of(workdir)
    assert [row["points"] for row in rows] == ["1", "100", "dense", "dense_balanced"]
    for row, setting in zip(rows, summary["settings"], strict=True):
        assert float(row["mIoU"]) == setting["miou"]
        assert [float(row["low"]), float(row["high"])] == setting["interval"]
        assert float(row["of dense"]) == setting["retention"]["dense"]
        assert float(row["IoU water"]) == setting["iou"]["water"]
        assert f"{setting['miou']:.3f}{setting['interval'][0]:.3f} to {setting['interval'][1]:.3f}" in page.text


def test_the_settings_score_is_the_mean_of_its_runs(workdir):
    arms = ablation_results.read(workdir).arms
    of_one = [arm.miou for arm in arms if arm.run.levels == {"points": "1"}]
    assert len(of_one) == 4
    assert float(rows_of(workdir)[0]["mIoU"]) == pytest.approx(np.mean(of_one))


def test_the_page_is_one_file_with_all_figures_and_maps_in_it(workdir, page):
    assert page.outside == []
    figures = sorted(path.stem for path in (workdir / "figures").glob("*.svg"))
    assert figures == ["differences", "iou_over_budget", "miou_over_budget", "miou_over_hours"]
    assert sorted(path.stem for path in (workdir / "figures").glob("*.png")) == figures
    assert sorted(page.drawings) == sorted((workdir / "figures" / f"{name}.svg").read_text() for name in figures)
    assert len(page.images) == 2 + 4  # image, truth, and a map of each setting


def test_the_same_results_give_the_same_files(workdir):
    files = [path for path in workdir.rglob("*") if path.is_file() and "arms" not in path.parts]
    before = {path: path.read_bytes() for path in files}
    ablation_report.write_report(workdir)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path in before} == before


def test_few_tiles_are_descriptive_and_each_tiles_difference_is_printed(tmp_path):
    page = write(made_up.point_sparsity(tmp_path, (1, 100), tiles=3))
    assert "Descriptive: 3 tiles are scored, fewer than 20." in page.text
    assert "no claim: fewer than 20 tiles" in page.text
    assert "Claimed: 0 of 1" in page.text
    tiles = json.loads((tmp_path / "summary.json").read_text())["differences"][0]["tiles"]
    assert len(tiles) == 3
    for tile, value in tiles.items():
        assert f"{tile}{value:+.3f}" in page.text


def test_one_seed_claims_nothing(tmp_path):
    page = write(made_up.point_sparsity(tmp_path, (1, 100), seeds=1, tiles=20))
    assert "no claim: one seed" in page.text


def test_a_difference_of_nothing_is_not_claimed(tmp_path):
    workdir = made_up.point_sparsity(tmp_path, (1, 100), tiles=20)
    for arm in ablation_results.read(workdir).arms:
        twin = workdir / "arms" / arm.name.replace("points=100", "points=1")
        told = json.loads(runs.evaluation_path(twin, "validation").read_text())
        made_up.edit(runs.evaluation_path(arm.workdir, "validation"), tiles=told["tiles"])
    assert "no claim: the interval holds 0" in write(workdir).text


def test_dense_arms_that_are_a_fit_are_in_the_table_alone(tmp_path):
    workdir = made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=1, tiles=2)
    about = json.loads((workdir / "ablation.json").read_text())
    made_up.edit(workdir / "ablation.json", differences=[*about["differences"], ["points", "dense", "3"]])
    for arm in ablation_results.read(workdir).arms:
        protocol = "fit" if "dense" in arm.name else "within"
        made_up.edit(runs.evaluation_path(arm.workdir, "validation"), protocol=protocol)
    page = write(workdir)
    summary, rows = json.loads((workdir / "summary.json").read_text()), rows_of(workdir)
    assert [setting["levels"]["points"] for setting in summary["settings"]] == ["1", "3"]
    assert [setting["levels"]["points"] for setting in summary["fits"]] == ["dense", "dense_balanced"]
    assert [one["level"] for one in summary["differences"]] == ["3"]
    assert page.text.count("taught by these pixels: no test") == 2
    assert [row["points"] for row in rows] == ["1", "3", "dense", "dense_balanced"]
    assert [bool(row["low"]) for row in rows] == [True, True, False, False]
    assert {row["of dense"] for row in rows} == {""}
    assert "Horizontal" not in page.text


def test_arms_that_failed_do_not_stop_the_page_and_are_told_at_its_start(tmp_path):
    workdir = made_up.point_sparsity(
        tmp_path, (1, 3), tiles=2, skip=("points=3,seed=1,draw=0", "points=3,seed=0,draw=1")
    )
    page = write(workdir)
    assert "Not finished: 2 of 12 arms" in page.text
    assert page.text.index("Not finished") < page.text.index("Answer")
    assert [int(row["runs"]) for row in rows_of(workdir)] == [4, 2, 2, 2]


def test_a_whole_level_that_is_missing_is_left_out(tmp_path):
    skip = [f"points=dense,seed={seed},draw=0" for seed in (0, 1)]
    page = write(made_up.point_sparsity(tmp_path, (1, 3), tiles=2, skip=skip))
    assert [row["points"] for row in rows_of(tmp_path)] == ["1", "3", "dense_balanced"]
    assert "Not finished: 2 of 12 arms" in page.text


def test_before_any_arm_is_scored_there_is_a_page(tmp_path):
    names = [f"points={level},seed=0,draw=0" for level in ("1", "3")]
    page = write(made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=1, references=(), skip=names))
    assert "No arm is scored yet" in page.text
    assert "Not finished: 2 of 2 arms" in page.text
    assert not (tmp_path / "summary.json").exists()


def test_labels_without_a_price_leave_the_hours_open(tmp_path):
    arms = [
        {"name": f"{kind}{seed}", "levels": {"annotator": kind}, "seed": seed, "point_seed": 0}
        for kind in ("balanced", "scribble")
        for seed in (0, 1)
    ]
    arms = [arm | {"fold": "", "eval_split": "validation"} for arm in arms]
    about = made_up.about_of("annotators", {"annotator": ["balanced", "scribble"]}, arms)
    writers.write_json(tmp_path / "ablation.json", about)
    for arm in arms:
        points = made_up.points_of(4, 6, arm["levels"]["annotator"])
        made_up.write_arm(tmp_path, arm, 0.5, "validation", tiles=2, points=points, config=made_up.config_of(points))
    page = write(tmp_path)
    assert [bool(row["hours"]) for row in rows_of(tmp_path)] == [True, False]
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    assert "No difference was asked for" in page.text


def test_a_curve_of_enough_budgets_is_fitted_and_its_limit_told(tmp_path):
    page = write(made_up.point_sparsity(tmp_path, (1, 3, 10, 30), seeds=1, draws=1, tiles=2, references=()))
    (fit,) = json.loads((tmp_path / "summary.json").read_text())["saturation"]
    low, high = fit["limit_interval"]
    assert f"all{fit['limit']:.3f}{low:.3f} to {high:.3f}" in page.text
    for share in ("0.90", "0.95"):
        assert (fit["budgets"][share]["note"] or f"{fit['budgets'][share]['budget']:.3g}") in page.text


def test_baselines_are_told_with_their_spread_over_draws(tmp_path):
    made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=1, tiles=2, references=())
    assert "Baselines" not in write(tmp_path).text
    for draw, miou in enumerate((0.2, 0.3, 0.7)):
        line = {"baseline": "linear head", "level": "3", "draw": draw, "miou": miou, "tiles": {}}
        writers.append_line(tmp_path / "baselines.jsonl", line)
    assert "linear head330.4000.2100.3000.660" in write(tmp_path).text


def test_too_few_budgets_are_not_fitted(page):
    assert "levels off" not in page.text


def test_words_of_the_ablation_are_text_and_never_markup(tmp_path):
    evil = "<b>&amp;'\""
    told = {"title": evil, "question": evil, "watermark": evil}
    page = write(made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=1, tiles=2, references=(), **told))
    assert "b" not in page.tags
    assert page.text.count(evil) == 4  # title, heading, watermark, question


def test_a_damaged_evaluation_stops_the_report_and_leaves_the_last_one(tmp_path):
    workdir = made_up.point_sparsity(tmp_path, (1, 3), seeds=1, draws=1, tiles=2, references=())
    before = ablation_report.write_report(workdir).read_bytes()
    runs.evaluation_path(workdir / "arms" / "points=1,seed=0,draw=0", "validation").write_text("{")
    with pytest.raises(UserError, match="points=1,seed=0,draw=0"):
        ablation_report.write_report(workdir)
    assert (workdir / "report.html").read_bytes() == before

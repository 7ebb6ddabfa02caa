import json

import pytest
from pages_for_tests import Page
from runs_for_tests import config_of, save_image

from pcejax import report, runs, writers

MODEL = {
    "parameters": 7_654_321,
    "gflops": 24.16339,
    "image": [64, 96, 3],
    "receptive_field": {"pixels": 204, "whole_image": False},
    "norm": "group",
    "parts": [
        {"name": "bottleneck_4", "shape": [4, 6, 512], "parameters": 3_540_992},
        {"name": "head", "shape": [64, 96, 6], "parameters": 198},
    ],
}


def evaluation(split="test", **changes):
    scores = {
        "split": split,
        "protocol": "across",
        "dataset": "synthetic_v1/64px/1.0.0",
        "num_tiles": 4,
        "miou": 0.61234,
        "iou": {"water": 0.51234, "barren": None},
        "overall_accuracy": 0.71234,
        "kappa": 0.41234,
        "calibration": "uncalibrated",
        "temperature": None,
        "expected_calibration_error": None,
        "expected_calibration_error_uncalibrated": 0.15678,
        "miou_interval_over_tiles": [0.31234, 0.91234],
        "legend": {"names": ["water", "barren"], "colors": [[0, 0, 255], [255, 255, 255]], "has_unknown": False},
        "majority_class": "water",
        "majority_miou": 0.11234,
        "points": {
            "labelled_share": 0.00123456,
            "labels_per_tile": [17, 28],
            "label_counts": {"water": 61, "barren": 0, "forest": 19},
            "point_counts": {},
            "held_out_counts": {},
            "underfull": {},
            "class_weights": {"water": 1.0, "barren": 1.0},
        },
    }
    return scores | changes


def make_workdir(tmp_path, *evaluations, name="run", **overrides):
    workdir = tmp_path / name
    runs.open_workdir(workdir, config_of("data", **overrides), MODEL)
    for result in evaluations:
        writers.write_json(runs.evaluation_path(workdir, result["split"]), result)
    for step in (2, 4):
        record = {"step": step, "loss": 1 / step, "accuracy": 0.5, "learning_rate": 1e-3}
        writers.append_line(workdir / "metrics.jsonl", record)
    return workdir


def page_of(workdir):
    path = report.build_report(workdir)
    assert path == workdir / "report" / "report.html"
    return Page(path)


def test_the_page_holds_the_scores_of_every_split(tmp_path):
    page = page_of(make_workdir(tmp_path, evaluation(), evaluation("train[:2]", miou=0.98765, protocol="within")))
    for told in ("0.612", "0.512", "absent", "0.712", "0.412", "0.312 to 0.912", "0.112", "(water)", "0.988"):
        assert told in page.text, told
    assert "Split test" in page.text
    assert "Split train[:2]" in page.text
    assert "no tile of it taught the run" in page.text
    assert "the tiles that taught the run, less their labels and a buffer around them" in page.text
    assert "4 tiles of synthetic_v1/64px/1.0.0" in page.text


def test_the_page_tells_what_taught_the_run(tmp_path):
    drawn = evaluation()
    told = "taught by 0.1235% of its tiles' pixels, 17 to 28 a tile: water 61, forest 19."
    assert told in page_of(make_workdir(tmp_path, drawn, name="drawn")).text
    clicked = {"point_counts": {"water": 5, "forest": 8}, "underfull": {"forest": 3}}
    text = page_of(make_workdir(tmp_path, drawn | {"points": drawn["points"] | clicked}, name="clicked")).text
    assert (
        "water 61, forest 19; points clicked: water 5, forest 8; fewer points than the budget, on so many tiles: "
        "forest 3." in text
    )


def test_the_page_tells_how_sure_maps_are_and_whether_they_should_be(tmp_path):
    plain = make_workdir(tmp_path, evaluation(), name="plain")
    save_image(runs.pictures_folder(plain, "test") / "test_0000.png", (20, 30))
    text = page_of(plain).text
    assert "kappa 0.412; expected calibration error 0.157, uncalibrated." in text
    assert "confidence (white is sure; uncalibrated)" in text
    told = "calibrated by temperature 1.732, fitted on 24 points"
    fitted = evaluation(temperature=1.7321, calibration=told, expected_calibration_error=0.04567)
    fitted["points"] |= {"point_counts": {"water": 5}, "held_out_counts": {"water": 2}}
    workdir = make_workdir(tmp_path, fitted, name="fitted")
    save_image(runs.pictures_folder(workdir, "test") / "test_0000.png", (20, 30))
    text = page_of(workdir).text
    assert f"kappa 0.412; expected calibration error 0.046, {told}, and 0.157 without." in text
    assert "points clicked: water 5; of them held out: water 2" in text
    assert "confidence (white is sure; calibrated)" in text


def test_a_fit_is_called_no_test(tmp_path):
    page = page_of(make_workdir(tmp_path, evaluation("train", protocol="fit")))
    assert "the tiles whose dense masks taught the run: no test of anything" in page.text


@pytest.mark.parametrize(("num_tiles", "descriptive"), [(19, True), (20, False)])
def test_an_interval_over_few_tiles_is_called_descriptive(tmp_path, num_tiles, descriptive):
    page = page_of(make_workdir(tmp_path, evaluation(num_tiles=num_tiles)))
    assert ("descriptive: fewer than 20 tiles" in page.text) == descriptive


def test_glnets_score_is_there_where_it_was_taken(tmp_path):
    assert "GLNet" not in page_of(make_workdir(tmp_path, evaluation(), name="without")).text
    trained = evaluation(miou_glnet=0.58711, miou_without_unknown_logit=0.59822)
    text = page_of(make_workdir(tmp_path, trained, name="with")).text
    assert "as GLNet does: 0.587" in text
    assert "without the unknown class's logit: 0.598" in text


def test_class_weights_are_told_where_they_differ(tmp_path):
    result = evaluation()
    assert "class weights" not in page_of(make_workdir(tmp_path, result, name="alike")).text
    result["points"]["class_weights"] = {"water": 0.71234, "barren": 1.28766}
    assert "class weights: water 0.71, barren 1.29" in page_of(make_workdir(tmp_path, result, name="unlike")).text


def test_the_baselines_of_a_split_are_beside_its_scores(tmp_path):
    workdir = make_workdir(tmp_path, evaluation("test"), evaluation("validation"))
    trees = {"trees on colour": {"miou": 0.23456, "iou": {"water": 0.34567, "barren": None}}}
    writers.write_json(runs.baselines_path(workdir, "test"), trees)
    page = page_of(workdir)
    test, _, validation = page.text.partition("Split validation")
    for told in ("trees on colour", "0.235", "0.346"):
        assert told in test
        assert told not in validation


def test_pictures_and_curves_are_inside_the_page(tmp_path):
    workdir = make_workdir(tmp_path, evaluation())
    for index, name in enumerate(("test_0000", "test_0001")):
        save_image(runs.pictures_folder(workdir, "test") / f"{name}.png", (20, 30), index)
    save_image(runs.pictures_folder(workdir, "other") / "stray.png", (20, 30))
    page = page_of(workdir)
    assert page.outside == []
    assert "script" not in page.tags
    assert [image.size for image in page.images[:2]] == [(30, 20), (30, 20)]
    assert len(page.images) == 3  # two maps and the curves
    assert "test_0000: image, truth, map, confidence" in page.text
    assert "stray" not in page.text


def test_the_page_tells_the_model(tmp_path):
    text = page_of(make_workdir(tmp_path)).text
    assert "512 to 512 features, 7.65 M parameters, 24.2 GFLOPs for 64x96 pixels, receptive field 204 pixels" in text
    for told in ("bottleneck_4", "4 x 6 x 512", "3,540,992"):
        assert told in text


def test_the_page_tells_the_config_and_the_machine(tmp_path):
    page = page_of(make_workdir(tmp_path, evaluation()))
    assert "4 points per class and tile (point seed 0)" in page.text
    assert "6 steps of 16 crops of 32 pixels at scale 1.0" in page.text
    assert '"annotator": "balanced"' in page.text
    assert '"devices": "2 x cpu"' in page.text


@pytest.mark.parametrize(
    ("annotator", "told"),
    [
        ("uniform", "taught by 4 points per tile ("),
        ("balanced", "taught by 4 points per class and tile ("),
        ("component", "taught by 4 points per connected component of at least 400 px ("),
        ("scribble", "taught by a stroke of 5 px along 50% of each connected component of at least 400 px ("),
        ("block", "taught by a block of 64x64 px per class and tile ("),
        ("dense", "taught by dense masks ("),
        ("dense_balanced", "taught by dense masks, the classes of a tile weighted alike ("),
    ],
)
def test_the_unit_of_the_budget_is_told(tmp_path, annotator, told):
    assert told in page_of(make_workdir(tmp_path, **{"points.annotator": annotator})).text


def test_drawn_scenes_are_called_drawn(tmp_path):
    assert "no figure is a finding about the world" in page_of(make_workdir(tmp_path, name="drawn")).text
    real = make_workdir(tmp_path, name="real", **{"data.name": "deepglobe"})
    assert "no figure is a finding about the world" not in page_of(real).text


def test_names_are_text_and_never_markup(tmp_path):
    evil = "<script>alert(1)</script>&amp;"
    counts = {"label_counts": {evil: 1}, "point_counts": {evil: 1}, "underfull": {evil: 1}}
    workdir = make_workdir(
        tmp_path,
        evaluation(dataset=evil, majority_class=evil, iou={evil: 0.5}, points=evaluation()["points"] | counts),
        name="<b>run",
        **{"data.data_dir": evil},
    )
    writers.write_json(runs.baselines_path(workdir, "test"), {evil: {"miou": 0.1, "iou": {evil: 0.2}}})
    save_image(runs.pictures_folder(workdir, "test") / "<i>&'.png", (4, 4))
    page = page_of(workdir)
    assert not {"script", "b", "i"} & set(page.tags)
    assert page.text.count(evil) == 8  # dataset, three counts, header, majority, baseline, config
    assert "<b>run" in page.text
    assert "<i>&': image" in page.text


def test_a_run_without_scores_has_a_page(tmp_path):
    page = page_of(make_workdir(tmp_path))
    assert "Split" not in page.text
    assert len(page.images) == 1


def test_the_same_results_give_the_same_page(tmp_path):
    workdir = make_workdir(tmp_path, evaluation())
    first = report.build_report(workdir).read_bytes()
    assert report.build_report(workdir).read_bytes() == first
    assert json.loads(runs.evaluation_path(workdir, "test").read_text()) == evaluation()

import ablations_for_tests as made_up
import pytest
from pages_for_tests import Page

from pcejax import ablation_record, ablation_results, pages, runs, writers

ARM = "points=3,seed=0,draw=0"


@pytest.fixture
def workdir(tmp_path):
    return made_up.point_sparsity(tmp_path / "made", (1, 3), seeds=1, draws=1, tiles=2)


def text_of(workdir):
    pages.write(workdir / "page.html", "", ablation_record.told(ablation_results.read(workdir)))
    return Page(workdir / "page.html").text


def test_what_differs_and_what_is_equal_is_told(workdir):
    text = text_of(workdir)
    assert 'points.annotator"balanced"points=1; points=3"dense"points=dense' in text
    assert "points.budget1points=1; points=dense; points=dense_balanced3points=3" in text
    assert "Equal in all arms: train.num_steps 900, train.batch_size 16, data.crop 96, data.scale 0.25." in text


def test_labels_of_each_setting_are_told_in_words_and_numbers(workdir):
    evaluation = runs.evaluation_path(workdir / "arms" / "points=1,seed=0,draw=0", "validation")
    made_up.edit(evaluation, points=made_up.points_of(1, 6) | {"point_counts": {"urban": 5, "water": 6}})
    text = text_of(workdir)
    assert "points=11 points per class and tile6110.0125%" in text
    assert "points=33 points per class and tile6540.0375%" in text
    assert "points=densedense masks60100.0000%" in text


def test_a_field_of_the_protocol_that_differs_is_not_called_equal(workdir):
    config = made_up.config_of(made_up.points_of(3, 6), **{"data.crop": 64})
    writers.write_json(workdir / "arms" / ARM / "config.json", config)
    text = text_of(workdir)
    assert "data.crop64points=3" in text.replace("96points=1; points=dense; points=dense_balanced", "")
    assert "data.crop 96" not in text


def test_protocols_are_told_each_in_words(workdir):
    for arm in ablation_results.read(workdir).arms:
        protocol = "fit" if "dense" in arm.name else "within"
        made_up.edit(runs.evaluation_path(arm.workdir, "validation"), protocol=protocol)
    text = text_of(workdir)
    assert "2 tiles of synthetic_v1/made_up, split validation, the tiles that taught the run, less" in text
    assert "no test of anything (“fit”)" in text


def test_cost_command_versions_and_durations_are_told(workdir):
    text = text_of(workdir)
    for told in ("2.4 s a click", "18.5 s a tile opened", "239.7 s a full mask", "Bearman et al., 2016"):
        assert told in text
    assert "scripts/ablate.py --config=configs/ablations/point_sparsity.py:demo" in text
    for told in ("packages.jax0.10.24", "devices2 x cpu4", "git_commit0123456789ab4"):  # of 4 arms
        assert told in text
    assert "4 arms, 6:00 of machine time" in text


def test_other_versions_are_told_apart(workdir):
    made_up.edit(workdir / "arms" / ARM / "manifest.json", devices="1 x NVIDIA H100")
    text = text_of(workdir)
    assert "devices2 x cpu3devices1 x NVIDIA H1001" in text


def test_arms_that_are_not_finished_are_listed_with_their_last_words(workdir):
    assert "not finished" not in text_of(workdir)
    runs.evaluation_path(workdir / "arms" / ARM, "validation").unlink()
    writers.append_line(workdir / "durations.jsonl", {"arm": ARM, "seconds": 3.0, "exit_code": 2})
    (workdir / "logs" / f"{ARM}.txt").write_text("error: tile <119>: was it resized?\n")
    assert f"{ARM}failed with exit code 2error: tile <119>: was it resized?" in text_of(workdir)


def test_where_no_arm_is_scored_the_command_and_the_failures_are_told(tmp_path):
    arms = [{"name": "a", "levels": {"points": "1"}, "seed": 0, "point_seed": 0, "fold": "", "eval_split": "v"}]
    writers.write_json(tmp_path / "ablation.json", made_up.about_of("x", {"points": ["1"]}, arms))
    text = text_of(tmp_path)
    assert "scripts/ablate.py" in text
    assert "anot started" in text

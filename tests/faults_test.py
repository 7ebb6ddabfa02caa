"""Processes that are killed. The scripts are compiled as the tests are."""

import shutil

import numpy as np
import pytest

from pcejax import faults


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """A folder with a run that nothing cut, and the usual seconds of its phases."""
    place = tmp_path_factory.mktemp("faults") / "uncut"
    return place, faults.run_uncut(place)


def test_a_run_killed_once_in_each_phase_ends_as_one_that_nothing_cut(uncut):
    place, usual = uncut
    kills = faults.plan_kills(np.random.default_rng(3), most=0.2)
    rows = faults.cut_run(place.with_name("cut"), kills, usual)
    assert sorted(row["phase"] for row in rows) == sorted(faults.PHASES), rows
    assert any(0 < row["resumed_at"] < row["step"] for row in rows), rows
    got, expected = faults.outcome(place.with_name("cut")), faults.outcome(place)
    for name, value in expected.items():
        assert got[name] == value, name


def test_every_part_of_an_outcome_tells_a_difference(uncut, tmp_path):
    """Each of these is damage that a kill could do, and that the comparison would have to see."""
    place, _ = uncut
    expected = faults.outcome(place)

    def replace(place, pattern, old, new):
        (path,) = place.glob(pattern)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    damages = {
        "dataset": lambda place: replace(place, "data/**/metadata.json", "class_pixels", "pixels"),
        "final state": lambda place: shutil.rmtree(place / "run" / "checkpoints" / "32"),
        "metrics.jsonl": lambda place: replace(place, "run/metrics.jsonl", '"step": 3,', '"step": 4,'),
        "scores": lambda place: replace(place, "run/report/*.json", '"miou": 0', '"miou": 1'),
        "files": lambda place: (place / "run" / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir(),
    }
    for name, damage in damages.items():
        shutil.copytree(place, tmp_path / name)
        damage(tmp_path / name)
        assert faults.outcome(tmp_path / name)[name] != expected[name], name


def test_kills_are_seeded_one_in_each_phase_and_in_the_order_in_which_a_run_comes_to_them():
    for seed in range(20):
        kills = faults.plan_kills(np.random.default_rng(seed))
        assert kills == faults.plan_kills(np.random.default_rng(seed))
        assert sorted(kill.phase for kill in kills) == sorted(faults.PHASES)
        assert kills[0].phase == "prepare"
        steps = [kill.step for kill in kills[1:]]
        assert steps == sorted(steps)
        assert all(0 <= kill.share < 0.9 for kill in kills)
    assert faults.plan_kills(np.random.default_rng(0)) != faults.plan_kills(np.random.default_rng(1))


def test_a_process_that_ends_badly_without_a_kill_is_told_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setitem(faults._FLAGS, "prepare_data", ("--dataset=none", "--data_dir=data"))
    with pytest.raises(RuntimeError, match=r"(?s)prepare_data.py ended with 2; expected 0: .*no such dataset"):
        faults.run(tmp_path, "prepare_data")

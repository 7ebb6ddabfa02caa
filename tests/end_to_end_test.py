"""The whole way as a user walks it: the scripts, in processes of their own."""

import filecmp
import html
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs_for_tests import save_image

from pcejax import faults, interrupts, writers
from pcejax.legend import DEEPGLOBE, decode_mask
from pcejax.models import summary

ROOT = Path(__file__).parents[1]
DATASET = "synthetic_v1/128px_4-2-2-0_seed0"
STEPS, EVERY, LOGGED = 16, 4, 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a prepared dataset, where the scripts are called."""
    folder = tmp_path_factory.mktemp("place")
    sizes = ("--size=128", "--num_train=4", "--num_validation=2", "--num_test=2", "--num_unlabelled=0")
    assert_ended_well(run_script(folder, "prepare_data", "--dataset=synthetic_v1", "--data_dir=data", *sizes))
    return folder


def environment(place, devices=1):
    """One device as on a user's CPU; what was compiled once is kept for the next process."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(script, *arguments):
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, arguments)]


def run_script(place, script, *arguments, devices=1):
    return subprocess.run(
        command(script, *arguments),
        cwd=place,
        env=environment(place, devices),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def training(workdir, *overrides):
    """The flags of a run; a tile has 32 pixels a side at its scale. Of two flags for one field the later one holds."""
    return (
        f"--config={ROOT}/configs/quickstart.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.name={DATASET}",
        "--config.model.depth=1",
        "--config.model.width=2",
        "--config.inference.window=24",
        "--config.inference.overlap=8",
        f"--config.train.num_steps={STEPS}",
        f"--config.train.checkpoint_every_steps={EVERY}",
        "--config.train.eval_every_steps=8",
        *overrides,
    )


def assert_ended_well(ended):
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def assert_refused(ended, *told):
    """Exit code 2 and one message, before the first step."""
    assert ended.returncode == 2, ended.stderr
    messages = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for text in told:
        assert text in messages[0], messages[0]
    assert "train: steps" not in ended.stdout


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uncut(place):
    """A run that nothing cut, and what it printed."""
    ended = run_script(place, "train", *training("runs/uncut"))
    assert_ended_well(ended)
    return place / "runs" / "uncut", ended.stdout


# A run


def test_a_workdir_has_what_the_design_promises_and_nothing_else(uncut):
    workdir, _ = uncut
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "manifest.json",
        "model.json",
        "checkpoints",
        "metrics.jsonl",
        "timing.jsonl",
        "tensorboard",
        "report",
    }
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == [str(STEPS - EVERY), str(STEPS)]
    report = {str(path.relative_to(workdir / "report")) for path in (workdir / "report").rglob("*.*")}
    assert report == {
        "evaluation_validation.json",
        "report.html",
        "maps_validation/validation_0000.png",
        "maps_validation/validation_0001.png",
    }
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert not list(workdir.rglob("*.partial"))


def test_a_run_tells_its_model_at_the_start_and_in_the_report(uncut):
    workdir, told = uncut
    model = json.loads((workdir / "model.json").read_text())
    line = summary.describe(model)
    assert "GFLOPs for 32x32 pixels, receptive field 18 pixels" in line
    start, _, _ = told.partition("train: steps")
    assert f"\nmodel: {line}\n" in start
    assert f"Total: {model['parameters']:,}" in start
    assert "| encoder/level_0/block_0/conv_0/Conv_0/kernel " in start
    assert html.escape(line) in (workdir / "report" / "report.html").read_text()


def test_nothing_is_written_outside_the_workdir(uncut, place):
    assert {path.name for path in place.iterdir()} <= {"data", "runs", "compiled"}


def test_every_logged_step_is_there_once_and_in_order(uncut):
    workdir, _ = uncut
    records = writers.read_lines(workdir / "metrics.jsonl")
    losses = [record for record in records if "loss" in record]
    assert [record["step"] for record in losses] == list(range(LOGGED, STEPS + 1, LOGGED))
    for name in ("accuracy", "grad_norm", "labelled_pixels", "unlabelled_crops", "learning_rate"):
        assert all(np.isfinite(record[name]) for record in losses)
    assert [record["step"] for record in records if "miou" in record] == [8]
    assert [record["step"] for record in writers.read_lines(workdir / "timing.jsonl")] == [r["step"] for r in losses]


def test_the_start_and_the_end_are_told(uncut):
    _, told = uncut
    for text in (
        "devices: 1 x cpu; a step has 16 crops, 16 on each device",
        "tiles: 4 labelled, ",
        "labels: 10 points per class and tile: ",
        "Total: ",
        f"train: steps {STEPS}/{STEPS}",
        "validation (across): mIoU",
        "run:     runs/uncut",
        "report:  runs/uncut/report/report.html",
        "next:    scripts/predict.py --workdir=runs/uncut",
    ):
        assert text in told, text


def test_a_second_start_says_done_already_and_changes_nothing(uncut, place):
    workdir, _ = uncut
    before = files_of(workdir)
    ended = run_script(place, "train", *training("runs/uncut"))
    assert_ended_well(ended)
    assert "done already" in ended.stdout
    assert "train: steps" not in ended.stdout
    assert "mIoU" in ended.stdout
    assert files_of(workdir) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_ends_with_its_own_code_and_goes_on(uncut, place, number):
    name = f"runs/asked_{number.name}"
    process = subprocess.Popen(
        command("train", *training(name)),
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for printed in process.stdout:
        if "train: steps" in printed:
            break
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == interrupts.EXIT_CODE, told
    assert "Traceback" not in told
    step = int(re.search(rf"stopped by {number.name} at step (\d+), which is saved; the same command goes on", told)[1])
    assert step < STEPS
    ended = run_script(place, "train", *training(name))
    assert_ended_well(ended)
    assert f"resumed at step {step} of {STEPS}" in ended.stdout
    assert faults.hash_state(place / name) == faults.hash_state(uncut[0])
    assert filecmp.cmp(place / name / "metrics.jsonl", uncut[0] / "metrics.jsonl", shallow=False)


def test_a_second_signal_ends_a_run_at_once(place):
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)  # as Linux tells of each thread of a parent that dies
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 128 + signal.SIGINT
    process.stdout.close()


STUBBORN = """
import time
from pcejax import interrupts

interrupts.install()
with interrupts.deferred() as asked:
    print("ready", flush=True)
    while not asked():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_without_a_split_to_score_a_run_prints_no_scores_and_still_ends(place):
    arguments = training("runs/unscored", "--config.data.eval_split=", "--config.train.eval_every_steps=0")
    first, second = (run_script(place, "train", *arguments) for _ in range(2))
    for ended in (first, second):
        assert_ended_well(ended)
        assert "mIoU" not in ended.stdout
        assert "report:  runs/unscored/report/report.html" in ended.stdout
    assert f"train: steps {STEPS}/{STEPS}" in first.stdout
    assert f"done already, {STEPS} steps trained\n" in second.stdout
    assert "train: steps" not in second.stdout
    assert [path.name for path in (place / "runs" / "unscored" / "report").iterdir()] == ["report.html"]


# After a run


def test_a_run_is_scored_beside_its_baselines_and_reported(uncut, place):
    workdir, _ = uncut
    ended = run_script(place, "evaluate", "--workdir=runs/uncut", "--split=test", "--baselines")
    assert_ended_well(ended)
    result = json.loads((workdir / "report" / "evaluation_test.json").read_text())
    assert result["protocol"] == "across"
    assert result["step"] == STEPS
    assert np.sum(result["confusion_matrix"]) == 2 * 128**2
    trees = json.loads((workdir / "report" / "baselines_test.json").read_text())
    page = (workdir / "report" / "report.html").read_text()
    for told in (f"{result['miou']:.3f}", "Split test", "Split validation"):
        assert told in page
    for name, scores in trees.items():
        assert name.replace("'", "&#x27;") in page
        assert f"{scores['miou']:.3f}" in page
    assert page.count("data:image/png;base64,") == 2 + 2 + 1


def test_a_run_maps_images(uncut, place):
    save_image(place / "runs" / "images" / "field.png", (100, 150))
    arguments = ("--workdir=runs/uncut", "--input=runs/images/*.png", "--output=runs/maps")
    ended = run_script(place, "predict", *arguments)
    assert_ended_well(ended)
    names = ["field_classes.png", "field_mask.png", "field_overlay.jpg"]
    assert sorted(path.name for path in (place / "runs" / "maps").iterdir()) == names
    classes, mask = (np.asarray(Image.open(place / "runs" / "maps" / name)) for name in names[:2])
    assert classes.shape == (100, 150)
    np.testing.assert_array_equal(decode_mask(mask, DEEPGLOBE, "mask"), classes)


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("evaluate", ["--workdir=runs/gone", "--split=test"], "no run there"),
        ("evaluate", ["--workdir=runs/uncut", "--split=tset"], "'tset'"),
        ("predict", ["--workdir=runs/uncut", "--input=gone", "--output=runs/none"], "no image"),
    ],
)
def test_what_cannot_be_scored_or_mapped_is_told(uncut, place, script, arguments, told):
    assert_refused(run_script(place, script, *arguments), told)


# Bad input


@pytest.mark.parametrize(
    ("override", "devices", "told"),
    [
        ("--config.train.num_step=3", 1, ["no field 'num_step'", 'Did you mean "num_steps"']),
        ("--config.data.crop=33", 1, ["data.crop=33 is larger than tile train_0000, 32x32", "expected at most 32"]),
        ("--config.train.batch_size=7", 2, ["train.batch_size=7 on 2 devices", "set it to 6 or 8"]),
        ("--config.data.device_memory_share=1e-9", 1, ["4 tiles of 32x32", "need 0.00 GB", "data.device_memory_share"]),
        ("--config.data.name=synthetic_v1/none", 1, ["'synthetic_v1/none': no prepared dataset", "prepare_data.py"]),
    ],
    ids=["field", "crop", "batch", "memory", "dataset"],
)
def test_bad_input_ends_the_script_before_training(place, override, devices, told):
    assert_refused(run_script(place, "train", *training("runs/refused", override), devices=devices), *told)
    assert not (place / "runs" / "refused").exists()


def test_the_workdir_of_another_config_is_refused_and_left_as_it_was(uncut, place):
    workdir, _ = uncut
    before = files_of(workdir)
    ended = run_script(place, "train", *training("runs/uncut", "--config.points.budget=3"))
    assert_refused(ended, "runs/uncut", "points.budget: 10 there, 3 now")
    assert files_of(workdir) == before

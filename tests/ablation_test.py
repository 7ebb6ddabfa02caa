"""The arms of an ablation in this process, without training; and a real one, killed and started again."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.ablations import default
from pcejax import ablation, ablation_grid, interrupts, launchers, runs, writers
from pcejax.datasets import prepare
from pcejax.errors import UserError
from pcejax.launchers import Ended

ROOT = Path(__file__).parents[1]


def grid(**fields):
    tried = default.get_config("tried", "smoke")
    tried.axes = {"points": default.budgets(1, 3)}
    tried.factor = tried.budget_axis = "points"
    tried.update(fields)
    return tried


NAMES = [f"points={points},seed={seed},draw=0" for seed in (0, 1) for points in (1, 3)]


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """No dataset is drawn and no report is made, but told."""
    monkeypatch.setattr(ablation, "_prepare", lambda *_: None)
    monkeypatch.setattr(ablation.ablation_report, "write_report", lambda workdir: workdir / "report.html")


def launcher(exit_codes=None, started=None):
    """One that does what training would leave, or ends with another code."""

    def launch(tasks, asked):
        for task in tasks:
            if started is not None:
                started.append(task.name)
            code = (exit_codes or {}).get(task.name, 0)
            workdir = next(Path(word.partition("=")[2]) for word in task.command if word.startswith("--workdir="))
            writers.write_json(workdir / "config.json", _config(task))
            writers.append_line(workdir / "metrics.jsonl", {"step": 6 if code == 0 else 2, "loss": 1.0})
            task.log.parent.mkdir(parents=True, exist_ok=True)
            task.log.write_text(f"$ train\nerror: the cause of {task.name}\n")
            if code == 0:
                writers.write_json(runs.evaluation_path(workdir, "validation"), {"step": 6, "miou": 0.25})
            yield [Ended(task.name, 61.0, code)]

    return launch


def _config(task):
    arm = next(arm for arm in ablation_grid.expand(grid()) if arm.name == task.name)
    workdir = task.log.parents[1]
    return json.loads(ablation_grid.config_of(grid(), ablation._overrides(workdir, arm)).to_json())


def run(workdir, launch, config=None):
    return ablation.run_ablation(config or grid(), workdir, launch, ["scripts/ablate.py", "--config=tried"])


def test_all_arms_are_run_and_told(tmp_path, capsys):
    assert run(tmp_path, launcher()) == []
    told = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: done after 1:01, mIoU 0.250" in told
    assert "ablation: arms 4/4; steps 24/24, " in told
    assert f"report: {tmp_path}/report.html" in told
    assert writers.read_lines(tmp_path / "durations.jsonl") == [
        {"arm": name, "seconds": 61.0, "exit_code": 0} for name in NAMES
    ]
    told = json.loads((tmp_path / "ablation.json").read_text())
    assert [arm["name"] for arm in told["arms"]] == NAMES
    assert told["command"] == ["scripts/ablate.py", "--config=tried"]


def test_baselines_are_scored_on_each_fold_at_the_budgets_that_click(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ablation.baseline_draws, "score", lambda *args: asked.append(args))
    folds = {
        name: {"data.train_split": taught_by, "data.eval_split": "validation"}
        for name, taught_by in (("a", "train[2:]"), ("b", "train[:2]"))
    }
    axes = {"points": default.budgets(1, 3) | {"dense": default.DENSE["dense"]}}
    tried = grid(axes=axes, folds=folds, baselines={"trees": (0, 1)})
    ablation._score_baselines(tried, ablation_grid.expand(tried), tmp_path)
    ((wanted, budgets, configs, path),) = asked
    assert (wanted, budgets) == ({"trees": (0, 1)}, {"1": 1, "3": 3})
    assert {fold: config.data.train_split for fold, config in configs.items()} == {"a": "train[2:]", "b": "train[:2]"}
    assert {config.points.annotator for config in configs.values()} == {"balanced"}
    assert path == tmp_path / "baselines.jsonl"


def test_a_failed_arm_is_reported_and_the_others_end(tmp_path, capsys):
    assert run(tmp_path, launcher({NAMES[1]: 2})) == [NAMES[1]]
    told = capsys.readouterr().out
    assert f"{NAMES[1]}: failed with exit code 2 after 1:01: error: the cause of {NAMES[1]}\n" in told
    assert f"{tmp_path}/logs/{NAMES[1]}.txt" in told
    assert re.search(rf"again, alone: .*train.py --config=.*--workdir='?{tmp_path}/arms/{NAMES[1]}", told)
    assert "ablation: arms 3/4, 1 failed; steps 20/24" in told
    assert "report: " in told


def test_a_second_start_runs_what_is_missing_alone(tmp_path):
    with pytest.raises(interrupts.Interrupted, match="; 2 of 4 arms are done"):
        run(tmp_path, launcher({NAMES[1]: interrupts.EXIT_CODE, NAMES[3]: interrupts.EXIT_CODE}))
    before = (tmp_path / "ablation.json").read_bytes()
    started = []
    assert run(tmp_path, launcher(started=started)) == []
    assert started == [NAMES[1], NAMES[3]]
    assert (tmp_path / "ablation.json").read_bytes() == before
    run(tmp_path, launcher(started=started))
    assert len(started) == 2


def test_a_launcher_that_ends_before_all_arms_are_done_was_asked_to_stop(tmp_path, capsys):
    with pytest.raises(interrupts.Interrupted, match="; 0 of 4 arms are done"):
        run(tmp_path, lambda tasks, asked: iter([[]]))
    assert "report: " not in capsys.readouterr().out


def test_scores_of_an_earlier_step_are_not_the_end(tmp_path):
    writers.write_json(runs.evaluation_path(tmp_path / "arms" / NAMES[0], "validation"), {"step": 4, "miou": 0.1})
    started = []
    run(tmp_path, launcher(started=started))
    assert started == NAMES


def test_the_workdir_of_another_ablation_is_refused_with_the_difference(tmp_path):
    run(tmp_path, launcher())
    before = (tmp_path / "ablation.json").read_bytes()
    with pytest.raises(UserError, match=r"holds another ablation: seconds: .*2.4.* there, .*5.* now; take another"):
        run(tmp_path, launcher(), grid(seconds={"click": 5, "tile": 18.5, "mask": 239.7}))
    with pytest.raises(UserError, match=r"holds another ablation: arms: 2 there alone, .*; 4 now alone"):
        run(tmp_path, launcher(), grid(seeds=(0, 2, 3)))
    assert (tmp_path / "ablation.json").read_bytes() == before


def test_an_arm_whose_config_is_another_one_now_is_refused(tmp_path):
    """Such as of a base config that was edited since."""
    run(tmp_path, launcher())
    path = tmp_path / "arms" / NAMES[2] / "config.json"
    config = json.loads(path.read_text())
    config["augment"]["blur"] = 0.5
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"{NAMES[2]} holds a run of another config: augment.blur: 0.5 there, 0.0 now"):
        run(tmp_path, launcher())


def test_bad_input_starts_nothing(tmp_path):
    with pytest.raises(UserError, match="no axis"):
        run(tmp_path / "new", launcher(), grid(factor="other"))
    assert not (tmp_path / "new").exists()


# A real one

ONE_DEVICE = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
TRIED = """
from configs.ablations import default

def get_config(size="smoke"):
    ablation = default.get_config("tried", size)
    ablation.overrides |= {"train.num_steps": 300, "train.log_every_steps": 10, "train.checkpoint_every_steps": 50}
    # All that is data: no level, seed or draw may ask for another compilation.
    ablation.axes = {
        "arm": {
            "a": {"points.budget": 1, "loss.entropy.weight": 0.1},
            "b": {"points.budget": 3, "loss.entropy.weight": 0.3, "loss.class_weights": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)},
            "bad": {"points.annotator": "expert"},
        }
    }
    ablation.factor = "arm"
    ablation.differences = (("arm", "b", "a"),)
    ablation.point_seeds_of = {"arm": {"b": (1,)}}
    return ablation
"""


def start(place):
    environment = os.environ | {
        "XLA_FLAGS": ONE_DEVICE,
        "PYTHONPATH": str(ROOT),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(ROOT / "scripts" / "ablate.py"), "--config=tried.py", "--workdir=run"]
    with (place / "told.txt").open("a") as told:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=told, stderr=subprocess.STDOUT)


def compiled(place):
    """Programs of steps in the cache that arms share; what else is there are a few small ones."""
    return {path.name for path in (place / "run" / "cache" / "compiled").glob("jit__fun-*-cache")}


def text_of(path):
    return path.read_text() if path.exists() else ""


def wait_until(condition, process):
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError("it takes too long")


def test_an_ablation_that_is_cut_goes_on_and_arms_share_one_compilation(tmp_path):
    (tmp_path / "tried.py").write_text(TRIED)
    first, second = (tmp_path / "run" / "logs" / f"arm={name},seed=0,draw={draw}.txt" for name, draw in ("a0", "b1"))

    process = start(tmp_path)
    wait_until(lambda: "train: steps" in text_of(first), process)
    process.terminate()
    assert process.wait(timeout=120) == interrupts.EXIT_CODE
    assert "stopped by SIGTERM at step" in text_of(first)
    assert "stopped by SIGTERM; 0 of 6 arms are done; the same command goes on" in text_of(tmp_path / "told.txt")

    process = start(tmp_path)
    wait_until(lambda: "train: steps" in text_of(second), process)
    process.kill()
    process.wait()
    of_first_arms = compiled(tmp_path)
    files = [path for path in (tmp_path / "run" / "arms" / first.stem).rglob("*") if path.is_file()]
    done = {path: path.stat().st_mtime_ns for path in files}

    assert start(tmp_path).wait(timeout=300) == 1
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for log in (first, second):
        assert len(re.findall(r"^resumed at step \d+ of 300$", text_of(log), re.MULTILINE)) == 1
        assert len(re.findall(r"^\$ ", text_of(log), re.MULTILINE)) == 2
    for name, draw in (("a", 0), ("b", 1)):
        for seed in (0, 1):
            workdir = tmp_path / "run" / "arms" / f"arm={name},seed={seed},draw={draw}"
            steps = [record["step"] for record in writers.read_lines(workdir / "metrics.jsonl")]
            assert steps == list(range(10, 301, 10))
            assert (workdir / "report" / "evaluation_validation.json").exists()
    told = text_of(tmp_path / "told.txt")
    assert "arm=bad,seed=0,draw=0: failed with exit code 2 after" in told
    assert "error: points.annotator='expert'; expected one of" in told
    assert "error: 2 arms failed: arm=bad,seed=0,draw=0, arm=bad,seed=1,draw=0" in told
    assert "ablation: arms 4/6, 2 failed; steps 1200/1800" in told
    assert len(of_first_arms) == 2  # a training step, and one that maps
    assert compiled(tmp_path) == of_first_arms


def test_arms_run_as_jobs(tmp_path, monkeypatch):
    """Of submitit's own executor, which runs them on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", ONE_DEVICE)
    tried = grid(axes={"points": default.budgets(1)}, seeds=(0,))
    prepare.prepare_dataset("synthetic_v1", "data", **tried.prepare)
    launch = functools.partial(
        launchers.run_slurm, folder=Path("run/slurm"), processes=None, options={"timeout_min": 10}, cluster="local"
    )
    assert run(Path("run"), launch, tried) == []
    (record,) = writers.read_lines(Path("run/durations.jsonl"))
    assert (record["arm"], record["exit_code"]) == (NAMES[0], 0)
    assert json.loads(Path(f"run/arms/{NAMES[0]}/report/evaluation_validation.json").read_text())["step"] == 6
    assert "train: steps 6/6" in text_of(Path(f"run/logs/{NAMES[0]}.txt"))


def test_without_a_config_it_is_told(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "ablate.py"), f"--workdir={tmp_path}/run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: expected --config=configs/ablations/<name>.py")

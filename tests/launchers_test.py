"""Small commands in real processes: on this machine, and as jobs of submitit."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit

from pcejax import interrupts, launchers
from pcejax.errors import UserError
from pcejax.launchers import Ended, Slot, Task

ROOT = Path(__file__).parents[1]
PATIENT = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('here', flush=True)"
"""The start of a command that ends as a run does when it is asked to stop."""


def task(folder, name, code):
    return Task(name, [sys.executable, "-c", code], folder / "logs" / f"{name}.txt")


def never():
    return False


def run_all(tasks, slots, asked=never):
    return [end for ended in launchers.run_local(tasks, asked, slots=slots) for end in ended]


def told_by(path):
    """What tasks printed, without the commands."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith("$ ")]


def wait_for(path, text):
    for _ in range(600):
        if text in told_by(path):
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} does not tell {text!r}")


# Slots


def test_each_gpu_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [slot.environment for slot in launchers.local_slots(None)] == [
        {"CUDA_VISIBLE_DEVICES": "2"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]


def test_processes_on_one_gpu_share_its_memory(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slots = launchers.local_slots(4)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]
    assert {slot.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in slots} == {"0.45"}


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [
        ({0, 1}, 2, [[0], [1]]),
        ({0, 1, 2, 3, 7}, 2, [[0, 1], [2, 3, 7]]),
        ({0, 1}, 1, [[]]),
        ({4, 5}, 3, [[4], [5], [4, 5]]),
    ],
)
def test_without_gpus_cores_are_split(monkeypatch, cores, processes, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    got = [list(slot.cores) for slot in launchers.local_slots(processes)]
    assert len(got) == processes
    if processes <= len(cores):
        assert got == expected
    else:
        assert all(len(share) == 1 for share in got)
        assert {core for share in got for core in share} == cores


def test_no_process_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="--processes=0; expected 1 or more"):
        launchers.local_slots(0)


# Processes of this machine


def test_tasks_run_in_their_slots_and_their_ends_are_told(tmp_path):
    core = min(os.sched_getaffinity(0))
    code = "import os, sys; print(os.environ['NAME'], *os.sched_getaffinity(0)); sys.exit({code})"
    tasks = [task(tmp_path, f"t{number}", code.format(code=number)) for number in (0, 3, 75)]
    ended = run_all(tasks, [Slot({"NAME": "only"}, [core])])
    assert [(end.name, end.exit_code) for end in ended] == [("t0", 0), ("t3", 3), ("t75", 75)]
    assert all(end.seconds > 0 for end in ended)
    for one in tasks:
        first, told = one.log.read_text().splitlines()
        assert first.startswith(f"$ {sys.executable} -c ")
        assert told == f"only {core}"


def test_as_many_run_at_once_as_there_are_slots_and_no_more(tmp_path):
    code = (
        "import pathlib, time; here = pathlib.Path({folder!r}); me = here / {name!r}; me.touch(); time.sleep(0.4);"
        "print(len(list(here.iterdir()))); time.sleep(0.4); me.unlink()"
    )
    (tmp_path / "here").mkdir()
    names = [f"t{index}" for index in range(5)]
    tasks = [task(tmp_path, name, code.format(folder=str(tmp_path / "here"), name=name)) for name in names]
    assert [end.exit_code for end in run_all(tasks, [Slot()] * 2)] == [0] * 5
    seen = [int(one.log.read_text().splitlines()[-1]) for one in tasks]
    assert max(seen) == 2


def test_a_log_goes_on_where_it_ended(tmp_path):
    one = task(tmp_path, "one", "print('told')")
    run_all([one], [Slot()])
    run_all([one], [Slot()])
    assert told_by(one.log) == ["told", "told"]


def test_asked_to_stop_it_passes_that_on_and_starts_no_more(tmp_path):
    tasks = [task(tmp_path, name, f"{PATIENT}; time.sleep(60)") for name in ("a", "b")]

    def asked():
        return "here" in told_by(tasks[0].log)

    assert [(end.name, end.exit_code) for end in run_all(tasks, [Slot()], asked)] == [("a", interrupts.EXIT_CODE)]
    assert not tasks[1].log.exists()


LAUNCH = """
import sys
from pathlib import Path
from pcejax import launchers
tasks = [launchers.Task("one", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]))]
for ended in launchers.run_local(tasks, lambda: False, slots=[launchers.Slot()]):
    print(ended, flush=True)
"""


def start_launching(log, code):
    return subprocess.Popen([sys.executable, "-c", LAUNCH, str(log), code], env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no signal comes when a parent dies; the lock holds")
def test_processes_end_with_the_one_that_started_them(tmp_path):
    log = tmp_path / "log.txt"
    code = PATIENT.replace("sys.exit(75)", "(print('asked', flush=True), sys.exit(75))")
    starter = start_launching(log, f"{code}; time.sleep(60)")
    wait_for(log, "here")
    starter.kill()
    starter.wait()
    wait_for(log, "asked")


def test_no_two_processes_are_at_one_task(tmp_path):
    """The first one's starter is killed, and it goes on; the second is started when it has ended."""
    log = tmp_path / "log.txt"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True)"
    starter = start_launching(log, f"{deaf}; time.sleep(2); print('first ends', flush=True)")
    wait_for(log, "here")
    starter.kill()
    starter.wait()
    second = Task("one", [sys.executable, "-c", "print('second')"], log)
    other = task(tmp_path, "other", "pass")
    ended = run_all([second, other], [Slot()])
    assert [end.name for end in ended] == ["other", "one"]  # it does not wait where there is something to do
    assert told_by(log) == ["here", "first ends", "second"]


def test_ctrl_c_reaches_the_starter_alone(tmp_path):
    one = task(tmp_path, "one", "import os; print(os.getpgid(0) == os.getpid())")
    run_all([one], [Slot()])
    assert one.log.read_text().splitlines()[-1] == "True"


def test_the_signal_of_slurm_to_all_processes_of_a_job_ends_no_task(tmp_path):
    one = task(tmp_path, "one", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('goes on')")
    run_all([one], [Slot()])
    assert told_by(one.log) == ["goes on"]


# Jobs of submitit


def run_jobs(tmp_path, tasks, asked=never, **options):
    return launchers.run_slurm(
        tasks,
        asked,
        folder=tmp_path / "jobs",
        processes=None,
        options={"timeout_min": 5} | options,
        cluster="local",
    )


@pytest.fixture
def importable(monkeypatch):
    """In jobs too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_jobs_run_tasks_and_their_ends_are_told(tmp_path, importable):
    tasks = [task(tmp_path, f"t{code}", f"print('told'); raise SystemExit({code})") for code in (0, 3)]
    ended = [end for ended in run_jobs(tmp_path, tasks) for end in ended]
    assert sorted((end.name, end.exit_code) for end in ended) == [("t0", 0), ("t3", 3)]
    assert all(told_by(one.log) == ["told"] for one in tasks)


def test_asked_to_stop_it_cancels_the_jobs_whose_tasks_stop_well(tmp_path, importable):
    one = task(tmp_path, "one", f"{PATIENT}; time.sleep(60)")

    def asked():
        return "here" in told_by(one.log)

    (end,) = [end for ended in run_jobs(tmp_path, [one], asked) for end in ended]
    assert (end.name, end.exit_code) == ("one", interrupts.EXIT_CODE)
    launchers._wait_for_end(one)


def test_a_job_whose_time_is_up_stops_its_task_and_is_queued_again(tmp_path, importable):
    """The task itself sends the job the signal that the time is up."""
    first = str(tmp_path / "first")
    code = (
        f"import os; os.path.exists({first!r}) and exit(print('went on')); open({first!r}, 'w').close(); "
        f"{PATIENT.replace('sys.exit(75)', '(print(9, flush=True), sys.exit(75))')}; "
        "os.kill(os.getppid(), signal.SIGUSR2); time.sleep(60)"
    )
    one = task(tmp_path, "one", code)
    (end,) = [end for ended in run_jobs(tmp_path, [one]) for end in ended]
    assert end == Ended("one", end.seconds, 0)
    assert told_by(one.log) == ["here", "9", "went on"]


def test_a_job_that_dies_is_a_failure_and_its_log_tells(tmp_path, importable, monkeypatch):
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)  # that it waits for a file, for slow file systems
    one = task(tmp_path, "one", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    (end,) = [end for ended in run_jobs(tmp_path, [one]) for end in ended]
    assert (end.name, end.exit_code) == ("one", 1)
    assert "error: job " in one.log.read_text()


def test_without_slurm_it_is_told(tmp_path):
    one = task(tmp_path, "one", "pass")
    run = launchers.run_slurm([one], never, folder=tmp_path, processes=None, options={})
    with pytest.raises(UserError, match=r"--launcher=slurm: .*srun"):
        next(run)


def test_an_option_that_submitit_does_not_have_is_told(tmp_path):
    run = run_jobs(tmp_path, [task(tmp_path, "one", "pass")], timout_min=3)
    with pytest.raises(UserError, match=r"--launcher=slurm: .*timout_min"):
        next(run)


def test_no_task_needs_no_launcher(tmp_path):
    assert list(launchers.run_slurm([], never, folder=tmp_path, processes=None, options={})) == []
    assert run_all([], [Slot()]) == []

"""A run of several processes, which several hosts have: two of them on this machine, over its loopback."""

import filecmp
import json
import re
import signal
import socket
import subprocess
import time

import pytest
from end_to_end_test import EVERY, STEPS, command, environment, place, run_script, training

from pcejax import faults, interrupts, writers

__all__ = ["place"]

OVERRIDES = ("--config.train.accumulation=2", "--config.inference.batch_size=2")
BOUND = 120
"""Seconds after which a process that waits for another one hangs."""


@pytest.fixture
def start():
    """Starts a process; those that a test leaves are killed."""
    started = []

    def popen(place, *arguments, **variables):
        process = subprocess.Popen(
            command("train", *arguments),
            cwd=place,
            env=environment(place) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def start_both(start, place, *arguments):
    told = ("--num_processes=2", f"--coordinator=localhost:{free_port()}")
    return [start(place, *arguments, *told, f"--process_id={index}") for index in range(2)]


def ends(processes):
    """Exit code, stdout and stderr of each."""
    return [(process.returncode, *told) for process in processes for told in [process.communicate(timeout=BOUND)]]


def wait_for(process, text):
    for printed in process.stdout:
        if text in printed:
            return
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def one(place):
    """What two processes must equal: one process with two devices."""
    ended = run_script(place, "train", *training("runs/one", *OVERRIDES), devices=2)
    assert ended.returncode == 0, ended.stderr
    return place / "runs" / "one"


def assert_like(workdir, one):
    assert faults.hash_state(workdir) == faults.hash_state(one)
    assert filecmp.cmp(workdir / "metrics.jsonl", one / "metrics.jsonl", shallow=False)
    scores = [json.loads((run / "report" / "evaluation_validation.json").read_text()) for run in (workdir, one)]
    for name in ("confusion_matrix", "tiles", "miou"):
        assert scores[0][name] == scores[1][name], name


def test_two_processes_are_one_process_with_two_devices(start, place, one):
    first, second = ends(start_both(start, place, *training("runs/two", *OVERRIDES)))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "devices: 2 x cpu (2 processes); a step has 16 crops, 8 on each device, in 2 micro-batches" in first[1]
    assert not [line for line in second[1].splitlines() if not line.startswith("[Gloo]")]  # one tells for all
    workdir = place / "runs" / "two"
    assert_like(workdir, one)
    assert names_in(workdir) == names_in(one)


def names_in(workdir):
    """Of all files and checkpoints, but for the event file, of which there is one."""
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    inside = {path.relative_to(workdir) for path in workdir.rglob("*")}
    return {path for path in inside if "tensorboard" not in path.parts and path.parts[2:3] != ("state",)}


def test_under_slurm_they_find_each_other(start, place, one):
    """With the variables that srun sets, as JAX reads them; the port comes from the number of the job."""
    port = free_port()
    while not 61440 <= port <= 65535:
        port = 61440 + port % 4096
    slurm = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        start(place, *training("runs/slurm", *OVERRIDES), **slurm, SLURM_PROCID=str(index), SLURM_LOCALID="0")
        for index in range(2)
    ]
    for code, _, errors in ends(processes):
        assert code == 0, errors
    assert_like(place / "runs" / "slurm", one)


@pytest.mark.parametrize("asked", [(1,), (0, 1)], ids=["second", "both"])
def test_a_signal_to_any_of_them_stops_all_at_one_step_and_they_go_on(start, place, one, asked):
    name = f"runs/asked_{'_'.join(map(str, asked))}"
    processes = start_both(start, place, *training(name, *OVERRIDES))
    wait_for(processes[0], "train: steps")
    for index in asked:
        processes[index].send_signal(signal.SIGTERM)
    ended = ends(processes)
    assert [code for code, _, _ in ended] == [interrupts.EXIT_CODE] * 2, ended
    steps = {re.search(r"at step (\d+), which is saved", errors)[1] for _, _, errors in ended}
    assert len(steps) == 1
    for index, (_, _, errors) in enumerate(ended):
        assert ("stopped by SIGTERM" if index in asked else "stopped by a signal to another process") in errors
    if asked == (0, 1):
        for code, _, errors in ends(start_both(start, place, *training(name, *OVERRIDES))):
            assert code == 0, errors
        assert_like(place / name, one)


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends_with_a_message_and_both_go_on(start, place, one, killed):
    name = f"runs/killed_{killed}"
    processes = start_both(start, place, *training(name, *OVERRIDES))
    wait_for(processes[0], f"train: steps {EVERY}/{STEPS}")
    processes[killed].send_signal(signal.SIGKILL)
    start_of_wait = time.monotonic()
    code, _, errors = ends(processes)[1 - killed]
    assert code not in (0, 2, interrupts.EXIT_CODE)
    assert "where another process ended first, its message has the cause" in errors or "another task died" in errors
    assert time.monotonic() - start_of_wait < BOUND
    if killed == 0:
        for code, _, errors in ends(start_both(start, place, *training(name, *OVERRIDES))):
            assert code == 0, errors
        assert_like(place / name, one)


def test_processes_of_other_configs_are_refused_by_all(start, place):
    told = ("--num_processes=2", f"--coordinator=localhost:{free_port()}")
    processes = [
        start(place, *training("runs/mixed", f"--config.seed={index}"), *told, f"--process_id={index}")
        for index in range(2)
    ]
    for code, _, errors in ends(processes):
        assert code == 2, errors
        assert "error: the config, or whether the run is done, of process 1 is not that of process 0" in errors
    assert not (place / "runs" / "mixed").exists()


def test_processes_that_see_other_files_are_refused_by_all(start, place, one):
    """One of them finds the checkpoint of a run that was stopped, the other an empty folder."""
    del one
    processes = start_both(start, place, *training("runs/seen", *OVERRIDES))
    wait_for(processes[0], "train: steps")
    processes[0].send_signal(signal.SIGTERM)
    ends(processes)
    told = ("--num_processes=2", f"--coordinator=localhost:{free_port()}")
    processes = [
        start(place, *training(name, *OVERRIDES), *told, f"--process_id={index}")
        for index, name in enumerate(("runs/seen", "runs/unseen"))
    ]
    for code, _, errors in ends(processes):
        assert code == 2, errors
        assert "the labels, or the checkpoint, of process 1 is not that of process 0" in errors
    assert not writers.read_lines(place / "runs" / "unseen" / "metrics.jsonl")


def test_who_is_who_must_be_told_whole(start, place):
    ((code, _, errors),) = ends([start(place, *training("runs/refused"), "--num_processes=2")])
    assert code == 2
    assert "error: coordinator=None, num_processes=2, process_id=None; expected all three" in errors

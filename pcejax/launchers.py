"""Ways to run many commands: processes of this machine, or a job array of SLURM.

A launcher is an iterator; each step tells which tasks ended since the step before. It ends when no task is left, or
soon after it was asked to stop. What a task prints is appended to its log, which is locked while the task's process
lives: no two are ever at one task, whoever started them.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcejax import interrupts
from pcejax.errors import UserError

_POLL = 0.2  # seconds
_GPU_SHARE = 0.9  # of a GPU's memory, for all processes on it
_REQUEUES = 100  # of a job whose time is up


class Task(NamedTuple):
    """A command that ends with `interrupts.EXIT_CODE` when SIGTERM asks it to stop, and can then be run again."""

    name: str
    command: Sequence[str]
    log: Path


class Ended(NamedTuple):
    """How a start of a task ended."""

    name: str
    seconds: float
    exit_code: int


class Slot(NamedTuple):
    """A place for one process at a time."""

    environment: Mapping[str, str] = {}
    cores: Sequence[int] = ()  # that it is held to; () for all


Launcher = Callable[[Sequence[Task], Callable[[], bool]], Iterator[list[Ended]]]
"""`(tasks, asked)`: what to run, and what tells whether it is asked to stop."""


def local_slots(processes: int | None) -> list[Slot]:
    """Places for `processes` processes of this machine; None for one on each GPU, or one alone without GPUs.

    GPUs are those of CUDA_VISIBLE_DEVICES where it is set. Processes on one of them get equal shares of its memory;
    without GPUs each gets an equal share of the cores.

    Raises:
      UserError: `processes` is less than 1.
    """
    gpus = _gpus()
    processes = max(1, len(gpus)) if processes is None else processes
    if processes < 1:
        raise UserError(f"--processes={processes}; expected 1 or more, arms at once")
    if gpus:
        each = -(-processes // len(gpus))
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_GPU_SHARE / each:.2f}"} if each > 1 else {}
        return [Slot(memory | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]}) for i in range(processes)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if processes == 1 or not cores:
        return [Slot()] * processes
    ends = [len(cores) * i // processes for i in range(processes + 1)]
    return [Slot({}, cores[ends[i] : ends[i + 1]] or cores[i % len(cores) :][:1]) for i in range(processes)]


def _gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def run_local(tasks: Sequence[Task], asked: Callable[[], bool], *, slots: Sequence[Slot]) -> Iterator[list[Ended]]:
    """Runs the tasks, one in each slot at a time; one that another process is at waits until that has ended.

    Processes get SIGTERM when `asked`, and when this process dies.
    """
    waiting, free, told = list(tasks), list(slots), False
    running: list[tuple[Task, Slot, subprocess.Popen[bytes], float]] = []
    while True:
        if asked() and not told:
            waiting, told = [], True
            for _, _, process, _ in running:
                process.terminate()
        while free and (started := _start_first(waiting, free[0])):
            running.append((started[0], free.pop(0), started[1], time.monotonic()))
        if not running and not waiting:
            return
        time.sleep(_POLL)
        ended = [entry for entry in running if entry[2].poll() is not None]
        running = [entry for entry in running if entry not in ended]
        free += [slot for _, slot, _, _ in ended]
        yield [Ended(task.name, time.monotonic() - start, process.returncode) for task, _, process, start in ended]


def _start_first(waiting: list[Task], slot: Slot) -> tuple[Task, subprocess.Popen[bytes]] | None:
    """Starts the first task that no process is at, and takes it from the list; None where there is none."""
    for task in waiting:
        if process := _start(task, slot):
            waiting.remove(task)
            return task, process
    return None


_LEASH = """
import os, signal, sys
parent, cores, *command = sys.argv[1:]
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(75)
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
os.execv(command[0], command)
"""
"""Becomes the command, on `cores`. Linux sends it SIGTERM when its parent dies (PR_SET_PDEATHSIG); SIGUSR2, which SLURM
sends to all processes of a job whose time is up, is for the process that watches it."""


def _start(task: Task, slot: Slot) -> subprocess.Popen[bytes] | None:
    """The task's process; None where another one is at it."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        print(f"$ {shlex.join(task.command)}", file=log, flush=True)
        cores = ",".join(map(str, slot.cores))
        # The lock is the open file's, which the process has until it ends. A process group of its own: Ctrl-C is for
        # this process, which asks the others to stop; by two signals they would end at once.
        return subprocess.Popen(
            [sys.executable, "-c", _LEASH, str(os.getpid()), cores, *task.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | slot.environment,
            process_group=0,
        )


def _wait_for_end(task: Task) -> None:
    """Until no process is at the task."""
    if task.log.exists():
        with task.log.open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX)


def run_slurm(
    tasks: Sequence[Task],
    asked: Callable[[], bool],
    *,
    folder: Path,
    processes: int | None,
    options: Mapping[str, Any],
    cluster: str = "slurm",
) -> Iterator[list[Ended]]:
    """Sends the tasks as one job array, through submitit, and waits for them.

    A task whose job is about to be ended, its time being up, saves and is queued again. When `asked`, the jobs are
    cancelled; when this process dies, they go on.

    Args:
      tasks: what to run.
      asked: as of any launcher.
      folder: of the jobs' files, on a file system that all nodes see.
      processes: jobs at once, at most; None for no limit.
      options: of submitit's `update_parameters`, such as timeout_min, gpus_per_node, slurm_partition.
      cluster: "slurm"; "local" has submitit run the jobs on this machine.

    Raises:
      UserError: submitit is not installed, finds no SLURM, or does not know an option.
    """
    if not tasks:
        return
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launcher=slurm: submitit is not installed; pip install -e .[slurm]") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_REQUEUES)
        limit = {"slurm_array_parallelism": processes or len(tasks)}
        executor.update_parameters(name="pcejax", **limit | dict(options))
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise UserError(f"--launcher=slurm: {' '.join(str(error).split())}") from error
    jobs = executor.map_array(_Job(), tasks)
    print(f"slurm: {len(jobs)} jobs, the first is {jobs[0].job_id}; their files are in {folder}", flush=True)
    waiting, told = list(zip(tasks, jobs, strict=True)), False
    while waiting:
        time.sleep(_POLL)
        if asked() and not told:
            told = True
            for _, job in waiting:
                job.cancel(check=False)
        ended = [entry for entry in waiting if entry[1].done()]
        waiting = [entry for entry in waiting if entry not in ended]
        yield [_result(task, job, told) for task, job in ended]


def _result(task: Task, job: Any, cancelled: bool) -> Ended:
    if cancelled:
        _wait_for_end(task)
        return Ended(task.name, 0.0, interrupts.EXIT_CODE)
    try:
        return job.result()
    except Exception as error:  # what submitit raises has no other class in common
        with task.log.open("a") as log:
            print(f"error: job {job.job_id} ended without a result: {' '.join(str(error).split())}", file=log)
        return Ended(task.name, 0.0, 1)


class _Job:
    """What a job of the array calls."""

    def __call__(self, task: Task) -> Ended:
        start = time.monotonic()
        process = self._process = _start(task, Slot())
        if process is None:  # of an array that was sent before
            _wait_for_end(task)
            return self(task)
        try:
            while process.poll() is None:
                time.sleep(_POLL)
        finally:
            self._stop(task)
        return Ended(task.name, time.monotonic() - start, process.returncode)

    def checkpoint(self, task: Task) -> Any:
        """What submitit queues again; it asks in a handler of the signal that the time is up."""
        import submitit

        self._stop(task)
        return submitit.helpers.DelayedSubmission(_Job(), task)

    def _stop(self, task: Task) -> None:
        if self._process is not None:
            self._process.terminate()
            _wait_for_end(task)

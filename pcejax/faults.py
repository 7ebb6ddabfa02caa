"""A real run, killed at seeded random moments and started again: it ends as one that nothing cut.

The scripts run in processes of their own, as a user's, and are killed by SIGKILL. What a process is doing is told by
what it prints and by what lies on disk. `scripts/benchmark.py faults` kills many times, the tests once in each phase.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pcejax import datasets, runs, tiles, trained, writers

PHASES = ("prepare", "step", "save", "evaluate")

ROOT = Path(__file__).parents[1]
"""Of `scripts` and `configs`."""

_DATASET = "synthetic_v1/128px_4-2-0-0_seed0"
_STEPS, _SAVED, _SCORED, _LOGGED = 32, 8, 12, 3  # records fall between checkpoints, and scores between both
_FLAGS = {
    "prepare_data": (
        "--dataset=synthetic_v1",
        "--data_dir=data",
        "--size=128",
        "--num_train=4",
        "--num_validation=2",
        "--num_test=0",
        "--num_unlabelled=0",
    ),
    "train": (
        f"--config={ROOT}/configs/quickstart.py:smoke",
        "--workdir=run",
        f"--config.data.name={_DATASET}",
        "--config.data.scale=0.5",
        "--config.data.crop=48",
        "--config.model.depth=1",
        "--config.model.width=2",
        "--config.inference.window=48",
        "--config.inference.overlap=16",
        "--config.inference.batch_size=8",
        f"--config.train.num_steps={_STEPS}",
        f"--config.train.checkpoint_every_steps={_SAVED}",
        "--config.train.keep_checkpoints=1",  # most saves delete the one before
        f"--config.train.keep_every_steps={3 * _SAVED}",
        f"--config.train.eval_every_steps={_SCORED}",
        f"--config.train.log_every_steps={_LOGGED}",
    ),
}
_LOOKED_AT = ("data/*", "run/*", "run/checkpoints/*", "run/report/**/*")
_LIMIT = 600.0  # seconds that a process may take


class Where(NamedTuple):
    """What a process is doing: one of PHASES, "start" or "end"; and the last step that it told of."""

    phase: str
    step: int


class Kill(NamedTuple):
    """A moment: in `phase`, at `step` or the first time after it, when `share` of the phase's usual time is over."""

    phase: str
    step: int
    share: float


class Ended(NamedTuple):
    """How a process ended."""

    where: Where  # "end" where nothing killed it
    seconds: Mapping[str, list[float]]  # that it spent in each visit of a phase; of "step", between two records
    lost: float  # seconds of work that were not saved
    resumed: int  # the step that it went on from


@contextlib.contextmanager
def process(
    place: Path, script: str, flags: Sequence[str], **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A script at work in the folder `place`, and the file of what it tells; dead at the end, however that comes."""
    told = place / f"{script}.txt"
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *flags]
    with told.open("w") as out:
        started = subprocess.Popen(
            command, cwd=place, env=os.environ | environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield started, told
    finally:
        started.kill()
        started.wait()


def plan_kills(rng: np.random.Generator, most: float = 0.9) -> list[Kill]:
    """A kill in each phase, at a random step and after a random share of the phase, up to `most`.

    They are in the order in which a run comes to them, also one that each of them sets back.
    """
    steps = {
        "prepare": 0,
        "step": rng.integers(_STEPS - _LOGGED),
        "save": rng.choice(range(_SAVED, _STEPS + 1, _SAVED)) // _LOGGED * _LOGGED,  # what is told before it
        "evaluate": rng.choice([*range(_SCORED, _STEPS, _SCORED), _STEPS]),
    }
    kills = [Kill(phase, int(steps[phase]), float(rng.uniform(0, most))) for phase in PHASES]
    return sorted(kills, key=lambda kill: (kill.phase != "prepare", kill.step, PHASES.index(kill.phase)))


def run(place: Path, script: str, kill: Kill | None = None, usual: Mapping[str, float] | None = None) -> Ended:
    """Starts "prepare_data" or "train" in `place`, and waits for its end, or kills it.

    Args:
      place: folder of a dataset and of its run; the folder above it holds compiled programs.
      script: whose command is the same at each start.
      kill: when to kill it, if at all.
      usual: seconds of each phase.

    Raises:
      RuntimeError: it ended in another way than well, which nothing but a kill may bring about.
    """
    left = _unfinished(place)
    seconds: dict[str, list[float]] = {}
    cache = {"JAX_COMPILATION_CACHE_DIR": f"{place.parent}/compiled", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with process(place, script, _FLAGS[script], **cache) as (started, told):
        start = entered = time.time()
        at = Where("start", 0)
        while started.poll() is None:
            now = where(place, script, told.read_text(), left)
            if now != at and (now.phase != at.phase or now.phase == "step"):
                seconds.setdefault(at.phase, []).append(time.time() - entered)
                entered = time.time()
            at = now
            if kill and at.phase == kill.phase and at.step >= kill.step:
                time.sleep(kill.share * (usual or {}).get(kill.phase, 0.0))
                if where(place, script, told.read_text(), left).phase != kill.phase:
                    continue  # this visit was shorter than usual: at the next one
                started.kill()
                started.wait()
            elif time.time() - start > _LIMIT:
                break
            else:
                time.sleep(0.001)
        text = told.read_text()
        if (code := started.poll()) not in (0, -9):
            raise RuntimeError(f"{place}: {script}.py ended with {code}; expected 0: {text[-2000:]}")
    killed = time.time()
    at = where(place, script, text, left) if code else Where("end", _STEPS)
    saved = [path.stat().st_mtime for path in place.glob("run/checkpoints/*/sha256.json")]
    resumed = re.search(r"^resumed at step (\d+)", text, re.MULTILINE)
    return Ended(at, seconds, killed - max([start, *saved]), int(resumed[1]) if resumed else 0)


def where(place: Path, script: str, told: str, left: set[tuple[Path, int]]) -> Where:
    """What the process in `place` is doing, by what it told and what lies there; `left` was there before."""
    if script == "prepare_data":
        return Where("prepare" if _unfinished(place) - left else "start", 0)
    steps = re.findall(r"^(?:train: steps|resumed at step) (\d+)", told, re.MULTILINE)
    step = int(steps[-1]) if steps else 0
    if "\nlabels: " not in told:
        return Where("start", step)
    if _unfinished(place) - left:
        return Where("save", step)
    last = re.findall(r"^(train|evaluate).*? (\d+)/(\d+)", told, re.MULTILINE)[-1:]
    scored = [done == total for what, done, total in last if what == "evaluate"]
    if scored:
        return Where("evaluate" if not scored[0] else "end" if step == _STEPS else "step", step)
    last_saved = (place / "run" / "checkpoints" / str(_STEPS) / "sha256.json").exists()
    due = last_saved if step == _STEPS else bool(last) and step % _SCORED == 0
    return Where("evaluate" if due else "step", step)


def cut_run(place: Path, kills: list[Kill], usual: Mapping[str, float]) -> list[dict[str, Any]]:
    """Prepares and trains in `place` to the end, killed at each of `kills` and started again by the same command.

    Returns:
      A row for each time that a process was killed. It can end before its kill, which then has none.
    """
    place.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for script in _FLAGS:
        killed = False
        for kill in (*[kill for kill in kills if (kill.phase == "prepare") == (script == "prepare_data")], None):
            ended = run(place, script, kill, usual)
            if killed:
                rows[-1]["resumed_at"] = ended.resumed
                rows[-1]["seconds_lost"] += sum(ended.seconds["start"])
            killed = ended.where.phase != "end"
            if kill and killed:
                row = {"meant": kill.phase, "share": kill.share, "seconds_lost": ended.lost}
                rows.append({"phase": ended.where.phase, "step": ended.where.step} | row)
    return rows


def run_uncut(place: Path) -> dict[str, float]:
    """Prepares and trains in `place`, and cuts nothing; returns the usual seconds of each phase."""
    place.mkdir(parents=True)
    visits = {phase: spent for script in _FLAGS for phase, spent in run(place, script).seconds.items()}
    return {phase: float(np.median(visits[phase])) for phase in PHASES}


def measure_faults(num_kills: int, seed: int) -> dict[str, Any]:
    """Kills runs `num_kills` times, each run once in each phase, and tells of each as it goes.

    Returns:
      "kills", a row each; "phases", how many fell into each; "differences" of the runs' outcomes from that of one that
      nothing cut, as one line each.
    """
    # The processes need the accelerator for themselves.
    jax.config.update("jax_platforms", "cpu")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        usual = run_uncut(Path(folder, "uncut"))
        expected = outcome(Path(folder, "uncut"))
        print("usual: " + ", ".join(f"{phase} {spent:.3f} s" for phase, spent in usual.items()), flush=True)
        progress = writers.Progress(num_kills)
        while len(rows) < num_kills:
            place = Path(folder, f"cut_{len(rows)}")
            for row in cut_run(place, plan_kills(rng)[: num_kills - len(rows)], usual):
                rows.append(row)
                print(
                    f"kill {len(rows)}: {row['phase']}, at step {row['step']}, after {row['share']:.0%} of the usual "
                    f"time of {row['meant']}; went on from step {row['resumed_at']}, {row['seconds_lost']:.1f} s lost",
                    flush=True,
                )
            got = outcome(place)
            differences += [f"{place.name}: {name} differs" for name in expected if got[name] != expected[name]]
            print(f"kills: {progress.line(len(rows))}, differences {len(differences)}", flush=True)
            shutil.rmtree(place)
    phases = {phase: sum(row["phase"] == phase for row in rows) for phase in ("start", *PHASES, "end")}
    return {"kills": rows, "phases": phases, "differences": differences}


def outcome(place: Path) -> dict[str, Any]:
    """What must not depend on whether anything was cut, by name: contents, or their SHA-256."""
    workdir = place / "run"
    scores = json.loads(runs.evaluation_path(workdir, "validation").read_text())
    return {
        "dataset": _hash_dataset(place / "data"),
        "final state": hash_state(workdir),
        "metrics.jsonl": (workdir / "metrics.jsonl").read_bytes(),
        "scores": {name: value for name, value in scores.items() if "second" not in name},
        "files": sorted(str(path.relative_to(place)) for pattern in _LOOKED_AT for path in place.glob(pattern)),
    }


def hash_state(workdir: Path) -> str:
    """SHA-256 of the arrays of the newest checkpoint: step, parameters, statistics, optimiser, running means."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.load_state(workdir)):
        digest.update(f"{jax.tree_util.keystr(path)}: {leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _hash_dataset(data_dir: Path) -> str:
    """Of the records and of the files beside them; the files of the records differ each time they are written."""
    digest = hashlib.sha256()
    builder = datasets.open_dataset(_DATASET, str(data_dir))
    for split in builder.info.splits:
        for tile in tiles.read(builder, split):
            digest.update(b"".join((tile.tile_id.encode(), tile.image_bytes, tile.mask_bytes)))
    for path in sorted(data_dir.rglob("*")):
        digest.update(str(path.relative_to(data_dir)).encode())
        if path.is_file() and "array_record" not in path.name:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _unfinished(place: Path) -> set[tuple[Path, int]]:
    """Checkpoints without their digests, and datasets that are not yet in place; and when each last changed."""
    found = set()
    for path in (*place.glob("run/checkpoints/*"), *place.glob("data/.preparing*")):
        with contextlib.suppress(OSError):  # gone since
            if not (path / "sha256.json").exists():
                found.add((path, path.stat().st_ctime_ns))
    return found

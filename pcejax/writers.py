"""A run's records: JSON lines for programs, event files for TensorBoard, a line now and then for people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from pcejax import parallel


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends `record` to a JSON lines file, on disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file; none where it does not exist. A last line cut short is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_json(path: Path, value: Any) -> None:
    """Writes `value` so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


class Writer:
    """The records of a run in its workdir: `metrics.jsonl` (deterministic), `timing.jsonl` (not), `tensorboard/`.

    Of several processes the primary one writes.
    """

    def __init__(self, workdir: Path, resumed_step: int):
        self._workdir = workdir
        if not parallel.is_primary():
            return
        for name in ("metrics.jsonl", "timing.jsonl"):
            _drop_after(workdir / name, resumed_step)
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_step + 1)

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Writes what was measured up to `step`."""
        if not parallel.is_primary():
            return
        append_line(self._workdir / "metrics.jsonl", {"step": step, **values})
        if timing:
            append_line(self._workdir / "timing.jsonl", {"step": step, **timing})
        for name, value in {**values, **timing}.items():
            self._tensorboard.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a picture uint8 `[H, W, 3]` of `step` on TensorBoard."""
        if parallel.is_primary():
            self._tensorboard.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes the event file."""
        if parallel.is_primary():
            self._tensorboard.close()


def _drop_after(path: Path, step: int) -> None:
    """Drops the records of steps after `step`: the run that goes on from there writes them again."""
    records = read_lines(path)
    if path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(r) + "\n" for r in records if r["step"] <= step))
        partial.replace(path)


class Progress:
    """Rate and time left of work that is counted, for one line every few seconds."""

    def __init__(self, total: int, done: int = 0):
        self._total, self._first = total, done
        self._start = time.monotonic()

    def rate(self, done: int) -> float:
        """Items a second since the start."""
        return (done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def line(self, done: int) -> str:
        """Such as "120/800, 3.1/s, 3:39 left"."""
        rate = self.rate(done)
        left = f"{format_duration((self._total - done) / rate)} left" if rate > 0 else "time left unknown"
        return f"{done}/{self._total}, {rate:.2f}/s, {left}"


def format_duration(seconds: float) -> str:
    """Such as "3:39" or "1:02:10"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

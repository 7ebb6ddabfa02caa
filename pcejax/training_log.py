"""What a run tells of its training: records, a line for people, and an end where a step is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from pcejax import input_pipeline, metrics, optimizer, parallel, tiles, writers
from pcejax.errors import UserError

_PICTURED_TILES = 4


class TrainingLog:
    """Steps measured since the last record, and the records.

    Args:
      config: of the run.
      workdir: where the records go.
      tile_set: whose tiles a step that is not finite is told by.
      first_step: that training starts from; records of later steps are dropped.
      unlogged: what was measured up to there since the last record.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        tile_set: tiles.TileSet,
        first_step: int,
        unlogged: list[metrics.StepMetrics],
    ):
        self._config, self._workdir, self._tile_set = config, workdir, tile_set
        self._schedule = optimizer.make_schedule(config.optimizer, config.train.num_steps)
        self._writer = writers.Writer(workdir, first_step)
        self._progress = writers.Progress(config.train.num_steps, first_step)
        records = writers.read_lines(workdir / "metrics.jsonl")
        self._skipped = sum(record.get("skipped_steps", 0) for record in records if record["step"] <= first_step)
        self._measured = unlogged
        self._logged = first_step, time.monotonic()
        self._tracing = False

    def add(self, step: int, measured: metrics.StepMetrics) -> None:
        """Takes what step number `step` measured, still on the devices; records it where a record is due.

        Raises:
          UserError: more steps than `train.max_skipped_steps` were not finite.
        """
        self._measured.append(measured)
        if self._config.train.profile_steps and parallel.is_primary():
            self._profile(step)
        if step % self._config.train.log_every_steps == 0 or step == self._config.train.num_steps:
            self._record(step)

    def unlogged(self) -> list[dict[str, Any]]:
        """What was measured since the last record, as JSON types: see `metrics.from_json`."""
        return [metrics.to_json(step) for step in parallel.to_host(self._measured)]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records more of a step."""
        self._writer.scalars(step, values, {})

    def pictures(self, step: int, folder: Path) -> None:
        """Shows the maps that an evaluation drew into `folder`, the first tiles' below each other."""
        maps = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))[:_PICTURED_TILES]]
        self._writer.picture(step, folder.name, np.concatenate(maps))

    def close(self) -> None:
        """Flushes the records."""
        self._writer.close()

    def _record(self, step: int) -> None:
        measured, self._measured = parallel.to_host(self._measured), []
        good = [step_metrics for step_metrics in measured if metrics.finite(step_metrics)]
        self._skipped += len(measured) - len(good)
        if self._skipped > self._config.train.max_skipped_steps or not good:
            raise UserError(self._not_finite(measured, step))
        values = metrics.compute(good) | {"skipped_steps": len(measured) - len(good)}
        now, (logged_step, logged_time) = time.monotonic(), self._logged
        self._logged = step, now
        rate = (step - logged_step) / (now - logged_time)
        timing = {"steps_per_second": rate, "images_per_second": rate * self._config.train.batch_size}
        in_use = parallel.memory_in_use()
        if in_use is not None:
            timing["device_memory_gb"] = in_use / 1e9
        with jax.transfer_guard("allow"):
            values["learning_rate"] = float(self._schedule(step - 1))
        self._writer.scalars(step, values, timing)
        memory = f", {in_use / 1e9:.1f} GB" if in_use is not None else ""
        print(
            f"train: steps {self._progress.line(step)}, {timing['images_per_second']:.1f} images/s{memory}, "
            f"loss {values['loss']:.4f}, accuracy at labels {values['accuracy']:.3f}, "
            f"{values['labelled_pixels']:.0f} labels a step, {values['unlabelled_crops']:.0%} of the crops without",
            flush=True,
        )

    def _not_finite(self, measured: list[metrics.StepMetrics], step: int) -> str:
        """Of the first step that is not: its number, what is not finite, and the tiles in it."""
        index = next(index for index, step_metrics in enumerate(measured) if not metrics.finite(step_metrics))
        number = step - len(measured) + index + 1
        names = [name for name, value in measured[index].items() if not math.isfinite(float(value.total))]
        plan = next(input_pipeline.plans(self._config, self._tile_set, number - 1))
        labelled = self._tile_set.tile_ids
        ids = sorted({labelled[tile] if tile < len(labelled) else "unlabelled" for tile in plan[:, 0]})
        return (
            f"step {number}: not finite: {', '.join(names)}; tiles {', '.join(ids)}; steps that are not finite so far: "
            f"{self._skipped}, and train.max_skipped_steps={self._config.train.max_skipped_steps}; the checkpoint "
            "before is kept; lower optimizer.learning_rate, raise optimizer.warmup_steps, or allow more to be skipped"
        )

    def _profile(self, step: int) -> None:
        """Starts and ends the trace of the steps that are to be traced."""
        first, last = self._config.train.profile_steps
        if step == first - 1:
            jax.profiler.start_trace(str(self._workdir / "profile"))
            self._tracing = True
        elif self._tracing and step == last:
            jax.block_until_ready(self._measured)
            jax.profiler.stop_trace()
            self._tracing = False

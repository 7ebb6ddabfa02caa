"""Saving and restoring a run. The only module that knows Orbax.

A checkpoint holds the state as host arrays, and beside it as JSON what a map needs: the legend, the bands, the hash of
the labels that taught it; and what was measured since the last record. The plan's position is the state's step. The
SHA-256 of each file is written last: a checkpoint that lacks it, or whose files are others, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from pcejax import parallel, writers
from pcejax.errors import UserError
from pcejax.train_state import TrainState

_DIGESTS = "sha256.json"


class Checkpoints:
    """The checkpoints of a workdir; a context manager, on whose exit the last save is on disk.

    Args:
      workdir: of the run.
      keep: the newest so many are kept.
      keep_every_steps: those of its multiples are kept as well; 0 for none.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, keep_every_steps: int = 0):
        self.folder = workdir.absolute() / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)
        process = jax.process_index()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None,  # Orbax would delete the one before as soon as the new one lacks only its digests
                create=False,
                # Each process reads by itself, and the primary one alone writes: no call waits for the others.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
                ),
                enable_async_checkpointing=False,  # the thread below does that, and the digests after it
            ),
        )
        self._keep, self._keep_every_steps = keep, keep_every_steps
        self._thread = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self._intact: int | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        self._thread.shutdown()
        self._manager.close()
        if kind is None:
            self._raise_failed()

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint that is whole, or None; each that is passed over is told."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step == self._intact or (fault := _fault(self.folder / str(step))) is None:
                self._intact = step
                return step
            print(f"{self.folder / str(step)}: {fault}; passed over for the checkpoint before", flush=True)
        return None

    def save(self, state: TrainState, about: dict[str, Any], unlogged: list[dict[str, Any]]) -> None:
        """Saves the state, what `about` tells of the run, and what was measured since the last record.

        Of several processes the primary one does.

        The state is copied before this returns; all else is done in the background.

        Raises:
          UserError: the save before could not be done.
        """
        self._raise_failed()
        if not parallel.is_primary():
            return
        self._saving = self._thread.submit(self._write, parallel.to_host(state), about, unlogged)

    def discard_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, which were passed over: the run will come to these steps again.

        And what a save or a deletion that was cut left.
        """
        if not parallel.is_primary():
            return
        for later in self._manager.all_steps():
            if later > step:
                self._delete(later)
        for leftover in self.folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(leftover)
        self._delete_old()

    def about(self) -> dict[str, Any]:
        """What the newest checkpoint tells of its run.

        Raises:
          UserError: there is no checkpoint.
        """
        return self._restore(about=ocp.args.JsonRestore())

    def unlogged(self) -> list[dict[str, Any]]:
        """What the newest checkpoint's run had measured since its last record, as `save` got it.

        Raises:
          UserError: there is no checkpoint.
        """
        return self._restore(unlogged=ocp.args.JsonRestore())["steps"]

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint's state as host arrays; `like` gives the tree, shapes and types.

        Raises:
          UserError: there is no checkpoint.
        """
        return self._restore(state=ocp.args.StandardRestore(parallel.to_host(like)))

    def _restore(self, **item: Any) -> Any:
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"{self.folder}: no checkpoint; expected one of a finished save; train first: scripts/train.py"
            )
        (name,) = item
        return self._manager.restore(step, args=ocp.args.Composite(**item))[name]

    def _write(self, state: TrainState, about: dict[str, Any], unlogged: list[dict[str, Any]]) -> None:
        step = int(state.step)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if not np.isfinite(leaf).all():
                raise UserError(f"step {step}: {jax.tree_util.keystr(path)} is not finite; the state was not saved")
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                about=ocp.args.JsonSave(about),
                unlogged=ocp.args.JsonSave({"steps": unlogged}),
            ),
            force=True,
        )
        writers.write_json(self.folder / str(step) / _DIGESTS, _digests(self.folder / str(step)))
        self._intact = step
        self._delete_old()

    def _delete_old(self) -> None:
        for old in sorted(self._manager.all_steps())[: -self._keep]:
            if not self._keep_every_steps or old % self._keep_every_steps:
                self._delete(old)

    def _delete(self, step: int) -> None:
        # First what makes it whole: a deletion that is cut leaves nothing that looks like a checkpoint.
        (self.folder / str(step) / _DIGESTS).unlink(missing_ok=True)
        self._manager.delete(step)

    def _raise_failed(self) -> None:
        """Raises what ended a save in the background, if anything did."""
        saving, self._saving = self._saving, None
        try:
            if saving is not None:
                saving.result()
        except UserError:
            raise
        except Exception as error:  # whatever a file system and Orbax may raise: a full disk, above all
            raise UserError(
                f"{self.folder}: a checkpoint could not be written: {' '.join(str(error).split())[:300]}; the newest "
                f"whole one is of step {self.latest_step()}; make room, and start the same command again"
            ) from error


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        expected = json.loads((folder / _DIGESTS).read_text())
    except (OSError, ValueError):
        return f"{_DIGESTS} is missing or no JSON, as after a save that was cut"
    found = _digests(folder)
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            return f"{name} is {'missing' if name not in found else 'not what was written'}"
    return None

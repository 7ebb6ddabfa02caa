"""Saving and restoring a run. The only module that knows Orbax.

A checkpoint holds the state as host arrays, and beside it as JSON what a map needs: the config, the
legend, and the hash of the labels that taught it. The plan's position is the state's step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from pcejax import parallel
from pcejax.errors import UserError
from pcejax.train_state import TrainState


class Checkpoints:
    """The checkpoints of a workdir; a context manager, on whose exit the last save is on disk."""

    def __init__(self, workdir: Path):
        self.folder = workdir.absolute() / "checkpoints"
        # Orbax says a good deal about files at INFO; what matters here, the run's log says.
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any]) -> None:
        """Saves the state and what `about` tells of the run, in the background."""
        host_state = parallel.to_host(state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(host_state), about=ocp.args.JsonSave(about))
        self._manager.save(int(host_state.step), args=items)

    def about(self) -> dict[str, Any]:
        """What the newest checkpoint tells of its run.

        Raises:
          UserError: there is no checkpoint.
        """
        restored = self._manager.restore(self._newest(), args=ocp.args.Composite(about=ocp.args.JsonRestore()))
        return restored["about"]

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint's state as host arrays; `like` gives the tree, shapes and types.

        Raises:
          UserError: there is no checkpoint.
        """
        target = parallel.to_host(like)
        restored = self._manager.restore(
            self._newest(), args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
        return restored["state"]

    def _newest(self) -> int:
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"{self.folder}: no checkpoint; expected one of a finished save; train first: scripts/train.py"
            )
        return step

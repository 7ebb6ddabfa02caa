"""The workdir of a run: its config, its manifest, its model's summary, and the names of what lies in it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_collections

from pcejax import parallel, writers
from pcejax.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def _as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def check_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Checks that `workdir` holds no run yet, or one of this config.

    Raises:
      UserError: the workdir holds the run of another config; the message has each field that differs.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    old, new = _flat(json.loads(path.read_text())), _flat(_as_json(config))
    differing = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if differing:
        told = "; ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in differing)
        raise UserError(
            f"{workdir} holds a run of another config: {told}; take another --workdir, or start with its config"
        )


def open_workdir(workdir: Path, config: ml_collections.ConfigDict, model: dict[str, Any]) -> None:
    """Writes config, manifest and the model's summary of a run that starts or goes on; `check_config` comes before."""
    if not parallel.is_primary():
        return
    writers.write_json(workdir / "config.json", _as_json(config))
    writers.write_json(workdir / "manifest.json", _manifest())
    writers.write_json(workdir / "model.json", model)


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`.

    Raises:
      UserError: there is no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir}: no run there, config.json is missing; expected the --workdir of scripts/train.py")
    return ml_collections.ConfigDict(json.loads(path.read_text())).lock()


def calibration_path(workdir: Path) -> Path:
    """Where the temperature of the run's maps goes: calibration.json."""
    return workdir / "calibration.json"


def evaluation_path(workdir: Path, split: str) -> Path:
    """Where the scores of `split` go: report/evaluation_<split>.json."""
    return workdir / "report" / f"evaluation_{split_name(split)}.json"


def baselines_path(workdir: Path, split: str) -> Path:
    """Where the baselines' scores of `split` go: report/baselines_<split>.json."""
    return workdir / "report" / f"baselines_{split_name(split)}.json"


def pictures_folder(workdir: Path, split: str) -> Path:
    """Where the maps of `split` are drawn: report/maps_<split>."""
    return workdir / "report" / f"maps_{split_name(split)}"


def split_name(split: str) -> str:
    """A split or slice as part of a file name: "train[6:]" becomes "train_6-"."""
    return re.sub(r"[^\w+%-]", "", split.replace("[", "_").replace(":", "-"))


def _manifest() -> dict[str, Any]:
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
        ).stdout.strip()
    except OSError:  # no git here
        commit = ""
    return {
        "command": sys.argv,
        "git_commit": commit or None,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": parallel.describe(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }

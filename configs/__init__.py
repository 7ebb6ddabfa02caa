"""Configs of runs, for scripts/train.py --config=configs/<name>.py[:variant]."""

import importlib
from pathlib import Path

import ml_collections


def all_configs() -> dict[str, ml_collections.ConfigDict]:
    """Each file's config without a variant, by the file's name; default.py, which the others start from, left out."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return {name: importlib.import_module(f"configs.{name}").get_config() for name in names if name != "default"}

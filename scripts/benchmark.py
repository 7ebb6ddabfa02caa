#!/usr/bin/env python3
"""Measures rates on this machine: scripts/benchmark.py input [--json=input.json] [--config.data.host_threads=2]"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from pcejax import cli

_CONFIG = config_flags.DEFINE_config_file("config", "configs/default.py", "Config file.", lock_config=True)
_JSON = flags.DEFINE_string("json", None, "Also write the figures there.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps that are measured; as many before them warm up.")


def measure_input() -> None:
    from pcejax import benchmarks, writers

    rows = benchmarks.measure_input(_CONFIG.value, _STEPS.value)
    for row in rows:
        print(", ".join(f"{k} {v:,.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), rows)


if __name__ == "__main__":
    cli.run_command({"input": measure_input})

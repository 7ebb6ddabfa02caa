#!/usr/bin/env python3
"""Runs an ablation, or goes on with it, and writes its report:

scripts/ablate.py --config=configs/ablations/point_sparsity.py:demo --workdir=runs/point_sparsity --processes=2
scripts/ablate.py --workdir=runs/point_sparsity --report_only
scripts/ablate.py --config=... --workdir=... --launcher=slurm --slurm=timeout_min=240,gpus_per_node=1
"""

import ast
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from pcejax import cli
from pcejax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Ablation, such as configs/ablations/depth.py:demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the ablation: its arms' runs, its report.", required=True)
_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where arms run.")
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Arms at once; by default one on each GPU, or one. With slurm, all of them."
)
_SLURM = flags.DEFINE_list("slurm", [], "Options of submitit, such as timeout_min=240,gpus_per_node=1.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing; write the report from what is there.")


def main() -> None:
    from pcejax import ablation, ablation_report

    workdir = Path(_WORKDIR.value)
    if _REPORT_ONLY.value:
        print(f"report: {ablation_report.write_report(workdir)}")
        return
    if _CONFIG.value is None:
        raise UserError("expected --config=configs/ablations/<name>.py[:smoke|:demo|:full], or --report_only")
    failed = ablation.run_ablation(_CONFIG.value, workdir, launcher(workdir), sys.argv)
    if failed:
        print(f"error: {len(failed)} arms failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def launcher(workdir: Path) -> Any:
    import functools

    from pcejax import launchers

    if _LAUNCHER.value == "local":
        return functools.partial(launchers.run_local, slots=launchers.local_slots(_PROCESSES.value))
    options = dict(option.partition("=")[::2] for option in _SLURM.value)
    return functools.partial(
        launchers.run_slurm,
        folder=workdir / "slurm",
        processes=_PROCESSES.value,
        options={name: literal(value) for name, value in options.items()},
    )


def literal(text: str) -> Any:
    """A number where it is one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    cli.run(main)

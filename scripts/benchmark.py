#!/usr/bin/env python3
"""Measures on this machine; --json=<file> also writes the figures there.

scripts/benchmark.py step [--rounds=5] [--steps=5] [--config.data.crop=256] [--config.train.batch_size=4] [--compiled]
                                                                         a training step beside PyTorch's
scripts/benchmark.py infer [--size=512]                                  mapping an image beside PyTorch
scripts/benchmark.py accuracy --config=<a run's> --against=torch [--seeds=0,1,2]
                                                                         its scores beside those of PyTorch's training
scripts/benchmark.py accuracy --config=<a run's> --against=plain         and of training with plain ops
scripts/benchmark.py gpu [--widths=32,64] [--batches=16,32,64,128,256] [--steps=40] [--config.data.crop=512]
                                                                         all of training on an accelerator, in bfloat16
scripts/benchmark.py input [--steps=40] [--config.data.host_threads=2]   crops a second that reach the device
scripts/benchmark.py models [--size=512]                                 what each config's model costs
scripts/benchmark.py ops [--steps=5] [--config.train.batch_size=4]       each form of pcejax/ops.py beside the plain one
scripts/benchmark.py losses [--steps=5] [--config.data.crop=128]         what each term of the loss costs
scripts/benchmark.py faults [--kills=40] [--seed=0]                      whether runs that are killed lose anything
scripts/benchmark.py predict [--side=10000]                              how fast a large GeoTIFF is mapped
scripts/benchmark.py restarts [--steps=40]                               what a start, a save and a restart cost
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from configs import all_configs
from pcejax import cli

_CONFIG = config_flags.DEFINE_config_file("config", "configs/default.py", "Config file.", lock_config=True)
_JSON = flags.DEFINE_string("json", None, "Also write the figures there.")
_SIDE = flags.DEFINE_integer("side", 10_000, "Side of the raster that is mapped.")
_SIZE = flags.DEFINE_integer("size", 512, "Side of the crop or image that models are measured on.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns that we and PyTorch have each.")
_COMPILED = flags.DEFINE_bool("compiled", False, "Whether torch.compile has a turn as well.")
_KILLS = flags.DEFINE_integer("kills", 40, "Times that a process is killed.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")
_AGAINST = flags.DEFINE_string("against", "torch", "Whose scores are beside ours: torch or plain.")
_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "Of the runs that are scored.")
_WIDTHS = flags.DEFINE_list("widths", "32,64", "Features of the first level of the models that are measured.")
_BATCHES = flags.DEFINE_list("batches", "16,32,64,128,256", "Crops of a batch, in turn until memory ends.")
_TILE = flags.DEFINE_integer("tile", 2448, "Side of the whole tile.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps that are measured; as many before them warm up.")


def measure_beside_torch(what: str) -> None:
    from pcejax import peers, writers

    names = [*peers.EAGER, *(["torch.compile"] if _COMPILED.value else [])]
    result = peers.measure(_CONFIG.value, what, _SIZE.value, _ROUNDS.value, _STEPS.value, names)
    print(peers.describe(result), flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), result)


def measure_accuracy() -> None:
    from pcejax import accuracy, writers

    def on_seed(result: dict[str, Any]) -> None:
        print(accuracy.describe(result), flush=True)
        if _JSON.value:
            writers.write_json(Path(_JSON.value), result)

    accuracy.measure(_CONFIG.value, _AGAINST.value, [int(seed) for seed in _SEEDS.value], on_seed)


def measure_step() -> None:
    measure_beside_torch("step")


def measure_infer() -> None:
    measure_beside_torch("infer")


def measure_gpu() -> None:
    from pcejax import gpu_benchmark, writers

    widths, batches = ([int(number) for number in flag.value] for flag in (_WIDTHS, _BATCHES))
    rows = []
    for row in gpu_benchmark.measure_gpu(_CONFIG.value, widths, batches, _TILE.value, _STEPS.value):
        print(gpu_benchmark.describe(row), flush=True)
        rows.append(row)
        if _JSON.value:
            writers.write_json(Path(_JSON.value), rows)
    sys.exit(any("error" in row and not gpu_benchmark.lacks_memory(row) for row in rows))


def measure_input() -> None:
    from pcejax import benchmarks, writers

    rows = benchmarks.measure_input(_CONFIG.value, _STEPS.value)
    for row in rows:
        print(", ".join(f"{k} {v:,.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), rows)


def measure_models() -> None:
    from pcejax import benchmarks, writers

    rows = {}
    for name, config in all_configs().items():
        rows[name] = row = benchmarks.measure_model(config, _SIZE.value)
        peak, remat = (row[key] / 1e9 for key in ("peak_bytes", "peak_bytes_remat"))
        print(f"{name}: {row['model']}; peak {peak:.2f} GB, {remat:.2f} with remat, on {row['devices']}", flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), rows)


def measure_losses() -> None:
    from pcejax import benchmarks, writers

    rows = benchmarks.measure_losses(_CONFIG.value, _STEPS.value)
    for row in rows:
        cost = f"step {row['step_seconds']:.3f} s, {row['share_of_step']:.1%} of it" if "step_seconds" in row else ""
        cost = cost or f"{row['seconds']:.4f} s"
        print(f"{row['term']}: {cost}, peak {row['peak_bytes'] / 1e9:.2f} GB, {row['shape']}", flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), rows)


def measure_ops() -> None:
    from pcejax import ops_benchmark, writers

    rows = ops_benchmark.measure_ops(_CONFIG.value, _STEPS.value)
    print("milliseconds, ours / plain: forward; with the gradient")
    for row in rows:
        told = (
            " / ".join(f"{1e3 * row[f'{what}_{which}']:.1f}" for which in ("seconds", "plain_seconds"))
            for what in ("forward", "forward_backward")
        )
        print(f"{row['op']} {' '.join(map(str, row['shapes']))}: {'; '.join(told)}", flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), rows)


def measure_faults() -> None:
    from pcejax import faults, writers

    result = faults.measure_faults(_KILLS.value, _SEED.value)
    phases = ", ".join(f"{name} {count}" for name, count in result["phases"].items() if count)
    told = "; ".join(result["differences"]) or "dataset, final state, metrics.jsonl, scores and files equal"
    print(f"{len(result['kills'])} kills: {phases}; {told}", flush=True)
    if _JSON.value:
        writers.write_json(Path(_JSON.value), result)
    sys.exit(bool(result["differences"]))


def measure_predict() -> None:
    from pcejax import map_benchmark, writers

    row = map_benchmark.measure_predict(_CONFIG.value, _SIDE.value)
    print(
        f"{row['side']} x {row['side']} pixels: {row['megapixels_per_second']:.2f} megapixels/s, "
        f"{row['seconds']:.1f} s, of which the model alone takes {row['model_seconds']:.1f} s "
        f"({row['outside_share']:.1%} outside, {row['outside_cpu_share']:.1%} of the processor's time); "
        f"meanwhile reading {row['reading_seconds']:.1f} s, writing "
        f"{row['writing_seconds']:.1f} s; peak {row['peak_bytes'] / 1e9:.2f} GB, on {row['devices']}",
        flush=True,
    )
    if _JSON.value:
        writers.write_json(Path(_JSON.value), row)


def measure_restarts() -> None:
    from pcejax import benchmarks, writers

    result = benchmarks.measure_restarts(_STEPS.value)
    for row in result["starts"]:
        cache = "a warm" if row["compilation_cache"] else "no"
        print(f"{row['run']} run with {cache} compilation cache: {row['seconds']:.1f} s to its first step", flush=True)
    for row in result["steps"]:
        print(
            f"width {row['width']}: step {row['step_seconds']:.3f} s, with a save {row['saved_step_seconds']:.3f} s, "
            f"checkpoint {row['checkpoint_bytes'] / 1e6:.1f} MB, on {row['devices']}",
            flush=True,
        )
    if _JSON.value:
        writers.write_json(Path(_JSON.value), result)


if __name__ == "__main__":
    commands = (
        measure_accuracy,
        measure_faults,
        measure_gpu,
        measure_infer,
        measure_input,
        measure_losses,
        measure_models,
        measure_ops,
        measure_predict,
        measure_restarts,
        measure_step,
    )
    cli.run_command({command.__name__.removeprefix("measure_"): command for command in commands})

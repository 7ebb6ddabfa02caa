"""Training steps and inference beside PyTorch's: the same weights and batch, in turns, each in a process of its own.

`jax_peer.py` is our side of it, `torch_peer.py` the other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import operator
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from pcejax import jax_peer, models, writers
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.models import encoders, summary
from pcejax.train_state import create_train_state

_LABELLED = 0.01  # of the pixels
_PEAKS = {"NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}  # FLOP/s in bfloat16, dense; datasheets
SETTINGS = {
    # Several share the card: each takes what it needs, up to all of it.
    "pcejax": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"},
    "torch": {},
    "torch, allocator tuned": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "536870912",
    },
    "torch.compile": {},
}
"""Who is measured, and the environment that each gets."""

MODEL_FIELDS = {
    "model.norm": ("group", "batch"),
    "model.residual": (False,),
    "model.dropout": (0.0,),
    "model.fusion.at": ("",),
    "model.scales": ((1,),),
}
"""What PyTorch's side has of the fields of which it does not have all values."""

EAGER = ("pcejax", "torch", "torch, allocator tuned")


class WorkerFailed(RuntimeError):
    """One who is measured ended or raised; the message names who, and why where that is known."""


def measure(
    config: ml_collections.ConfigDict,
    what: str,
    size: int,
    num_rounds: int,
    num_steps: int,
    names: Sequence[str] = EAGER,
) -> dict[str, Any]:
    """Seconds of a training step or of mapping one image ("infer"), ours and PyTorch's where it is installed.

    Args:
      config: its model, data.crop as the side of a crop, train.batch_size crops.
      what: "step", of the same batch again and again | "fed step", of what the input pipeline brings in the mode
        data.tiles, which is ours alone | "infer".
      size: side of the image that is mapped; a step takes crops.
      num_rounds: in each, all have their turn.
      num_steps: of a turn.
      names: of `SETTINGS`, who is measured; those of PyTorch where it is installed.

    Returns:
      "rows", one for each that was measured: seconds (median over all rounds), by round, ratio to "torch", peak memory;
      "agreement", how far losses and gradients are apart; and what of it all depends on the machine.

    Raises:
      UserError: PyTorch's side has no such model.
      WorkerFailed: one of them lacked memory, or ended for another reason.
    """
    jax.config.update("jax_platforms", "cpu")  # the workers need the accelerator for themselves
    side, batch = (size, 1) if what == "infer" else (config.data.crop, config.train.batch_size)
    if not has_torch():
        names = [name for name in names if name == "pcejax"]
    if {*names} - {"pcejax"}:
        check_fields(config, MODEL_FIELDS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        spec = _write_inputs(Path(folder), config, what, side, batch, num_steps)
        workers = {name: stack.enter_context(_worker(name, spec, Path(folder))) for name in names}
        agreement = _compare(workers, Path(folder)) if what == "step" and {"pcejax", "torch"} <= {*names} else {}
        rounds: dict[str, list[list[float]]] = {name: [] for name in names}
        progress, answers = writers.Progress(num_rounds), {}
        for done in range(num_rounds):
            for name, ask in workers.items():
                answers[name] = ask("round")
                rounds[name].append(answers[name]["seconds"])
            print(f"rounds {progress.line(done + 1)}", flush=True)
        shares = workers["pcejax"]("kernels")["shares"] if "pcejax" in names else {}
    flops = summary.flops(models.create_model(config.model, DEEPGLOBE.num_known), (batch, side, side, 3))
    flops *= 1 if what == "infer" else 3  # backward, as much for the input's gradient and again for the kernels'
    rows: list[dict[str, Any]] = []
    for name in names:
        medians = [float(np.median(turn)) for turn in rounds[name]]
        row: dict[str, Any] = {
            "name": name,
            "seconds": float(np.median(np.concatenate(rounds[name]))),
            "seconds_by_round": medians,
        }
        row["images_per_second"] = batch / row["seconds"]
        row["flops_per_second"] = flops / row["seconds"]
        row["peak_bytes"] = answers[name]["peak_bytes"]
        row["version"] = answers[name]["version"]
        rows.append(row)
    if "torch" in names:
        by_round = {row["name"]: np.array(row["seconds_by_round"]) for row in rows}
        for row in rows:
            row["ratios"] = (by_round[row["name"]] / by_round["torch"]).tolist()
    device = answers[names[0]]["device"]
    peak = next((peak for name, peak in _PEAKS.items() if device.startswith(name)), None)
    if peak:
        for row in rows:
            row["mfu"] = row["flops_per_second"] / peak
    about = {"what": what, "side": side, "batch_size": batch, "device": device, "cores": os.cpu_count()}
    return {"rows": rows, "agreement": agreement, "kernels": shares, **about}


def check_fields(config: ml_collections.ConfigDict, fields: Mapping[str, Sequence[Any]]) -> None:
    """Checks that each field has a value that PyTorch's side has.

    Raises:
      UserError: one has another.
    """
    for name, values in fields.items():
        value = operator.attrgetter(name)(config)
        if value not in values:
            raise UserError(
                f"{name}={value!r}; PyTorch's side has {' or '.join(map(repr, values))} alone: take a config of that"
            )


def has_torch() -> bool:
    """Whether PyTorch is installed (extra `bench`)."""
    return importlib.util.find_spec("torch") is not None


def describe(result: dict[str, Any]) -> str:
    """What `measure` returned, as lines."""
    lines = [f"{result['what']}, {result['batch_size']} of {result['side']} pixels, on {result['device']}, "]
    lines[0] += f"{result['cores']} cores"
    for row in result["rows"]:
        line = f"{row['name']} ({row['version']}): {row['seconds']:.3f} s, {row['images_per_second']:.1f} images/s, "
        line += f"{row['flops_per_second'] / 1e9:,.0f} GFLOP/s, peak {row['peak_bytes'] / 1e9:.1f} GB"
        if "mfu" in row:
            line += f", {row['mfu']:.0%} of the card's peak"
        if "ratios" in row:
            ratios = row["ratios"]
            line += f", {np.median(ratios):.2f} of torch's time ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(line)
    if result["agreement"]:
        lines.append(", ".join(f"{name} {value:.1e}" for name, value in result["agreement"].items()))
    if result["kernels"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["kernels"].items())
        lines.append(f"time of our kernels: {shares}")
    return "\n".join(lines)


def _write_inputs(
    folder: Path, config: ml_collections.ConfigDict, what: str, side: int, batch: int, num_steps: int
) -> Path:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    label = np.where(rng.random(image.shape[:3]) < _LABELLED, rng.integers(0, 6, image.shape[:3]), IGNORE)
    model = models.create_model(config.model, DEEPGLOBE.num_known)
    state = create_train_state(model, optax.sgd(0.0), jax.random.key(0), (1, 64, 64, 3))
    arrays = {
        name: jax_peer.flat(tree) for name, tree in (("weights", state.params), ("statistics", state.batch_stats))
    }
    # A head that tells nothing yet would hide what lies below it.
    arrays["weights"]["head/kernel"] = rng.normal(0, 0.1, arrays["weights"]["head/kernel"].shape).astype(np.float32)
    for name, tree in (arrays | {"inputs": {"image": image, "label": label.astype(np.uint8)}}).items():
        np.savez(folder / f"{name}.npz", allow_pickle=False, **tree)
    spec = {
        "what": what,
        "steps": num_steps,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "config": json.loads(config.to_json()),
        **net_of(config.model),
        **{name: str(folder / f"{name}.npz") for name in ("weights", "statistics", "inputs")},
    }
    writers.write_json(folder / "spec.json", spec)
    return folder / "spec.json"


def net_of(model: ml_collections.ConfigDict) -> dict[str, Any]:
    """What of its first arguments `torch_peer.Net` does not get as arrays, as JSON has it: "model" and "blocks"."""
    plain = model.encoder == "plain"
    blocks = [] if plain else [block._asdict() for block in encoders.layout(model.encoder)]
    return {"model": json.loads(model.to_json()), "blocks": blocks}


@contextlib.contextmanager
def _worker(name: str, spec: Path, folder: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A process that waits for commands; what it yields sends one and returns the answer."""
    module = "pcejax.jax_peer" if name == "pcejax" else "pcejax.torch_peer"
    own = folder / f"{re.sub(r'[^a-z]', '', name)}.json"
    told = json.loads(spec.read_text()) | {
        "gradients": str(own.with_suffix(".npz")),
        "compile": name == "torch.compile",
    }
    writers.write_json(own, told)
    with subprocess.Popen(
        [sys.executable, "-m", module, str(own)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | SETTINGS[name],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(command: str) -> dict[str, Any]:
            stdin.write(f"{command}\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                raise WorkerFailed(
                    f"{name}: the process ended with {process.wait()} at {command!r}; its error is above"
                )
            told = json.loads(answer)
            if "error" in told:
                raise WorkerFailed(f"{name}: {told['error']}; the whole error is above")
            return told

        try:
            yield ask
        finally:
            process.kill()


def _compare(workers: dict[str, Callable[[str], dict[str, Any]]], folder: Path) -> dict[str, float]:
    """Relative differences of loss and gradient of the first batch."""
    found = {}
    for name in ("pcejax", "torch"):
        for dtype in ("float64", "float32"):
            loss = workers[name](dtype)["loss"]
            with np.load(folder / f"{name}.npz") as arrays:
                found[name, dtype] = loss, dict(arrays)

    def apart(a: tuple[str, str], b: tuple[str, str]) -> float:
        (_, first), (_, second) = found[a], found[b]
        assert first.keys() == second.keys(), first.keys() ^ second.keys()
        squares = [(np.sum((first[name] - second[name]) ** 2), np.sum(second[name] ** 2)) for name in second]
        return float(np.sqrt(sum(s for s, _ in squares) / sum(s for _, s in squares)))

    exact = found["torch", "float64"]
    return {
        "loss apart in float64": abs(found["pcejax", "float64"][0] / exact[0] - 1),
        "gradients apart in float64": apart(("pcejax", "float64"), ("torch", "float64")),
        "our float32 gradients from it": apart(("pcejax", "float32"), ("torch", "float64")),
        "torch's float32 gradients from it": apart(("torch", "float32"), ("torch", "float64")),
    }

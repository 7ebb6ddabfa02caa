"""What a training step reaches on an accelerator, in one go: batches, PyTorch, the input pipeline, a whole tile.

Each figure comes from a process of its own that has the card for itself (`pcejax/peers.py`). What fails, as for want
of memory, is a row that says so, and the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from pcejax import peers

_NO_MEMORY = r"RESOURCE_EXHAUSTED|out ?of ?memory|ended with -9"

_OF_THE_BEST_BATCH: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("beside", "torch", "step", {}),
    ("beside", "torch.compile", "step", {}),
    ("fed from the device", "pcejax", "fed step", {"data.tiles": "device"}),
    ("fed from the host", "pcejax", "fed step", {"data.tiles": "host"}),
)


def measure_gpu(
    config: ml_collections.ConfigDict, widths: Sequence[int], batches: Sequence[int], tile: int, num_steps: int
) -> Iterator[dict[str, Any]]:
    """Training steps in bfloat16 of `config`'s model in each of `widths`; rows come as they are measured.

    First with each of `batches` crops of data.crop pixels, in their order, up to one that fails. Then, with the batch
    that was fastest of these, or half of it and again half where memory ends: PyTorch, eager and compiled, where it is
    installed, and our step fed by the input pipeline in either mode of data.tiles. Last one crop of `tile` pixels, with
    `model.remat`.

    A row has "part", "width", "name", "crop" and "batch_size"; and what `peers.measure` gives, with the shares of our
    "kernels", medians over `num_steps`; or, where it failed, "error".
    """

    def measure(part: str, name: str, what: str, changes: dict[str, Any]) -> dict[str, Any]:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes | {"model.dtype": "bfloat16"})
        row = {"part": part, "name": name, "width": changed.model.width, "crop": changed.data.crop}
        row["batch_size"] = changed.train.batch_size
        try:
            result = peers.measure(changed, what, 0, 1, num_steps, [name])
        except peers.WorkerFailed as error:
            return row | {"error": str(error)}
        return row | result["rows"][0] | {key: result[key] for key in ("device", "cores", "kernels")}

    for width in widths:
        rows = []
        for batch in batches:
            rows.append(measure("batches", "pcejax", "step", {"model.width": width, "train.batch_size": batch}))
            yield rows[-1]
            if "error" in rows[-1]:
                break
        best = max(rows, key=lambda row: row.get("images_per_second", 0))["batch_size"]
        for part, name, what, changes in _OF_THE_BEST_BATCH:
            batch = best if name == "pcejax" or peers.has_torch() else 0
            while batch:
                row = measure(part, name, what, changes | {"model.width": width, "train.batch_size": batch})
                yield row
                batch = batch // 2 if lacks_memory(row) else 0
    for width in widths:
        changes = {"model.width": width, "train.batch_size": 1, "data.crop": tile, "model.remat": True}
        yield measure("whole tile with remat", "pcejax", "step", changes)


def lacks_memory(row: dict[str, Any]) -> bool:
    """Whether it failed because memory was too small."""
    return re.search(_NO_MEMORY, row.get("error", ""), re.IGNORECASE) is not None


def describe(row: dict[str, Any]) -> str:
    """A row, as a line."""
    line = f"{row['part']}, width {row['width']}, {row['batch_size']} of {row['crop']} pixels, {row['name']}: "
    if "error" in row:
        return line + ("out of memory" if lacks_memory(row) else f"failed: {row['error']}")
    line += f"{row['images_per_second']:.1f} images/s, {row['seconds']:.4f} s, "
    line += f"{row['flops_per_second'] / 1e12:.2f} TFLOP/s, peak {row['peak_bytes'] / 1e9:.1f} GB"
    line += f", {row['mfu']:.0%} of the card's peak" if "mfu" in row else ""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in row["kernels"].items())
    return f"{line}{'; kernels: ' if shares else ''}{shares}; {row['device']}, {row['version']}"

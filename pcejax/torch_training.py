"""A run's training in PyTorch, at work in a process of its own: `pcejax/accuracy.py` starts it and feeds it crops.

Needs torch (extra `bench`), and nothing of JAX. Crops come by the standard input, and what was learnt goes into a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pcejax.ahead import ahead
from pcejax.torch_peer import Net, from_torch

_IGNORE = 255


class _Net(Net):
    """Its running variances are of the batch's own variance, as Flax has them; PyTorch takes the unbiased one."""

    def _batch_norm(
        self, x: Tensor, mean: Tensor, variance: Tensor, *affine: Tensor, training: bool, **options: Any
    ) -> Tensor:
        if not training:
            return super()._batch_norm(x, mean, variance, *affine, training=False, **options)
        new_mean, new_variance = mean.clone(), variance.clone()
        y = super()._batch_norm(x, new_mean, new_variance, *affine, training=True, **options)
        mean.copy_(new_mean)
        variance.copy_(new_variance - (new_variance - 0.9 * variance) * x.shape[1] / x.numel())
        return y


def train(spec: dict[str, Any], stream: BinaryIO, device: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains as `pcejax/steps.py` and `pcejax/optimizer.py` do.

    Args:
      spec: "model" and "blocks" of `Net`, its arrays' files "weights" and "statistics"; "crops", `[B, S, S, bands]`;
        "schedule", the learning rate of each step; "optimizer", fields of the config; "ema_decay".
      stream: gives, for each step: images float32 `[B, S, S, bands]` in [0, 1], labels uint8 `[B, S, S]` and their
        weights float32 `[B, S, S]`, 0 where there is no label.
      device: "cpu" or "cuda".

    Returns:
      Arrays of the state by "<tree>/<name>", trees as in `TrainState`; "loss" of each step, and "step_seconds", the
      median without the wait for crops.
    """
    bfloat16 = spec["model"]["dtype"] == "bfloat16"
    dtype = torch.float64 if spec["model"]["dtype"] == "float64" else torch.float32
    weights, statistics = (dict(np.load(spec[name])) for name in ("weights", "statistics"))
    net = _Net(spec["model"], spec["blocks"], weights, statistics, dtype).to(device).train()
    optimizer = _optimizer(net, spec["optimizer"])
    moving = [parameter for parameter in net.parameters() if parameter.requires_grad]
    now = [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]
    means = [tensor.clone() for tensor in now]
    cast = torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    losses, seconds = [], []
    crops = ahead(_crops(stream, spec["crops"], len(spec["schedule"])))
    for step, ((image, label, weight), rate) in enumerate(zip(crops, spec["schedule"], strict=True)):
        start = time.perf_counter()
        with cast:
            logits = net(image.to(device, dtype).permute(0, 3, 1, 2))
        loss = partial_cross_entropy(logits, label.to(device), weight.to(device, dtype))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _clip([p.grad for p in moving if p.grad is not None], spec["optimizer"]["grad_clip_norm"])
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()
        decay = min(spec["ema_decay"], (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(means, now, step)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return _arrays(net, means), {"loss": losses, "step_seconds": float(np.median(seconds))}


def partial_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Mean of the cross entropy of logits `[B, C, H, W]` over labelled pixels, weighted; 0 where there is none."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits.to(dtype), label.long(), ignore_index=_IGNORE, reduction="none")
    total = weight.sum()
    return (losses * weight).sum() / torch.where(total > 0, total, 1)


def _optimizer(net: Net, config: dict[str, Any]) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for key, name in net.names.items():
        factor = config["encoder_lr_factor"] if name.startswith("encoder/") else 1.0
        decay = config["weight_decay"] if len(net.shapes[name]) > 1 else 0.0
        groups.setdefault((factor, decay), []).append(net.get_parameter(key))
    return torch.optim.AdamW(
        [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    )


def _clip(gradients: list[Tensor], largest: float) -> None:
    # Not clip_grad_norm_, which adds 1e-6 to the norm.
    factor = torch.clamp(largest / torch.nn.utils.get_total_norm(gradients), max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def _crops(stream: BinaryIO, shape: list[int], num_steps: int) -> Iterator[tuple[Tensor, ...]]:
    parts = [np.empty(shape, np.float32), np.empty(shape[:3], np.uint8), np.empty(shape[:3], np.float32)]
    for step in range(num_steps):
        for part in (new := [np.empty_like(part) for part in parts]):
            if stream.readinto(part.data.cast("B")) < part.nbytes:  # type: ignore[attr-defined]
                raise EOFError(f"the crops ended at step {step} of {num_steps}")
        yield tuple(map(torch.from_numpy, new))


def _arrays(net: Net, means: list[Tensor]) -> dict[str, np.ndarray]:
    found, mean = {}, iter(means)
    for key, parameter in net.named_parameters():
        name = net.names[key]
        found[f"params/{name}"], found[f"ema_params/{name}"] = (
            from_torch(tensor, net.shapes[name]) for tensor in (parameter, next(mean))
        )
    for key, buffer in net.named_buffers():
        name = key.replace(":", "/")
        found[f"batch_stats/{name}"], found[f"ema_batch_stats/{name}"] = (
            from_torch(tensor, tuple(tensor.shape)) for tensor in (buffer, next(mean))
        )
    return found


def main(path: Path) -> None:
    """Trains by the standard input; arrays go into "state" of the spec, and a line of JSON to the standard output."""
    spec = json.loads(path.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    arrays, told = train(spec, sys.stdin.buffer, device)
    np.savez(spec["state"], allow_pickle=False, **arrays)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(json.dumps(told | {"version": torch.__version__, "device": name}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

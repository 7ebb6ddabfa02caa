"""The same U-Nets in PyTorch, at work in a process of their own beside ours: `pcejax/peers.py` starts it.

Needs torch (extra `bench`), and nothing of JAX. Weights come under our names and in our shapes; inside they lie as
PyTorch wants them, in `channels_last` memory.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LAST = torch.channels_last
_IGNORE = 255


class Net(torch.nn.Module):
    """A model whose parameters are `weights`, by name; `peers.check_model` tells which fields of `config.model` it has.

    Args:
      model: the fields of `config.model`.
      blocks: of the encoder's inverted residuals, a dict each; () for a plain one.
      weights: arrays as `flax` has them, by "/"-joined names.
      statistics: running means and variances of batch norms, by the names of theirs.
    """

    def __init__(
        self,
        model: dict[str, Any],
        blocks: list[dict[str, Any]],
        weights: dict[str, np.ndarray],
        statistics: dict[str, np.ndarray],
        dtype: torch.dtype,
    ):
        super().__init__()
        self.model, self.blocks = model, blocks
        self.names = {name.replace("/", ":").replace(".", "_"): name for name in weights}
        self.shapes = {name: array.shape for name, array in weights.items()}
        levels = sorted({"/".join(name.split("/")[:2]) + "/" for name in weights if name.startswith("encoder/")})
        self.frozen = tuple(levels[: model["frozen_stages"]])
        # What of it keeps the running statistics in training.
        self.settled = ("encoder/",) if model["frozen_statistics"] else self.frozen
        for key, name in self.names.items():
            moves = not name.startswith(self.frozen)
            self.register_parameter(key, torch.nn.Parameter(to_torch(weights[name], dtype), requires_grad=moves))
        for name, array in statistics.items():
            self.register_buffer(name.replace("/", ":"), torch.tensor(array, dtype=dtype))

    def forward(self, image: Tensor) -> Tensor:
        """`[B, bands, H, W]` in [0, 1], sides a multiple of 2 to the number of times down -> logits."""
        depth = self.model["depth"]
        levels = self._efficient(image, depth) if self.blocks else self._plain(image, depth)
        x = self._decode(levels) if self.model["decoder"] == "convolutions" else self._join(levels)
        logits = F.conv2d(x, self.get("head/kernel"), self.get("head/bias"))
        while logits.shape[2] < image.shape[2]:
            logits = _bilinear(logits)
        return logits

    def get(self, name: str) -> Tensor:
        """A parameter, by our name."""
        return self.get_parameter(name.replace("/", ":"))

    def gradients(self) -> dict[str, np.ndarray]:
        """Of the parameters, in our shapes; 0 of frozen ones."""
        found = {}
        for key, name in self.names.items():
            parameter = self.get_parameter(key)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = from_torch(gradient, self.shapes[name])
        return found

    def _plain(self, image: Tensor, depth: int) -> list[Tensor | None]:
        x, levels = (image - 0.4) / 0.2, []
        for index in range(depth + 1):
            x = self._level(F.max_pool2d(x, 2) if index else x, f"encoder/level_{index}")
            levels.append(x)
        return levels

    def _efficient(self, image: Tensor, depth: int) -> list[Tensor | None]:
        levels: list[Tensor | None] = [None]
        x = _same((image * 255 - 127) / 128, 3, 2)
        x = F.relu6(
            self._norm(F.conv2d(x, self.get("encoder/level_1/stem_kernel"), stride=2), "encoder/level_1/stem_norm")
        )
        for number, block in enumerate(self.blocks):
            if block["level"] > depth:
                break
            if block["level"] > len(levels):
                levels.append(x)
            into, at = x, f"encoder/level_{block['level']}/block_{number}"
            if block["expansion"] > 1:
                x = F.relu6(self._norm(F.conv2d(x, self.get(f"{at}/expand_kernel")), f"{at}/expand_norm"))
            kernel = self.get(f"{at}/depthwise_kernel")
            x = F.conv2d(_same(x, block["size"], block["stride"]), kernel, stride=block["stride"], groups=x.shape[1])
            x = F.relu6(self._norm(x, f"{at}/depthwise_norm"))
            x = self._norm(F.conv2d(x, self.get(f"{at}/project_kernel")), f"{at}/project_norm")
            x = x + into if x.shape == into.shape else x
        return [*levels, x]

    def _norm(self, x: Tensor, at: str, epsilon: float = 1e-3) -> Tensor:
        scale, bias = self.get(f"{at}/scale"), self.get(f"{at}/bias")
        if at.endswith("GroupNorm_0"):
            groups = next(n for n in (8, 4, 2, 1) if x.shape[1] % n == 0)
            return F.group_norm(x, groups, scale, bias, eps=1e-6)
        mean, variance = (self.get_buffer(f"{at}/{what}".replace("/", ":")) for what in ("mean", "var"))
        training = self.training and not at.startswith(self.settled)
        return self._batch_norm(x, mean, variance, scale, bias, training=training, eps=epsilon)

    def _batch_norm(self, x: Tensor, mean: Tensor, variance: Tensor, *affine: Tensor, **options: Any) -> Tensor:
        return F.batch_norm(x, mean, variance, *affine, momentum=0.1, **options)

    def _level(self, x: Tensor, name: str) -> Tensor:
        kind = {"group": "GroupNorm_0", "batch": "BatchNorm_0"}[self.model["norm"]]
        for block in range(self.model["blocks"]):
            for conv in range(2):
                at = f"{name}/block_{block}/conv_{conv}"
                x = F.conv2d(x, self.get(f"{at}/Conv_0/kernel"), padding=1)
                x = F.relu(self._norm(x, f"{at}/Norm_0/{kind}", 1e-5), inplace=True)
        return x

    def _decode(self, levels: list[Tensor | None]) -> Tensor:
        *skips, x = levels
        assert x is not None
        for index in reversed(range(len(skips))):
            x = self._up(x, f"upsample_{index}")
            skip = skips[index]
            x = x if skip is None else torch.cat([skip, x], 1)
            x = self._level(x, f"decoder_{index}")
        return x

    def _join(self, levels: list[Tensor | None]) -> Tensor:
        kind, joined = {"group": "GroupNorm_0", "batch": "BatchNorm_0"}[self.model["norm"]], None
        concat = self.model["fusion"]["fuse"] == "concat"
        for index, x in reversed(list(enumerate(x for x in levels if x is not None))):
            at = f"fusion_pyramid/level_{index}"
            x = F.relu(self._norm(F.conv2d(x, self.get(f"{at}/kernel")), f"{at}/Norm_0/{kind}", 1e-5))
            if concat:
                x = F.conv2d(x, self.get(f"fusion_pyramid/kernel_{index}"))
            joined = x if joined is None else _bilinear(joined) + x
        assert joined is not None
        return F.relu(self._norm(joined, f"fusion_pyramid/norm/{kind}", 1e-5)) if concat else joined

    def _up(self, x: Tensor, name: str) -> Tensor:
        kernel = self.get(f"{name}/kernel")
        if self.model["upsample"] == "transposed":
            return F.conv_transpose2d(x, kernel, stride=2)
        x = F.conv2d(x, kernel)
        if self.model["upsample"] == "bilinear":
            return _bilinear(x)
        return F.interpolate(x, scale_factor=2, mode="nearest")


def _bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _same(x: Tensor, size: int, stride: int) -> Tensor:
    """Padded as TensorFlow's "SAME" does, an odd pixel right and below."""
    lacking = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[2:]]
    (top, left), (bottom, right) = [n // 2 for n in lacking], [n - n // 2 for n in lacking]
    return F.pad(x, (left, right, top, bottom))


def to_torch(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A weight of ours as PyTorch's operations take it."""
    weight = torch.tensor(array, dtype=dtype)
    if weight.ndim == 2:  # a 1x1 convolution
        weight = weight.T[:, :, None, None]
    elif weight.ndim == 3:  # a depthwise one
        weight = weight.permute(2, 0, 1)[:, None]
    elif weight.ndim == 4 and weight.shape[0] == 2:  # a transposed one
        weight = weight.permute(2, 3, 0, 1)
    elif weight.ndim == 4:
        weight = weight.permute(3, 2, 0, 1)
    return weight.contiguous(memory_format=_LAST) if weight.ndim == 4 else weight.contiguous()


def from_torch(weight: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """What `to_torch` made of an array of this shape, as float64."""
    array = weight.detach().cpu().double().numpy()
    if len(shape) == 2:
        return array[:, :, 0, 0].T
    if len(shape) == 3:
        return array[:, 0].transpose(1, 2, 0)
    if len(shape) == 4:
        return array.transpose(2, 3, 0, 1) if shape[0] == 2 else array.transpose(2, 3, 1, 0)
    return array


def _loss(net: Callable[[Tensor], Tensor], image: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(net(image), label, ignore_index=_IGNORE)


def _load(spec: dict[str, Any], dtype: torch.dtype, device: str) -> tuple[Net, Tensor, Tensor]:
    weights, statistics, inputs = (dict(np.load(spec[name])) for name in ("weights", "statistics", "inputs"))
    net = Net(spec["model"], spec["blocks"], weights, statistics, dtype).to(device)
    image = torch.tensor(inputs["image"], dtype=dtype).permute(0, 3, 1, 2).contiguous(memory_format=_LAST) / 255
    return net, image.to(device), torch.tensor(inputs["label"], dtype=torch.long).to(device)


def _check(spec: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, float]:
    """Writes the gradients of the first batch's loss."""
    net, image, label = _load(spec, dtype, device)
    loss = _loss(net.train(), image, label)
    loss.backward()
    np.savez(spec["gradients"], allow_pickle=False, **net.gradients())
    return {"loss": loss.item()}


def _rounds(spec: dict[str, Any], device: str) -> Iterator[list[float]]:
    """Seconds of each of `spec["steps"]` steps or images, a list for each round; the first step warms up."""
    net, image, label = _load(spec, torch.float32, device)
    bfloat16 = spec["model"]["dtype"] == "bfloat16"
    run = torch.compile(net) if spec["compile"] else net
    cast = torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = _loss(run, image, label)
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode(), cast:
            run(image)

    net.train(spec["what"] == "step")
    once = train if spec["what"] == "step" else infer

    def timed() -> float:
        start = time.perf_counter()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed()
    while True:
        yield [timed() for _ in range(spec["steps"])]


def main(path: Path) -> None:
    """Does what lines of the standard input ask for, and answers each by a line of JSON."""
    spec = json.loads(path.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(spec["threads"])
    torch.backends.cudnn.benchmark = True
    rounds = None
    for line in sys.stdin:
        command = line.strip()
        try:
            if command == "round":
                rounds = rounds or _rounds(spec, device)
                answer: dict[str, Any] = {"seconds": next(rounds)}
            else:
                answer = _check(spec, device, getattr(torch, command))
        except Exception as error:  # such as memory that is too small: who asked decides what follows
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answer["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer["peak_bytes"] = torch.cuda.max_memory_allocated() if device == "cuda" else peak
        answer["version"] = torch.__version__
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Our side of a comparison with PyTorch, at work in a process of its own: `pcejax/peers.py` starts it."""

from __future__ import annotations

import itertools
import json
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.profiler import ProfileData

from pcejax import benchmarks, datasets, input_pipeline, losses, models, parallel, steps, tiles
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.train_state import TrainState

_KINDS = {  # of kernels, by what their names have; the first that fits
    "convolutions and dots": r"^(?!.*To(Nchw|Nhwc)).*(conv(?!ert)|ynn|dot|gemm|cudnn|cutlass|xmma|nvjet|implicit)",
    "reductions": r"reduce",
    "copies and transposes": r"To(Nchw|Nhwc)|copy|transpose|concatenate|pad|[Mm]emcpy|slice",
    "element by element": r"fusion|wrapped|add|multiply|maximum",
}


def _check(spec: dict[str, Any], dtype: str) -> dict[str, float]:
    config = ml_collections.ConfigDict(spec["config"])
    config.model.dtype = dtype
    with jax.enable_x64(dtype == "float64"):
        model = models.create_model(config.model, DEEPGLOBE.num_known)
        cast = lambda name: _tree(spec[name], dtype)  # noqa: E731
        params, statistics = cast("weights"), cast("statistics")
        inputs = np.load(spec["inputs"])

        def loss_of(params: Any) -> jax.Array:
            variables = {"params": params, "batch_stats": statistics}
            image = inputs["image"].astype(dtype) / 255
            logits, _ = model.apply(variables, image, train=True, mutable=["batch_stats"])
            total, weight = losses.partial_cross_entropy(logits, inputs["label"], inputs["label"] != IGNORE)
            return total / weight

        loss, gradients = jax.jit(jax.value_and_grad(loss_of))(params)
        arrays = {name: np.asarray(gradient, np.float64) for name, gradient in flat(gradients).items()}
        np.savez(spec["gradients"], allow_pickle=False, **arrays)
        return {"loss": float(loss)}


def _tree(path: str, dtype: str) -> Any:
    with np.load(path) as arrays:
        flat = {name: array.astype(dtype) for name, array in arrays.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by "/"-joined names."""
    return {name: np.asarray(leaf) for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _make_once(spec: dict[str, Any]) -> Callable[[], Any]:
    """What a turn measures: our whole training step, running means, clipping and records included; or one image.

    A step that is fed gives what the one before it measured, so that the next crops come while the device works.
    """
    config = ml_collections.ConfigDict(spec["config"])
    with np.load(spec["inputs"]) as arrays:
        image, label = arrays["image"], arrays["label"]
    params, statistics = _tree(spec["weights"], "float32"), _tree(spec["statistics"], "float32")
    if spec["what"] == "infer":
        model = models.create_model(config.model, DEEPGLOBE.num_known)
        compiled = jax.jit(steps.make_eval_step(model, datasets.RGB))
        variables, placed = jax.device_put(({"params": params, "batch_stats": statistics}, image))
        return lambda: compiled(variables, placed)
    rows = parallel.rows_per_device(len(image), "train.batch_size")
    fed = spec["what"] == "fed step"
    resident = fed and config.data.tiles == "device"
    mapped, _, tx, make_arguments = benchmarks.step_of(config, rows, image.shape[1], resident=resident)
    _, plan, knobs = make_arguments()
    state = TrainState(jnp.int32(0), params, statistics, tx.init(params), params, statistics)
    if fed:
        config.train.num_steps = 10**6  # more than are measured
        sources = input_pipeline.feed(config, benchmarks.random_tiles(config, Path(spec["inputs"]).parent), 0)
    else:
        ones = np.ones((len(image), DEEPGLOBE.num_classes), np.float32)
        sources = itertools.repeat((tiles.Batch(*map(parallel.shard_rows, (image, label, ones))), plan))
    state, knobs = parallel.replicate((state, knobs))
    measured: Any = None

    def once() -> Any:
        nonlocal state, measured
        before = measured
        state, measured = mapped(state, *next(sources), knobs)
        return before if fed else measured

    return once


def _rounds(spec: dict[str, Any], once: Callable[[], Any]) -> Iterator[list[float]]:
    def timed() -> float:
        start = time.perf_counter()
        jax.block_until_ready(once())
        return time.perf_counter() - start

    timed()
    while True:
        yield [timed() for _ in range(spec["steps"])]


def kind_of(kernel: str) -> str:
    """What a kernel of this name does, of `_KINDS`, or "others"."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, kernel)), "others")


def _kernels(once: Callable[[], Any]) -> dict[str, float]:
    """Shares of the time of kernels, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(once())
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(ProfileData.from_file(str(path)).planes)
    seconds: Counter[str] = Counter()
    lines = [line for plane in planes for line in plane.lines]
    # On a GPU kernels are on its streams, some without the operation that they are of; elsewhere threads run them.
    streams = [line for plane in planes if plane.name.startswith("/device:GPU") for line in plane.lines]
    streams = [line for line in streams if line.name.startswith("Stream")]
    for event in (event for line in streams or lines for event in line.events):
        if streams or "hlo_op" in dict(event.stats):
            seconds[kind_of(event.name)] += event.duration_ns
    return {kind: spent / max(1, sum(seconds.values())) for kind, spent in seconds.most_common()}


def main(path: Path) -> None:
    """Does what lines of the standard input ask for, and answers each by a line of JSON."""
    spec = json.loads(path.read_text())
    once = rounds = None
    for line in sys.stdin:
        command = line.strip()
        try:
            if command in ("float32", "float64"):
                answer: dict[str, Any] = _check(spec, command)
            else:
                once = once or _make_once(spec)
                if command == "round":
                    rounds = rounds or _rounds(spec, once)
                    answer = {"seconds": next(rounds)}
                else:
                    answer = {"shares": _kernels(once)}
        except Exception as error:  # such as memory that is too small: who asked decides what follows
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answer["device"] = jax.devices()[0].device_kind
        memory = jax.local_devices()[0].memory_stats() or {}
        answer["peak_bytes"] = (
            memory.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        answer["version"] = jax.__version__
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

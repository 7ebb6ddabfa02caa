"""Devices and processes: placing, sharding, the data-parallel map. The only module that knows pmap."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pcejax.errors import UserError

AXIS = "data"
"""The axis over which steps are mapped and sums are taken."""


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a run, before anything else asks for a device; a process alone stays alone.

    Under SLURM a step of several tasks is joined as it is; elsewhere the three arguments tell who is who. From then on
    process 0 alone prints; messages about what went wrong come from every process.

    Args:
      coordinator: "<host>:<port>" of process 0.
      num_processes: of the run.
      process_id: from 0.

    Raises:
      UserError: some of the arguments are missing.
    """
    told = (coordinator, num_processes, process_id)
    if told == (None, None, None):
        if "SLURM_STEP_NODELIST" not in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1:
            return
    elif None in told:
        raise UserError(
            f"coordinator={coordinator}, num_processes={num_processes}, process_id={process_id}; expected all three: "
            "--coordinator=<host>:<port> of process 0, --num_processes, and --process_id from 0"
        )
    # Its handler would take the place of ours; processes agree where to stop by themselves.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator, num_processes, process_id)
    if not is_primary():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


def is_primary() -> bool:
    """Whether this process is the one that writes what the run has once: records, checkpoints, scores."""
    return jax.process_index() == 0


def process_share() -> slice:
    """Of a list that every process has: each item is one process's."""
    return slice(jax.process_index(), None, jax.process_count())


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, equal in shape and dtype, stacked: `[processes, ...]`. Waits for all of them."""
    # As bytes: on devices 64 bits would become 32.
    sent = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    with jax.transfer_guard("allow"):
        received = np.asarray(multihost_utils.process_allgather(sent, tiled=False))
    return np.frombuffer(received.tobytes(), array.dtype).reshape(-1, *array.shape)


def leave() -> None:
    """Waits until every process is here, and parts from them: one that ended earlier would end the others."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def any_process(value: bool) -> bool:
    """Whether it is so in any process; every process asks at the same place, and gets the same answer."""
    return bool(gather(np.array(value)).any()) if jax.process_count() > 1 else value


def check_same(value: str, what: str) -> None:
    """Checks that all processes have the same `value`; every process asks at the same place.

    Raises:
      UserError: they do not.
    """
    digests = gather(np.frombuffer(hashlib.blake2b(value.encode(), digest_size=16).digest(), np.uint8))
    others = [index for index, digest in enumerate(digests) if (digest != digests[0]).any()]
    if others:
        raise UserError(
            f"{what} of process {', '.join(map(str, others))} is not that of process 0; expected the same command, "
            "dataset and workdir on every host; use a file system that all of them see"
        )


def _sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def replicate(tree: Any) -> Any:
    """Places a copy of every array on each local device."""
    return jax.device_put(tree, _sharding())


def rows_per_device(rows: int, field: str) -> int:
    """Rows of a global batch that each device takes.

    Raises:
      UserError: `rows` is no positive multiple of the devices; the message names `field`.
    """
    devices = jax.device_count()
    if rows < 1 or rows % devices:
        below = max(0, rows // devices * devices)
        nearest = f"{below} or {below + devices}" if below else f"{devices}"
        raise UserError(
            f"{field}={rows} on {devices} devices; expected a multiple of {devices}, so that each takes as many: "
            f"set it to {nearest}"
        )
    return rows // devices


def shard_rows(rows: np.ndarray) -> jax.Array:
    """Places this process's rows `[D * b, ...]` as `[D, b, ...]`, one block a local device."""
    devices = jax.local_device_count()
    if rows.shape[0] % devices:
        raise ValueError(f"{rows.shape[0]} rows for {devices} local devices; expected a multiple")
    return jax.device_put(rows.reshape(devices, -1, *rows.shape[1:]), _sharding(AXIS))


def process_rows(rows: np.ndarray) -> np.ndarray:
    """This process's block of the rows `[B, ...]` of a global batch, which every process computes alike."""
    share = rows.shape[0] // jax.process_count()
    start = jax.process_index() * share
    return rows[start : start + share]


def map_train_step(step: Callable[..., Any], *, resident: bool = True) -> Callable[..., Any]:
    """`step(state, source, plan, knobs) -> (state, metrics)` over all devices; `state` is donated.

    State and knobs come replicated, and so does the source where it is `resident`; the plan and other sources have a
    leading device axis (`shard_rows`). What comes back must be equal on every device, which nothing checks here.
    """
    source_axis = None if resident else 0
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, source_axis, 0, None), out_axes=(None, None), donate_argnums=0)


def map_eval_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(variables, images) -> outputs` over this process's devices; images and outputs have a device axis."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=jax.local_devices())


def to_host(tree: Any) -> Any:
    """Fetches every array as numpy; replicated arrays come as one copy."""
    return jax.device_get(tree)


def device_memory() -> int:
    """Bytes that one device offers: its own memory, or its share of the machine's where it has none."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def memory_in_use() -> int | None:
    """Bytes in use on the fullest local device; None on devices that do not tell, such as CPUs."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((int(s["bytes_in_use"]) for s in stats if "bytes_in_use" in s), default=None)


def cache_compilations(folder: str) -> None:
    """Keeps compiled programs in a folder, for this and later processes."""
    jax.config.update("jax_compilation_cache_dir", folder)


def describe() -> str:
    """For people: "2 x cpu" or "8 x NVIDIA H100 (2 processes)"."""
    kind = f"{jax.device_count()} x {jax.local_devices()[0].device_kind}"
    return kind if jax.process_count() == 1 else f"{kind} ({jax.process_count()} processes)"

"""Devices and processes: placing, sharding, the data-parallel map. The only module that knows pmap."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pcejax.errors import UserError

AXIS = "data"
"""The axis over which steps are mapped and sums are taken."""


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

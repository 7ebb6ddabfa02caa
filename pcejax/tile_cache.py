"""Decoded images on disk, mapped into memory: what a set of tiles that does not fit the device is cut from.

One `.npy` file a tile, named by tile id and a hash of the encoded image, so that runs share what they both need and a
dataset prepared anew is never taken for the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pcejax.errors import UserError


def path_of(folder: Path, tile_id: str, encoded: Any, factor: int) -> Path:
    """Where the image `encoded` (see `datasets.decode_image`), reduced `factor` times, is kept."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (encoded["shape"], encoded["value"]) if isinstance(encoded, dict) else (encoded,):
        digest.update(part)
    return folder / f"{tile_id}-{digest.hexdigest()}-{factor}.npy"


def mapped(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array at `path`, read-only and mapped; made and written first where it is not there yet."""
    if not path.exists():
        write(path, lambda file: np.save(file, make()))
    return np.load(path, mmap_mode="r")


def write(path: Path, save: Callable[[BinaryIO], None]) -> None:
    """Writes a file whole or not at all, its folders too; processes of several hosts may write it at once.

    Raises:
      UserError: it cannot be written.
    """
    partial = path.with_suffix(f".partial-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            save(file)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}; free some space, or set data.cache_dir") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Checks that `needed` more bytes fit on the disk of `folder`.

    Raises:
      UserError: they do not.
    """
    free = shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()))
    if needed > free.free:
        raise UserError(
            f"{folder}: decoded tiles take {needed / 1e9:.2f} GB more, the disk has {free.free / 1e9:.2f} GB free; "
            "free some space, set data.cache_dir, or lower data.scale"
        )

"""Features of single pixels on disk: runs of other points, folds or seeds compute what none before them had."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcejax import tile_cache
from pcejax.errors import UserError


def gather(path: Path, pixels: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Features of a tile's pixels, of which those that `path` lacks are computed and added to it.

    Processes may be at one file: each adds to what it found, and what one misses of another's is computed again.

    Args:
      path: of an `.npz` file, whose name tells all that features depend on.
      pixels: int64 `[n]`, row * W + column, each once.
      compute: gives the features float32 `[V, m, F]` of pixels int64 `[m]`.

    Returns:
      float32 `[V, n, F]`.

    Raises:
      UserError: the file cannot be read, or not be written.
    """
    known, features = _read(path)
    missing = pixels if features is None else np.setdiff1d(pixels, known)
    if missing.size or features is None:
        new = compute(missing)
        known = np.concatenate([known, missing])
        features = new if features is None else np.concatenate([features, new], 1)
        arrays = {"pixels": known, "features": features}
        tile_cache.write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    order = np.argsort(known)
    return features[:, order[np.searchsorted(known, pixels, sorter=order)]]


def digest(*parts: np.ndarray | str | int) -> str:
    """A name for what features depend on, for files' names."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        about = part if isinstance(part, np.ndarray) else np.frombuffer(str(part).encode(), np.uint8)
        hashed.update(f"{about.dtype} {about.shape};".encode())
        hashed.update(about.tobytes())
    return hashed.hexdigest()


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if not path.exists():
        return np.empty(0, np.int64), None
    try:
        with np.load(path) as arrays:
            return arrays["pixels"], arrays["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read: {error}; remove it, and it is computed again") from error

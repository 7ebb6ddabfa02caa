"""Discs of pixels."""

from __future__ import annotations

import numpy as np


def disc(radius: float) -> np.ndarray:
    """bool `[2 r + 1, 2 r + 1]`: pixels whose centre is within `radius` of the middle one's, r = floor(radius)."""
    row, col = np.ogrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1]
    return row**2 + col**2 <= radius**2


def stamp(target: np.ndarray, shape: np.ndarray, row: int, col: int) -> None:
    """Sets what `shape`, bool `[2 r + 1, 2 r + 1]` with its middle at (row, col), covers of `target`, bool `[H, W]`."""
    reach = len(shape) // 2
    top, left = max(0, row - reach), max(0, col - reach)
    part = target[top : row + reach + 1, left : col + reach + 1]
    part |= shape[top - row + reach :, left - col + reach :][: part.shape[0], : part.shape[1]]

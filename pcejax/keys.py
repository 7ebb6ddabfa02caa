"""Keys of pixels and tiles: the only randomness of labels.

A key is a 64-bit hash of (seed, tile id, pixel) and of what it is drawn for. The hash is written out
here, not taken from a random number generator, so that labels stay the same over machines, processes
and library versions, and so that what is drawn for one pixel does not depend on any other.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(seed: int, name: str, stream: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8, person=stream.encode()).digest()
    return int.from_bytes(digest, "little")


def pixel_keys(seed: int, tile_id: str, pixels: np.ndarray, stream: str = "") -> np.ndarray:
    """uint64 keys of flat pixel indices, int of any shape: SplitMix64 (Steele et al., 2014).

    Its start hashes (seed, tile id, stream). It is one to one: two pixels of a tile never share a key.

    Args:
      seed: `points.seed`.
      tile_id: the tile's.
      pixels: row * W + col.
      stream: what is drawn, up to 16 characters; streams are independent of each other.
    """
    state = pixels.astype(np.uint64)
    state += np.uint64(1)
    state *= np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(_digest(seed, tile_id, stream))
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def unit(keys: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), evenly spread and in the keys' order: their first 53 bits."""
    return (keys >> np.uint64(11)) * 2.0**-53


def first_tiles(tile_ids: list[str], count: int, seed: int) -> list[int]:
    """Places in `tile_ids` of the first `count` tiles of one permutation, ascending.

    A tile's key hashes (seed, tile id), so a smaller count's tiles are among a larger one's, and one
    tile's turn does not depend on which others there are.
    """
    order = sorted(range(len(tile_ids)), key=lambda index: _digest(seed, tile_ids[index], "tile"))
    return sorted(order[:count])

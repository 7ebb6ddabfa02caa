"""Made-up confusion matrices whose expected scores are known, for the tests of intervals.

As a program it measures how often the intervals of `pcejax.ablation_statistics` hold the truth:
  python tests/simulated_runs.py [--repeats=400]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcejax.ablation_statistics import Run


class Noise(NamedTuple):
    """Standard deviations of a class's log odds of being recognised, by what they belong to."""

    tile: float = 0.0  # of both settings
    seed: float = 0.0  # of a setting, and so in the rest
    draw: float = 0.0
    run: float = 0.0  # seed and draw together
    setting_tile: float = 0.0
    run_tile: float = 0.0


class World(NamedTuple):
    """A population of tiles and runs."""

    noise: Noise
    log_odds: tuple[float, ...]  # of each setting, before noise
    shares: tuple[float, ...] = (0.3, 0.5, 0.2, 0.4, 0.2, 0.15)  # how likely a tile holds each class
    seeds: int = 3
    draws: int = 3
    tiles: int = 20
    pixels: int = 10_000  # of a tile


def matrices(world: World, rng: np.random.Generator) -> np.ndarray:
    """int64 `[settings, seeds, draws, tiles, C + 1, C + 1]`; the last row and column are the unknown class's."""
    settings, classes = len(world.log_odds), len(world.shares)
    noise, outer = world.noise, (settings, world.seeds, world.draws, world.tiles, classes)

    def spread(deviation: float, *axes: int) -> np.ndarray:
        """Normal noise that differs along `axes`, and over classes by half of its variance."""
        shape = [size if axis in axes else 1 for axis, size in enumerate(outer[:-1])]
        return deviation * (rng.normal(size=(*shape, 1)) + rng.normal(size=(*shape, classes))) / np.sqrt(2)

    odds = np.reshape(world.log_odds, (settings, 1, 1, 1, 1)) + np.zeros(outer)
    odds += spread(noise.tile, 3) + spread(noise.seed, 0, 1) + spread(noise.draw, 0, 2) + spread(noise.run, 0, 1, 2)
    odds += spread(noise.setting_tile, 0, 3) + spread(noise.run_tile, 0, 1, 2, 3)
    odds += np.linspace(0.5, -0.5, classes)
    present = rng.random((world.tiles, classes)) < world.shares
    present[np.arange(world.tiles), rng.integers(0, 2, world.tiles)] = True
    area = rng.gamma(0.7, size=(world.tiles, classes)) * present + 0.02 * present
    area *= world.pixels / area.sum(1, keepdims=True)
    hits = area / (1 + np.exp(-odds))
    wrong = np.broadcast_to(np.array(world.shares) * (1 - np.eye(classes)), (classes, classes))
    wrong = wrong / wrong.sum(1, keepdims=True)
    result = np.zeros((*outer, classes + 1)[:4] + (classes + 1, classes + 1), np.int64)
    result[..., :classes, :classes] = np.rint((area - hits)[..., None] * wrong + hits[..., None] * np.eye(classes))
    result[..., classes, :classes] = rng.integers(0, 200, (world.tiles, classes))
    return result


def runs_of(simulated: np.ndarray, axis: str = "model") -> list[Run]:
    """Finished arms of `matrices`, whose settings are levels "0", "1", .. of `axis`."""
    settings, seeds, draws, tiles = simulated.shape[:4]
    return [
        Run(
            levels={axis: str(setting)},
            seed=seed,
            point_seed=draw,
            matrices={f"tile_{tile:03d}": simulated[setting, seed, draw, tile] for tile in range(tiles)},
            annotator_hours=1.0 + setting,
        )
        for setting in range(settings)
        for seed in range(seeds)
        for draw in range(draws)
    ]

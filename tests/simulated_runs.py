"""Made-up confusion matrices whose expected scores are known, for the tests of intervals.

As a program it measures how often the intervals of `pcejax.ablation_statistics` hold the truth, in some 10 minutes:
  PYTHONPATH=. python tests/simulated_runs.py --repeats=400
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from pcejax import metrics, saturation
from pcejax.ablation_statistics import Run, summarise
from pcejax.crossed_bootstrap import Labels, Resamples


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


REALISTIC = Noise(tile=0.8, seed=0.15, draw=0.2, run=0.15, setting_tile=0.3, run_tile=0.3)
"""Scores of 0.5 whose deviation over seeds and over draws is some 0.02, and over sets of 20 tiles some 0.05."""

NULL = Noise(tile=0.8, run=0.3, run_tile=0.3)
"""Settings that differ in nothing but what each run has of its own."""


def expected_miou(world: World) -> np.ndarray:
    """mIoU float `[settings]` over very many tiles, mean over runs."""
    rng = np.random.default_rng(1_000_000)
    large = world._replace(seeds=5, draws=5, tiles=1500)
    return np.mean([metrics.miou(matrices(large, rng).sum(3), len(world.shares)).mean((1, 2)) for _ in range(12)], 0)


def measure_coverage(world: World, repeats: int) -> dict[str, float]:
    """How often the intervals of the last setting, of its difference from the first, and of the limit hold the truth.

    Beside them those of percentiles of crossed resamples, `percentile_*`, and how often the difference's is without 0.
    """
    names = [f"{setting}" for setting in range(len(world.log_odds))]
    budgets = {name: 3**setting for setting, name in enumerate(names)}
    truth = expected_miou(world)
    limit = saturation.fit(list(budgets.values()), truth).limit
    held: dict[str, list[bool]] = {}

    def note(name: str, interval: list[float], value: float) -> None:
        held.setdefault(name, []).append(interval[0] <= value <= interval[1])

    for repeat in range(repeats):
        drawn = matrices(world, np.random.default_rng(repeat))
        asked = [("points", names[-1], names[0])]
        told = summarise(
            runs_of(drawn, "points"),
            {"points": names},
            [f"class {number}" for number in range(len(world.shares))],
            budget_axis="points",
            budgets=budgets,
            references={},
            differences=asked,
            resamples=300,
            seed=repeat,
        )
        difference = told["differences"][0]
        note("setting", told["settings"][-1]["interval"], truth[-1])
        note("difference", difference["interval"], truth[-1] - truth[0])
        low, high = difference["interval"]
        held.setdefault("without 0", []).append(not low <= 0 <= high)
        if told["saturation"][0]["limit"] is not None:
            note("limit", told["saturation"][0]["limit_interval"], float(limit))
        labels = Labels(*np.indices((world.seeds, world.draws)).reshape(2, -1).tolist())
        resamples = Resamples(world.tiles, labels, 300, repeat)
        first, last = (
            metrics.miou(np.einsum("bt,sdtij->bsdij", resamples.tiles, drawn[setting]), len(world.shares))
            for setting in (0, -1)
        )
        for name, by_tiles, value in (("setting", last, truth[-1]), ("difference", last - first, truth[-1] - truth[0])):
            means = resamples.means(by_tiles.reshape(300, -1), labels)
            note(f"percentile_{name}", np.nanpercentile(means, [2.5, 97.5]).tolist(), value)
    return {name: float(np.mean(values)) for name, values in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    print(
        "| seeds | draws | tiles | setting | difference | limit | null without 0 | setting, pct. | difference, pct. |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seeds, draws, tiles in ((3, 3, 4), (3, 3, 8), (3, 3, 20), (3, 5, 30), (3, 1, 20), (2, 2, 20), (5, 5, 30)):
        sizes = {"seeds": seeds, "draws": draws, "tiles": tiles}
        curve = measure_coverage(World(REALISTIC, (0.2, 0.8, 1.1, 1.25), **sizes), repeats)
        null = measure_coverage(World(NULL, (1.0, 1.0), **sizes), repeats)
        columns = [curve[name] for name in ("setting", "difference", "limit")] + [null["without 0"]]
        columns += [curve[f"percentile_{name}"] for name in ("setting", "difference")]
        print(
            "|",
            " | ".join([str(seeds), str(draws), str(tiles), *(f"{value:.3f}" for value in columns)]),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    main()

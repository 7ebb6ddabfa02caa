"""Whether an ablation finds an effect that is there, and claims none that is not: the statistics as an instrument.

Scenes of `datasets.context_scenes`, planted and null. The fast tests have learners of pixels, of which one sees what
surrounds a pixel. The marked one trains U-Nets of which the shallow one sees no frame, in some minutes:
  scripts/test.sh -m instrument -n 0 -s
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from pcejax import metrics
from pcejax.ablation_statistics import Run, summarise
from pcejax.datasets import context_scenes
from pcejax.datasets.landscape_scene import BARREN, WATER
from pcejax.legend import DEEPGLOBE

AXES = {"features": ("placebo", "context")}
KNOWN = DEEPGLOBE.names[: DEEPGLOBE.num_known]
TRAIN, SCORED = 24, 24  # tiles of a repeat
POINTS = 40  # of a class, over the tiles of training


class Cores(NamedTuple):
    """The cores of tiles of one clearing each: all else has a colour of its own."""

    colors: np.ndarray  # float32 [tiles, pixels, 3]
    surroundings: np.ndarray  # float32 [tiles, pixels, 3], the tile's mean colour
    planted: np.ndarray  # uint8 [tiles, pixels], class where context decides
    null: np.ndarray  # uint8 [tiles, pixels], class where it does not


@pytest.fixture(scope="module")
def cores():
    arrays = []
    for index in range(400):
        image, planted = context_scenes.draw_tile(0, index, 64, informative=True)
        null = context_scenes.draw_tile(0, index, 64, informative=False)[1]
        of_core = np.isin(planted, (WATER, BARREN))
        colors = image[of_core].astype(np.float32)
        surroundings = np.broadcast_to(image.mean((0, 1), dtype=np.float32), colors.shape)
        arrays.append([values[::4] for values in (colors, surroundings, planted[of_core], null[of_core])])
    return Cores(*map(np.stack, zip(*arrays, strict=True)))


def comparison(cores, truth, repeat):
    """The paired difference of trees that see what surrounds a pixel from trees that see another tile's surroundings.

    3 seeds, 3 draws of points. Both have as many features, since a tree maps worse with more that tell nothing.
    """
    rng = np.random.default_rng(repeat)
    tiles = rng.permutation(len(truth))
    train, scored = tiles[:TRAIN], tiles[TRAIN : TRAIN + SCORED]
    ids = truth[train].ravel()
    features = {
        "context": np.concatenate([cores.colors, cores.surroundings], -1),
        "placebo": np.concatenate([cores.colors, rng.permutation(cores.surroundings)], -1),
    }
    runs = []
    for draw in range(3):
        points = np.concatenate([rng.permutation(np.flatnonzero(ids == core))[:POINTS] for core in (WATER, BARREN)])
        for seed in range(3):
            resampled = np.random.default_rng((repeat, seed)).choice(points, len(points))  # as a seed changes a tree
            for name, seen in features.items():
                tree = DecisionTreeClassifier(random_state=seed)
                tree.fit(seen[train].reshape(len(ids), -1)[resampled], ids[resampled])
                predicted = tree.predict(seen[scored].reshape(-1, seen.shape[-1])).reshape(SCORED, -1)
                matrices = {
                    str(tile): metrics.confusion_matrix(truth[tile], of_tile, DEEPGLOBE.num_classes)
                    for tile, of_tile in zip(scored, predicted, strict=True)
                }
                runs.append(Run({"features": name}, seed, draw, matrices, 1.0))
    told = summarise(
        runs,
        AXES,
        KNOWN,
        budget_axis=None,
        budgets={},
        references={},
        differences=[("features", "context", "placebo")],
        resamples=60,
    )
    return told["differences"][0]


def test_a_planted_effect_is_found_every_time(cores):
    told = [comparison(cores, cores.planted, repeat) for repeat in range(20)]
    assert all(difference["claim"] for difference in told)
    assert min(difference["difference"] for difference in told) > 0.1


def test_where_there_is_none_it_is_claimed_at_about_the_rate_promised(cores):
    """At a rate of 5 %, 300 repeats claim 23 or more one time in 30."""
    told = [comparison(cores, cores.null, repeat) for repeat in range(300)]
    assert sum(difference["claim"] for difference in told) <= 22


# U-Nets

ROOT = Path(__file__).parents[1]
DEPTHS = {"shallow": 1, "deep": 3}


def run_script(place, script, *arguments):
    """As on a user's CPU: conftest's flags would have the programs compiled as they stand."""
    environment = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]
    ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def trained(place, scene, depth, seed, draw):
    """A finished arm, trained and scored by the script."""
    workdir = place / "runs" / f"{scene},depth={depth},seed={seed},draw={draw}"
    overrides = {
        "seed": seed,
        "points.seed": draw,
        "points.budget": 10,
        "data.name": f"synthetic_v1/{scene}_128px_16-{SCORED}-0-0_seed0",
        "data.scale": 1.0,
        "data.crop": 64,
        "model.depth": DEPTHS[depth],
        "model.width": 8,
        "train.num_steps": 400,
        "train.batch_size": 8,
        "train.compilation_cache": "compiled",
        "inference.window": 128,
    }
    flags = [f"--config.{name}={value}" for name, value in overrides.items()]
    run_script(place, "train", f"--config={ROOT}/configs/quickstart.py", f"--workdir={workdir}", *flags)
    told = json.loads((workdir / "report" / "evaluation_validation.json").read_text())
    matrices = {tile: np.array(matrix) for tile, matrix in told["tiles"].items()}
    return Run({"depth": depth}, seed, draw, matrices, 1.0)


@pytest.mark.instrument
@pytest.mark.parametrize(("scene", "claim"), [("context", True), ("no_context", False)])
def test_that_a_deeper_unet_maps_better_is_claimed_where_context_decides_and_nowhere_else(tmp_path, scene, claim):
    sizes = ("--size=128", "--num_train=16", f"--num_validation={SCORED}", "--num_test=0", "--num_unlabelled=0")
    run_script(tmp_path, "prepare_data", "--dataset=synthetic_v1", f"--scene={scene}", "--data_dir=data", *sizes)
    arms = [(depth, seed, draw) for depth in DEPTHS for seed in range(3) for draw in range(2)]
    runs = [trained(tmp_path, scene, *arm) for arm in arms]
    told = summarise(
        runs,
        {"depth": tuple(DEPTHS)},
        KNOWN,
        budget_axis=None,
        budgets={},
        references={},
        differences=[("depth", "deep", "shallow")],
    )
    (difference,) = told["differences"]
    for setting in told["settings"]:
        print(scene, setting["levels"]["depth"], setting["miou"], setting["interval"], setting["iou"])
    print(scene, difference["difference"], difference["interval"])
    assert difference["claim"] is claim
    assert difference["difference"] > 0 or not claim

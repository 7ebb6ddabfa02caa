"""An ablation's workdir of made-up result files, as its arms would leave it."""

import itertools
import json
import zlib

import numpy as np

from configs import default
from pcejax import pictures, runs, writers

NAMES = ("urban", "forest", "water", "unknown")
COLORS = ((200, 60, 60), (0, 120, 0), (0, 0, 255), (0, 0, 0))
LEGEND = {"names": list(NAMES), "colors": [list(color) for color in COLORS], "has_unknown": True}
SECONDS = {"click": 2.4, "tile": 18.5, "mask": 239.7}
DENSE = ("dense", "dense_balanced")


def matrix(skill, rng, pixels=4000, classes=3):
    """A tile's matrix, truth by row, of a map that is right on a share `skill` of the pixels; unknown is never told."""
    truth = rng.multinomial(pixels, rng.dirichlet(np.full(classes, 2.0)))
    counts = np.zeros((classes + 1, classes + 1), int)
    for index, count in enumerate(truth):
        share = np.full(classes, (1 - skill) / classes)
        share[index] += skill
        counts[index, :classes] = rng.multinomial(count, share)
    counts[classes, 0] = pixels // 50
    return counts


def skill_of(budget, effect=0.0):
    """Saturates with the budget; None is dense."""
    return 0.85 + effect if budget is None else 0.82 - 0.5 * (1 + budget) ** -0.6 + effect


def write_arm(workdir, arm, skill, split, *, tiles, points, config, protocol="across", pictured=1, side=24, seconds=90):
    folder = workdir / "arms" / arm["name"]
    tile_rng, rng = np.random.default_rng(5), np.random.default_rng(zlib.crc32(arm["name"].encode()))
    noise = 0.02 * rng.normal()
    shifts = 0.1 * tile_rng.normal(size=tiles)
    matrices = {
        f"tile_{i:02d}": matrix(np.clip(skill + noise + shifts[i], 0.05, 0.99), np.random.default_rng(i)).tolist()
        for i in range(tiles)
    }
    evaluation = {
        "split": split,
        "protocol": protocol,
        "dataset": "synthetic_v1/made_up",
        "step": 900,
        "legend": LEGEND,
        "num_tiles": tiles,
        "points": points,
        "tiles": matrices,
    }
    writers.write_json(runs.evaluation_path(folder, split), evaluation)
    writers.write_json(folder / "config.json", config | {"seed": arm["seed"]})
    manifest = {
        "command": ["scripts/train.py"],
        "git_commit": "0123456789ab",
        "python": "3.11.2",
        "packages": {"jax": "0.10.2", "numpy": "2.1.0"},
        "devices": "2 x cpu",
        "cores": 2,
    }
    writers.write_json(folder / "manifest.json", manifest)
    maps = runs.pictures_folder(folder, split)
    maps.mkdir(parents=True, exist_ok=True)
    palette = np.array(COLORS, np.uint8)
    for index in range(pictured):
        drawn = np.random.default_rng(index)
        truth = np.kron(drawn.integers(0, 3, (4, 4)), np.ones((side // 4, side // 4), int))
        wrong = rng.random(truth.shape) > skill
        shown = np.where(wrong, rng.integers(0, 3, truth.shape), truth)
        image = np.clip(palette[truth] * 0.6 + 40 + drawn.normal(0, 12, (*truth.shape, 3)), 0, 255).astype(np.uint8)
        sheet = [image, palette[truth], palette[shown], np.full_like(image, int(255 * skill))]
        pictures.side_by_side(sheet, side=side).save(maps / f"tile_{index:02d}.png")
    log = workdir / "logs" / f"{arm['name']}.txt"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"devices: 2 x cpu\nevaluate {split}: tiles {tiles}/{tiles}, done\n")
    writers.append_line(workdir / "durations.jsonl", {"arm": arm["name"], "seconds": seconds, "exit_code": 0})


def points_of(budget, num_tiles, annotator=None):
    annotator = annotator or ("balanced" if budget else "dense")
    counts = dict.fromkeys(NAMES[:3], budget * num_tiles) if annotator == "balanced" else {}
    fields = default.get_config().points.to_dict() | {"annotator": annotator, "budget": budget or 1}
    share = 1.0 if annotator in DENSE else 0.000125 * fields["budget"]
    return fields | {"num_tiles": num_tiles, "point_counts": counts, "labelled_share": share}


def config_of(points, **changes):
    config = {
        "seed": 0,
        "data": {"name": "synthetic_v1/made_up", "scale": 0.25, "crop": 96, "num_labelled_tiles": 0},
        "points": {"annotator": points["annotator"], "budget": points["budget"], "seed": 0},
        "model": {"depth": 4, "width": 16},
        "train": {"num_steps": 900, "batch_size": 16},
    }
    for name, value in changes.items():
        section, _, field = name.partition(".")
        config[section][field] = value
    return config


def about_of(name, axes, arms, **changes):
    about = {
        "name": name,
        "size": "demo",
        "title": "How many points are enough?",
        "question": "Does a click more per class and tile still make the map better, and where does it end?",
        "command": ["scripts/ablate.py", f"--config=configs/ablations/{name}.py:demo", "--workdir=runs/sparsity"],
        "factor": next(iter(axes)),
        "axes": axes,
        "budget_axis": None,
        "budgets": {},
        "references": {},
        "differences": [],
        "folds": 1,
        "seconds": SECONDS,
        "watermark": "",
        "arms": arms,
    }
    return about | changes


def point_sparsity(
    workdir, budgets=(1, 3), *, seeds=2, draws=2, tiles=4, num_tiles=6, references=DENSE, skip=(), **changes
):
    """Budgets and dense references; `skip` names arms that never ran."""
    side, pictured = changes.pop("side", 24), changes.pop("pictured", 1)
    levels = [str(budget) for budget in budgets] + list(references)
    counts = {level: draws if level not in references else 1 for level in levels}
    arms = [
        {
            "name": f"points={level},seed={seed},draw={draw}",
            "levels": {"points": level},
            "seed": seed,
            "point_seed": draw,
            "fold": "",
            "overrides": {},
            "eval_split": "validation",
        }
        for level in levels
        for seed, draw in itertools.product(range(seeds), range(counts[level]))
    ]
    about = about_of(
        "point_sparsity",
        {"points": levels},
        arms,
        budget_axis="points",
        budgets={level: None if level in references else int(level) for level in levels},
        references={name: name for name in references},
        differences=[["points", b, a] for a, b in itertools.pairwise(levels[: len(budgets)])],
    )
    about |= changes
    writers.write_json(workdir / "ablation.json", about)
    for arm in about["arms"]:
        if arm["name"] in skip:
            continue
        level = arm["levels"]["points"]
        budget = about["budgets"][level]
        points = points_of(budget, num_tiles, level if level in references else None)
        write_arm(
            workdir,
            arm,
            skill_of(budget),
            "validation",
            tiles=tiles,
            points=points,
            config=config_of(points),
            side=side,
            pictured=pictured,
        )
    return workdir


def edit(path, **changes):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

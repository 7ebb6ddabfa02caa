"""Reference points: a stratified random sample of a map, for a person to label, and what it then tells of the map.

`draw` writes the sample with the column `class` empty and, so that nothing suggests an answer, in random order;
`stratum` is the number of the map's class. `score` compares the filled file with the map: see `area_accuracy`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pcejax import area_accuracy, class_maps, keys, point_files, writers
from pcejax.area_accuracy import NORMAL_95, Estimate
from pcejax.class_maps import ClassMap
from pcejax.errors import UserError
from pcejax.frames import Click
from pcejax.legend import IGNORE


def draw(map_path: Path, legend: Path | None, output: Path, total: int, minimum: int, seed: int) -> None:
    """Draws reference points in a map, without replacement, and writes them in a form of `point_files`.

    The sample is a pure function of the map, its name and `seed`.

    Args:
      map_path: as `class_maps.open_map`, with `legend`.
      output: the file to write.
      total: points.
      minimum: points in each class, 2 or more; the rest is in proportion to area.

    Raises:
      UserError: `output` exists, a file is not as expected, or points cannot be allotted so.
    """
    if output.exists():
        raise UserError(f"{output}: exists; expected a new file, since labels in it would be lost; move or remove it")
    if minimum < 2:
        raise UserError(f"--min_per_class={minimum}: expected 2 or more; fewer have no standard error")
    class_map = class_maps.open_map(map_path, legend)
    allotted = area_accuracy.allocate(_mapped(class_map), total, minimum)
    pixels, strata = _draw_pixels(class_map, allotted, seed)
    order = np.argsort(keys.pixel_keys(seed, class_map.name, pixels, "order"))
    row, col = np.divmod(pixels[order], class_map.frame.width)
    columns = {
        "tile_id": [class_map.name] * total,
        "row": row.tolist(),
        "col": col.tolist(),
        "class": [""] * total,
        "stratum": [_stratum(class_map, class_id) for class_id in strata[order]],
    }
    point_files.write_columns(output, columns, {class_map.name: class_map.frame})
    told = ", ".join(f"{n} {k}" for n, k in zip(class_map.legend_file.legend.names, allotted, strict=False) if k)
    print(
        f"{output}: {total} reference points: {told}; fill in `class`, and score them by leaving out --draw_reference"
    )


def score(map_path: Path, legend: Path | None, points_path: Path) -> dict[str, Any]:
    """Scores a map against labelled reference points, and writes the result to `<points>_accuracy.json` beside them.

    The points are those of `draw`, or another random sample of the same map's area; points that a person chose, or
    whose labels taught the map, tell nothing.

    Raises:
      UserError: a file is not as expected; a point without a class, outside the map or of another map's sample; a
        class of the map with fewer than two points.
    """
    class_map = class_maps.open_map(map_path, legend)
    frames, name, known = {class_map.name: class_map.frame}, class_map.name, class_map.legend_file
    clicks = point_files.read_clicks(points_path, frames)
    _check_filled(clicks)
    classes = point_files.clicked_classes(clicks, frames, known.legend, known.ids)[name]
    pixels = np.array(list(classes), np.int64)
    mapped, at_pixels = _survey(class_map, pixels)
    at = dict(zip(classes, at_pixels.tolist(), strict=True))
    for click in clicks:
        _check_stratum(click, at[click.pixel(frames)], class_map)
    num = known.legend.num_known
    counts = np.zeros((num, num), np.int64)
    np.add.at(counts, (at_pixels, np.array(list(classes.values()))), 1)
    for class_id in np.flatnonzero(counts.sum(1) < np.minimum(mapped, 2)):
        raise UserError(
            f"{points_path}: {counts[class_id].sum()} points in the map's class {known.legend.names[class_id]!r}, "
            f"{mapped[class_id] / mapped.sum():.1%} of the map; expected 2 or more in each; draw a sample of this map "
            "with --draw_reference"
        )
    hectares, why_not = class_maps.hectares_of_a_pixel(class_map.frame)
    size = 1.0 if math.isnan(hectares) else hectares
    accuracy = area_accuracy.estimate(counts, mapped * size)
    names = known.legend.names[:num]
    result = {
        "map": str(map_path),
        "reference_points": str(points_path),
        "classes": names,
        "unit": "pixels" if math.isnan(hectares) else "ha",
        "why_pixels": why_not,
        "mapped_pixels": mapped.tolist(),
        "mapped_area": (mapped * size).tolist(),
        "counts": counts.tolist(),
        "proportions": accuracy.proportions.tolist(),
        "overall_accuracy": _told(accuracy.overall, 1.0),
        "users_accuracy": _by_class(names, accuracy.users, 1.0),
        "producers_accuracy": _by_class(names, accuracy.producers, 1.0),
        "area": _by_class(names, accuracy.areas, mapped.sum() * size),
    }
    writers.write_json(points_path.with_name(f"{points_path.stem}_accuracy.json"), result)
    return result


def print_scores(result: dict[str, Any]) -> None:
    """Prints what `score` returned, as a table."""
    unit, total = result["unit"], sum(result["mapped_area"])
    area = f",.{max(0, 5 - len(f'{total:.0f}'))}f"  # five digits of the whole
    table = Table()
    table.add_column("class")
    for column in ("points", f"mapped {unit}", f"area {unit}", "user's", "producer's"):
        table.add_column(column, justify="right", no_wrap=True)
    for index, name in enumerate(result["classes"]):
        table.add_row(
            name,
            str(sum(result["counts"][index])),
            f"{result['mapped_area'][index]:{area}}",
            _shown(result["area"][name], area),
            _shown(result["users_accuracy"][name], ".3f"),
            _shown(result["producers_accuracy"][name], ".3f"),
        )
    Console().print(table)
    if result["why_pixels"]:
        print(f"areas are in pixels: {result['why_pixels']}")
    points = sum(map(sum, result["counts"]))
    print(f"overall accuracy {_shown(result['overall_accuracy'], '.3f')}, {points} points; ± is half the 95 % interval")


# The map


def _mapped(class_map: ClassMap) -> np.ndarray:
    """int64 `[num_known]`: the pixels of each class."""
    return _survey(class_map, np.zeros((0, 2), np.int64))[0]


def _survey(class_map: ClassMap, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of each class, int64 `[num_known]`, and the class ids at (row, col) of `pixels`, int64 `[n, 2]`."""
    num = class_map.legend_file.legend.num_known
    mapped, at = np.zeros(num, np.int64), np.full(len(pixels), IGNORE, np.int64)
    for first, ids in class_maps.strips(class_map):
        mapped += np.bincount(ids.reshape(-1), minlength=256)[:num]
        here = (pixels[:, 0] >= first) & (pixels[:, 0] < first + len(ids))
        at[here] = ids[pixels[here, 0] - first, pixels[here, 1]]
    if not mapped.any():
        raise UserError(f"{class_map.path}: no pixel has a class; expected a map of classes")
    return mapped, at


def _draw_pixels(class_map: ClassMap, allotted: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat pixels int64 `[n]`, the `allotted[i]` of class i with the smallest keys, and the class id of each."""
    drawn = {i: (np.zeros(0, np.uint64), np.zeros(0, np.int64)) for i in np.flatnonzero(allotted)}
    for first, ids in class_maps.strips(class_map):
        flat = ids.reshape(-1)
        start = first * class_map.frame.width
        sort_keys = keys.pixel_keys(seed, class_map.name, np.arange(start, start + flat.size), "reference")
        for class_id, (best, pixels) in drawn.items():
            here = np.flatnonzero(flat == class_id)
            best, pixels = np.concatenate([best, sort_keys[here]]), np.concatenate([pixels, start + here])
            order = _smallest(best, allotted[class_id])
            drawn[class_id] = best[order], pixels[order]
    pixels = np.concatenate([pixels for _, pixels in drawn.values()])
    return pixels, np.repeat(list(drawn), [len(pixels) for _, pixels in drawn.values()])


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` smallest values, or of all."""
    return np.argpartition(values, count)[:count] if len(values) > count else np.arange(len(values))


def _stratum(class_map: ClassMap, class_id: int) -> str:
    return str(class_map.legend_file.ids[class_id])


# Points


def _check_filled(clicks: list[Click]) -> None:
    empty = [click for click in clicks if not click.class_text]
    if empty:
        raise UserError(
            f"{empty[0].where}: class is not filled in, here and at {len(empty) - 1} others of {len(clicks)} points; "
            "expected a class for each: a sample from which the hard ones are left out tells too good a story"
        )
    placed = [click for click in clicks if not click.stratum]
    if placed and len(placed) < len(clicks):
        raise UserError(
            f"{placed[0].where}: no stratum, which other points have; expected the points that were drawn and no "
            "others: what a person places is no random sample; remove the point"
        )


def _check_stratum(click: Click, class_id: int, class_map: ClassMap) -> None:
    if class_id == IGNORE:
        raise UserError(
            f"{click.where}: the map has no class at row {click.row:.10g}, col {click.col:.10g}; expected a point on "
            "the map; move or remove it"
        )
    if click.stratum and click.stratum != _stratum(class_map, class_id):
        raise UserError(
            f"{click.where}: stratum {click.stratum}, but {class_map.path} has {_stratum(class_map, class_id)} there; "
            "expected the map that the points were drawn from, and points where they were drawn"
        )


# Numbers


def _told(estimate: Estimate, most: float) -> dict[str, Any] | None:
    """An estimate of one value, for JSON; None where there is none."""
    if np.isnan(estimate.value):
        return None
    low, high = estimate.interval(most)
    values = {"value": estimate.value, "standard_error": estimate.standard_error, "low": low, "high": high}
    return {name: float(value) for name, value in values.items()}


def _by_class(names: tuple[str, ...], estimate: Estimate, most: float) -> dict[str, Any]:
    return {name: _told(Estimate(*of), most) for name, *of in zip(names, *estimate, strict=True)}


def _shown(told: dict[str, float] | None, form: str) -> str:
    return "absent" if told is None else f"{told['value']:{form}}±{NORMAL_95 * told['standard_error']:{form}}"

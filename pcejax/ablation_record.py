"""How an ablation was made, for its page: config differences, protocol, cost, command, machines, arms."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from pcejax import ablation_results, label_options, pages, writers
from pcejax.ablation_results import Arm, Results, setting
from pcejax.label_options import LabelOptions

_EQUAL = (
    *("train.num_steps", "train.batch_size", "data.crop", "data.scale", "data.anchored_share", "data.train_split"),
    *("optimizer.learning_rate", "optimizer.warmup_steps", "train.ema_decay", "inference.buffer_px"),
)
"""Fields that the protocol of a comparison is about."""


def told(results: Results) -> list[str]:
    """HTML of all that is beside the scores, from the config's differences to the arms that are not finished."""
    parts: list[str] = []
    if results.arms:
        parts += [*_labels(results.arms), *_differences(results.arms)]
        parts += [*_protocol(results), *_cost(results.about["seconds"])]
    parts += ["<h2>Command</h2>", pages.element("pre", " ".join(results.about["command"]))]
    if results.arms:
        parts += [*_machines(results.arms), *_arms(results)]
    if results.unfinished:
        rows = [[arm.name, arm.why, arm.last_line] for arm in results.unfinished]
        parts += ["<h2>Arms that are not finished</h2>", pages.table(["arm", "", "last line of its log"], rows)]
    return parts


def _labels(arms: Sequence[Arm]) -> list[str]:
    """What taught the runs of each setting, on average."""
    of_setting: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        of_setting.setdefault(setting(arm.run.levels), []).append(arm.points)
    rows = []
    for name, points in of_setting.items():
        options = label_options.label_options({field: points[0][field] for field in LabelOptions._fields})
        tiles = statistics.mean(one["num_tiles"] for one in points)
        clicks = statistics.mean(sum(one["point_counts"].values()) for one in points)
        share = statistics.mean(one["labelled_share"] for one in points)
        rows.append([name, label_options.describe(options), f"{tiles:g}", f"{clicks:g}", f"{share:.4%}"])
    heads = ["setting", "taught by", "tiles", "clicks", "labelled pixels of the tiles"]
    return ["<h2>What taught the runs</h2>", pages.table(heads, rows)]


def _differences(arms: Sequence[Arm]) -> list[str]:
    rows = []
    for field, by_level in ablation_results.differing_fields(arms).items():
        levels_of: dict[str, list[str]] = {}
        for level, seen in by_level.items():
            levels_of.setdefault(" and ".join(map(json.dumps, seen)), []).append(level)
        for index, (value, levels) in enumerate(levels_of.items()):
            rows.append(["" if index else field, value, "; ".join(levels)])
    note = "Fields of the config, seeds apart; where one axis decides a field, its levels alone are named."
    table = pages.table(["field", "value", "of"], rows) if rows else "<p>Nothing.</p>"
    return ["<h2>What differs between arms</h2>", pages.element("p", note, "note"), table]


def _protocol(results: Results) -> list[str]:
    arms, about = results.arms, results.about
    splits = f"the splits of {about['folds']} folds" if about["folds"] > 1 else f"split {arms[0].split}"
    lines = [
        f"{len(arms[0].run.matrices)} tiles of {arms[0].dataset}, {splits}, {pages.PROTOCOLS[name]} (“{name}”)."
        for name in dict.fromkeys(arm.protocol for arm in arms)
    ]
    equal = [
        f"{field} {json.dumps(arms[0].config[field])}"
        for field in _EQUAL
        if field in arms[0].config and all(arm.config.get(field) == arms[0].config[field] for arm in arms)
    ]
    lines.append(f"The factor is {about['factor']}. Equal in all arms: {', '.join(equal)}.")
    lines.append("The running mean of the parameters at the last step is scored, on whole tiles at native resolution.")
    return ["<h2>Protocol</h2>", *(pages.element("p", line) for line in lines)]


def _cost(seconds: Mapping[str, float]) -> list[str]:
    line = (
        f"An annotator's hours: {seconds['click']:g} s a click and {seconds['tile']:g} s a tile opened for points, "
        f"{seconds['mask']:g} s a full mask of a tile, as the ablation's config has them. Measured on PASCAL VOC "
        "(Bearman et al., 2016, “What's the point”): 2.4 s for a click on a class that is there and 1 s to see that "
        "one is not, so 22.1 s an image of 20 classes of which 1.5 are there; 239.7 s a full mask. A tile of land "
        "cover is no such image: your own seconds are better."
    )
    return ["<h2>Cost</h2>", pages.element("p", line)]


def _machines(arms: Sequence[Arm]) -> list[str]:
    """What the manifests have, by value; a command is of an arm's own."""
    manifests = [traverse_util.flatten_dict(arm.manifest, sep=".") for arm in arms]
    rows = []
    for field in manifests[0]:
        values = [json.dumps(manifest.get(field)) for manifest in manifests]
        if field != "command":
            rows += [[field, value.strip('"'), values.count(value)] for value in dict.fromkeys(values)]
    return ["<h2>Versions and devices</h2>", pages.table(["", "", "arms"], rows)]


def _arms(results: Results) -> list[str]:
    total = writers.format_duration(sum(results.seconds.values()))
    rows = [
        [
            arm.name,
            arm.miou,
            arm.run.annotator_hours,
            results.seconds.get(arm.name),
            arm.manifest["devices"],
        ]
        for arm in results.arms
    ]
    table = pages.table(["arm", "mIoU", "annotator's hours", "seconds", "devices"], rows, sortable=True)
    heading = f"<summary>{len(rows)} arms, {total} of machine time over all starts</summary>"
    return ["<h2>Arms</h2>", f"<details>{heading}{table}</details>"]

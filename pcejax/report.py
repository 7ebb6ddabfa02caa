"""Result files of a run -> one page that opens from disk: scores, baselines, maps, curves, config."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib.figure

from pcejax import calibration, pages, runs, writers
from pcejax.label_options import describe, label_options
from pcejax.models import summary


def build_report(workdir: Path) -> Path:
    """Writes `report/report.html` from the result files of the run in `workdir`, and returns its path."""
    evaluations = [json.loads(p.read_text()) for p in sorted((workdir / "report").glob("evaluation_*.json"))]
    config = json.loads((workdir / "config.json").read_text())
    manifest = json.loads((workdir / "manifest.json").read_text())
    model = json.loads((workdir / "model.json").read_text())
    records = writers.read_lines(workdir / "metrics.jsonl")
    parts = [pages.element("h1", workdir.resolve().name), _summary(config, manifest)]
    for result in evaluations:
        parts += [pages.element("h2", f"Split {result['split']}"), _scores(workdir, result), _maps(workdir, result)]
    if records:
        curves = pages.picture(_curves(records), "Loss, accuracy at labels and learning rate by step.")
        parts += ["<h2>Training</h2>", curves]
    parts += ["<h2>Model</h2>", _model(model)]
    parts += ["<h2>Config</h2>", pages.element("pre", json.dumps(config, indent=1))]
    parts += ["<h2>Run on</h2>", pages.element("pre", json.dumps(manifest, indent=1))]
    path = workdir / "report" / "report.html"
    pages.write(path, workdir.name, parts)
    return path


def _summary(config: dict[str, Any], manifest: dict[str, Any]) -> str:
    points, data, train = config["points"], config["data"], config["train"]
    tiles = f", {data['num_labelled_tiles']} tiles of it" if data["num_labelled_tiles"] else ""
    text = (
        f"{data['name']}, {data['train_split']}{tiles}, taught by {describe(label_options(points))} "
        f"(point seed {points['seed']}); "
        f"{train['num_steps']} steps of {train['batch_size']} crops of {data['crop']} pixels at scale {data['scale']}, "
        f"on {manifest['devices']}."
    )
    if data["name"].startswith("synthetic"):
        text += " These scenes are drawn, an instrument and a demonstration: no figure is a finding about the world."
    return pages.element("p", text)


def _model(model: dict[str, Any]) -> str:
    table = pages.table(
        ["part", "output: height x width x features", "parameters"],
        ([part["name"], " x ".join(map(str, part["shape"])), f"{part['parameters']:,}"] for part in model["parts"]),
    )
    return pages.element("p", f"{summary.describe(model)}.") + table


def _scores(workdir: Path, result: dict[str, Any]) -> str:
    low, high = result["miou_interval_over_tiles"]
    about = (
        f"{result['num_tiles']} tiles of {result['dataset']}; protocol “{result['protocol']}”: "
        f"{pages.PROTOCOLS[result['protocol']]}. mIoU {result['miou']:.3f}, 95 % interval over tiles {low:.3f} to "
        f"{high:.3f}"
        f"{' (descriptive: fewer than 20 tiles)' if result['num_tiles'] < 20 else ''}; overall accuracy "
        f"{result['overall_accuracy']:.3f}, kappa {result['kappa']:.3f}; {calibration.describe_error(result)}."
    )
    if "miou_glnet" in result:
        about += (
            f" mIoU with unknown pixels counted as GLNet does: {result['miou_glnet']:.3f}; mIoU without "
            f"the unknown class's logit: {result['miou_without_unknown_logit']:.3f}."
        )
    about += f" The run was taught by {_budget(result['points'])}."
    rows: list[tuple[str, float, dict[str, Any]]] = [("this run", result["miou"], result["iou"])]
    path = runs.baselines_path(workdir, result["split"])
    if path.exists():
        rows += [(name, scores["miou"], scores["iou"]) for name, scores in json.loads(path.read_text()).items()]
    constant = f"the commonest class of the truth everywhere ({result['majority_class']})"
    rows.append((constant, result["majority_miou"], dict.fromkeys(result["iou"], "")))
    table = pages.table(
        ["taught by the same labels", "mIoU", *(f"{name} IoU" for name in result["iou"])],
        ([name, miou, *("absent" if iou is None else iou for iou in ious.values())] for name, miou, ious in rows),
    )
    return pages.element("p", about) + table + pages.key(result["legend"])


def _budget(points: dict[str, Any]) -> str:
    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count)

    least, most = points["labels_per_tile"]
    text = (
        f"{points['labelled_share']:.4%} of its tiles' pixels, {least} to {most} a tile: {told(points['label_counts'])}"
    )
    if points["point_counts"]:
        text += f"; points clicked: {told(points['point_counts'])}"
    if points["held_out_counts"]:
        text += f"; of them held out: {told(points['held_out_counts'])}"
    if len(set(points["class_weights"].values())) > 1:
        text += "; class weights: " + ", ".join(
            f"{name} {weight:.2f}" for name, weight in points["class_weights"].items()
        )
    if points["underfull"]:
        text += f"; fewer points than the budget, on so many tiles: {told(points['underfull'])}"
    return text


def _maps(workdir: Path, result: dict[str, Any]) -> str:
    how = "uncalibrated" if result["temperature"] is None else "calibrated"
    figures = [
        pages.picture(path.read_bytes(), f"{path.stem}: image, truth, map, confidence (white is sure; {how}).")
        for path in sorted(runs.pictures_folder(workdir, result["split"]).glob("*.png"))
    ]
    return "".join(figures)


def _curves(records: list[dict[str, Any]]) -> bytes:
    figure = matplotlib.figure.Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name in zip(axes, ("loss", "accuracy", "learning_rate"), strict=True):
        shown = [record for record in records if name in record]
        axis.plot([record["step"] for record in shown], [record[name] for record in shown])
        axis.set(title=name.replace("_", " "), xlabel="step")
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    return file.getvalue()

"""Result files of a run -> one page that opens from disk: scores, baselines, maps, curves, config."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from pcejax import runs, writers
from pcejax.label_options import describe, label_options
from pcejax.models import summary

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #8886; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #777; }
figure { margin: 1rem 0; }
.key > span { margin-right: 1rem; white-space: nowrap; }
.color { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; border: 1px solid #888; }
pre { overflow-x: auto; background: #8882; padding: 1rem; }
"""


def build_report(workdir: Path) -> Path:
    """Writes `report/report.html` from the result files of the run in `workdir`, and returns its path."""
    evaluations = [json.loads(p.read_text()) for p in sorted((workdir / "report").glob("evaluation_*.json"))]
    config = json.loads((workdir / "config.json").read_text())
    manifest = json.loads((workdir / "manifest.json").read_text())
    model = json.loads((workdir / "model.json").read_text())
    records = writers.read_lines(workdir / "metrics.jsonl")
    parts = [f"<h1>{html.escape(workdir.resolve().name)}</h1>", _summary(config, manifest)]
    for result in evaluations:
        parts += [f"<h2>Split {html.escape(result['split'])}</h2>", _scores(workdir, result), _maps(workdir, result)]
    if records:
        parts += ["<h2>Training</h2>", _figure(_curves(records), "Loss, accuracy at labels and learning rate by step.")]
    parts += ["<h2>Model</h2>", _model(model)]
    parts += ["<h2>Config</h2>", f"<pre>{html.escape(json.dumps(config, indent=1))}</pre>"]
    parts += ["<h2>Run on</h2>", f"<pre>{html.escape(json.dumps(manifest, indent=1))}</pre>"]
    path = workdir / "report" / "report.html"
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(workdir.name)}</title>"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{page}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n", encoding="utf-8")
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
    return f"<p>{html.escape(text)}</p>"


def _model(model: dict[str, Any]) -> str:
    table = _table(
        ["part", "output: height x width x features", "parameters"],
        ([part["name"], " x ".join(map(str, part["shape"])), f"{part['parameters']:,}"] for part in model["parts"]),
    )
    return f"<p>{html.escape(summary.describe(model))}.</p>{table}"


def _scores(workdir: Path, result: dict[str, Any]) -> str:
    low, high = result["miou_interval_over_tiles"]
    protocols = {
        "across": "no tile of it taught the run",
        "within": "the tiles that taught the run, less their labels and a buffer around them",
        "fit": "the tiles whose dense masks taught the run: no test of anything",
    }
    about = (
        f"{result['num_tiles']} tiles of {result['dataset']}; protocol “{result['protocol']}”: "
        f"{protocols[result['protocol']]}. mIoU {result['miou']:.3f}, 95 % interval over tiles {low:.3f} to {high:.3f}"
        f"{' (descriptive: fewer than 20 tiles)' if result['num_tiles'] < 20 else ''}; overall accuracy "
        f"{result['overall_accuracy']:.3f}, kappa {result['kappa']:.3f}."
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
    rows.append(
        (f"the commonest class of the truth everywhere ({result['majority_class']})", result["majority_miou"], {})
    )
    table = _table(
        ["taught by the same labels", "mIoU", *(f"{name} IoU" for name in result["iou"])],
        ([name, miou, *("absent" if iou is None else iou for iou in ious.values())] for name, miou, ious in rows),
    )
    return f"<p>{html.escape(about)}</p>{table}{_key(result['legend'])}"


def _key(legend: dict[str, Any]) -> str:
    """The colours of the maps."""
    swatches = (
        f"<span><span class='color' style='background:rgb({r},{g},{b})'></span>{html.escape(name)}</span>"
        for name, (r, g, b) in zip(legend["names"], legend["colors"], strict=True)
    )
    return f"<p class='key'>{' '.join(swatches)}</p>"


def _budget(points: dict[str, Any]) -> str:
    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count)

    least, most = points["labels_per_tile"]
    text = (
        f"{points['labelled_share']:.4%} of its tiles' pixels, {least} to {most} a tile: {told(points['label_counts'])}"
    )
    if points["point_counts"]:
        text += f"; points clicked: {told(points['point_counts'])}"
    if len(set(points["class_weights"].values())) > 1:
        text += "; class weights: " + ", ".join(
            f"{name} {weight:.2f}" for name, weight in points["class_weights"].items()
        )
    if points["underfull"]:
        text += f"; fewer points than the budget, on so many tiles: {told(points['underfull'])}"
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))

    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _maps(workdir: Path, result: dict[str, Any]) -> str:
    figures = [
        _figure(path.read_bytes(), f"{path.stem}: image, truth, map, confidence (white is sure).")
        for path in sorted(runs.pictures_folder(workdir, result["split"]).glob("*.png"))
    ]
    return "".join(figures)


def _figure(png: bytes, caption: str) -> str:
    source = base64.b64encode(png).decode()
    text = html.escape(caption)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{source}'><figcaption>{text}</figcaption></figure>"


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

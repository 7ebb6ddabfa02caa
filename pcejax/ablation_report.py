"""An ablation's result files -> summary.csv, summary.json, figures, and one page: question, answer, and what bears it.

All of it is made anew from the files of results alone.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcejax import ablation_examples, ablation_figures, ablation_record, ablation_results, drawing, pages, writers
from pcejax.ablation_results import FIT, Arm, Results, setting
from pcejax.ablation_statistics import MIN_TILES, summarise
from pcejax.legend import Legend

_INTERVAL = "95 % interval"
_SIGNED = "+z.3f"  # no -0.000
_NO_TEST = "taught by these pixels: no test"


def write_report(workdir: Path) -> Path:
    """Writes what an ablation's workdir tells so far, and returns the path of its page, `report.html`.

    Arms whose protocol is "fit" stand in the table, marked as no test, and in nothing else: no interval, no
    difference, no retention and no curve is of them.

    Raises:
      UserError: there is no ablation, or its results do not fit; see `ablation_results.read`.
    """
    results = ablation_results.read(workdir)
    about, tested = results.about, [arm for arm in results.arms if arm.protocol != FIT]
    parts = _opening(results)
    if tested and results.legend:
        summary = _summary(tested, about, results.legend)
        fits = _fits([arm for arm in results.arms if arm.protocol == FIT], about, results.legend)
        writers.write_json(workdir / "summary.json", _as_json(summary | {"fits": fits}))
        rows = _rows(summary["settings"], fits, about)
        _write_csv(workdir / "summary.csv", rows)
        drawn = ablation_figures.draw(about, tested, summary)
        parts += [*_answer(summary), *_tables(rows, results.legend), *_baselines(results.baselines)]
        parts += _saturation(summary)
        parts += _figures(workdir / "figures", drawn)
        parts += ablation_examples.grid(results)
    else:
        parts.append("<p>No arm is scored yet on pixels that did not teach it.</p>")
    parts += ablation_record.told(results)
    path = workdir / "report.html"
    pages.write(path, about["title"], parts, sorts=True)
    return path


def _opening(results: Results) -> list[str]:
    about, missing = results.about, len(results.unfinished)
    parts = [pages.element("h1", about["title"])]
    if about["watermark"]:
        parts.append(pages.element("p", f"{about['watermark']}: no figure here is a finding.", "notice"))
    parts.append(pages.element("p", about["question"]))
    if missing:
        told = f"Not finished: {missing} of {len(about['arms'])} arms, which are listed at the end; all else is without"
        parts.append(pages.element("p", f"{told} them.", "notice"))
    return parts


def _summary(arms: Sequence[Arm], about: dict[str, Any], legend: Legend) -> dict[str, Any]:
    return summarise(
        [arm.run for arm in arms],
        about["axes"],
        legend.names[: legend.num_known],
        budget_axis=about["budget_axis"],
        budgets=about["budgets"],
        references=about["references"],
        differences=about["differences"],
    )


def _fits(arms: Sequence[Arm], about: dict[str, Any], legend: Legend) -> list[dict[str, Any]]:
    """The settings of arms that test nothing: scores alone."""
    if not arms:
        return []
    settings = _summary(arms, about | {"references": {}, "differences": []}, legend)["settings"]
    return [one | {"interval": None, "iou_interval": {}, "resampled": []} for one in settings]


def _as_json(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _answer(summary: dict[str, Any]) -> list[str]:
    asked = summary["differences"]
    parts = ["<h2>Answer</h2>"]
    if summary["descriptive"]:
        told = (
            f"Descriptive: {summary['tiles']} tiles are scored, fewer than {MIN_TILES}. Intervals over so few tell "
            "little, and no claim is made."
        )
        parts.append(pages.element("p", told, "notice"))
    if not asked:
        return [*parts, "<p>No difference was asked for, or its arms are not finished.</p>"]
    claimed = sum(one["claim"] for one in asked)
    told = (
        f"Claimed: {claimed} of {len(asked)} differences that were asked for. A claim takes an interval without 0, "
        f"{MIN_TILES} scored tiles and more than one seed. The intervals are not widened for being {len(asked)}: where "
        f"nothing differs, {len(asked) * (1 - summary['level']):.2g} claims are to be expected."
    )
    heads = ["setting minus setting", "difference in mIoU", _INTERVAL, "interval over", "pairs", "said"]
    rows = [
        [
            ablation_figures.difference_name(one),
            _signed(one["difference"]),
            _interval(one["interval"], _SIGNED),
            ", ".join(one["resampled"]),
            one["pairs"],
            _said(one, summary),
        ]
        for one in asked
    ]
    parts += [pages.element("p", told), pages.table(heads, rows)]
    if summary["descriptive"]:
        tiles = list(dict.fromkeys(tile for one in asked for tile in one["tiles"]))
        heads = ["tile", *map(ablation_figures.difference_name, asked)]
        rows = [[tile, *(_signed(one["tiles"].get(tile)) for one in asked)] for tile in tiles]
        parts += ["<h3>Differences of each tile</h3>", pages.table(heads, rows, sortable=True)]
    return parts


def _said(difference: dict[str, Any], summary: dict[str, Any]) -> str:
    if difference["claim"]:
        return "claim: higher" if difference["difference"] > 0 else "claim: lower"
    if summary["descriptive"]:
        return f"no claim: fewer than {MIN_TILES} tiles"
    if not difference["interval"]:
        return "no claim: no interval"
    low, high = difference["interval"]
    return "no claim: the interval holds 0" if low <= 0 <= high else "no claim: one seed"


def _interval(interval: Sequence[float | None] | None, form: str = ".3f") -> str | None:
    return f"{interval[0]:{form}} to {interval[1]:{form}}" if interval and None not in interval else None


def _signed(value: float | None) -> str | None:
    return None if value is None or math.isnan(value) else f"{value:{_SIGNED}}"


def _saturation(summary: dict[str, Any]) -> list[str]:
    fitted = [one for one in summary["saturation"] if one["limit"] is not None]
    if not fitted:
        return []
    told = (
        "A curve that levels off is fitted to the mIoU over the budget. Its limit is its own, not that of dense masks; "
        "beside it are the budgets at which it comes to 90 and 95 % of that limit, with their intervals."
    )
    rows = [
        [
            setting(one["held"]) or "all",
            one["limit"],
            _interval(one["limit_interval"]),
            *(_budget(one["budgets"][share]) for share in ("0.90", "0.95")),
        ]
        for one in fitted
    ]
    heads = ["curve", "limit", _INTERVAL, "90 % at", "95 % at"]
    return ["<h2>Where the curve levels off</h2>", pages.element("p", told), pages.table(heads, rows)]


def _budget(found: dict[str, Any]) -> str:
    told = f"{found['budget']:.3g}" if found["reached"] else ""
    told += f" ({_interval(found['interval'], '.3g')})" if found["interval"] else ""
    return "; ".join(part for part in (told, found["note"]) if part)


def _rows(
    settings: Sequence[dict[str, Any]], fits: Sequence[dict[str, Any]], about: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each setting, by column: those that were tested, then the fits."""
    rows = []
    for found, fit in [*((one, False) for one in settings), *((one, True) for one in fits)]:
        low, high = found["interval"] or (None, None)
        row = found["levels"] | {"mIoU": found["miou"], "low": low, "high": high}
        row |= {"over": ", ".join(found["resampled"])}
        row |= {"runs": found["runs"], "seeds": found["seeds"], "draws": found["point_seeds"]}
        row |= {"SD over seeds": found["sd_seeds"], "SD over draws": found["sd_point_seeds"]}
        row |= {f"of {name}": found["retention"][name] for name in about["references"]}
        row |= {"hours": found["annotator_hours"], "note": _NO_TEST if fit else ""}
        rows.append(row | {f"IoU {name}": value for name, value in found["iou"].items()})
    return rows


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(_as_json(list(rows)))
    partial.replace(path)


def _tables(rows: Sequence[dict[str, Any]], legend: Legend) -> list[str]:
    classes = [f"IoU {name}" for name in legend.names[: legend.num_known]]
    axes = list(itertools.takewhile(lambda name: name != "mIoU", rows[0]))
    marks = ["note"] if any(row["note"] for row in rows) else []
    rest = [name for name in rows[0] if name not in (*axes, "mIoU", "low", "high", "over", "note", *classes)]
    first = [*axes, *marks, "mIoU", _INTERVAL, *rest]
    shown = [row | {_INTERVAL: _interval((row["low"], row["high"]))} for row in rows]
    told = (
        "Of whole tiles, absolute. Draws are of points. SD: standard deviation over seeds with the points held, and "
        "over draws with the seed held. Hours are an annotator's."
    )
    if any(name.startswith("of dense") for name in rest):
        told += " “of dense”: the share of that reference's mIoU, a description and no claim."
    told += " A click on a head sorts."
    return [
        "<h2>mIoU of each setting</h2>",
        pages.element("p", told, "note"),
        pages.table(first, ([row[name] for name in first] for row in shown), sortable=True),
        "<h2>IoU of each class</h2>",
        pages.table([*axes, *classes], ([row[name] for name in (*axes, *classes)] for row in rows), sortable=True),
    ]


def _baselines(lines: Sequence[dict[str, Any]]) -> list[str]:
    groups: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        groups.setdefault((line["baseline"], line["level"]), []).append(line["miou"])
    if not groups:
        return []
    rows = [
        [*names, len(scores), float(np.mean(scores)), *(float(q) for q in np.quantile(scores, (0.05, 0.5, 0.95)))]
        for names, scores in groups.items()
    ]
    told = "What the same points teach otherwise, over draws of them: the mean and three quantiles."
    heads = ["baseline", "points", "draws", "mIoU", "5 %", "50 %", "95 %"]
    return ["<h2>Baselines</h2>", pages.element("p", told, "note"), pages.table(heads, rows, sortable=True)]


def _figures(folder: Path, drawn: dict[str, drawing.Drawn]) -> list[str]:
    parts = ["<h2>Figures</h2>"]
    for name, (figure, caption) in drawn.items():
        drawing.save(figure, folder / name)
        parts.append(pages.picture((folder / f"{name}.svg").read_bytes(), caption, "svg+xml"))
    return parts

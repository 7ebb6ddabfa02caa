"""Pages that open from disk: one file with its style, its tables and its pictures, and nothing fetched."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PROTOCOLS = {
    "across": "no tile of it taught the run",
    "within": "the tiles that taught the run, less their labels and a buffer around them",
    "fit": "the tiles whose dense masks taught the run: no test of anything",
}
"""What the tiles of a score are to the run, in words."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }
th { vertical-align: bottom; }
.number { text-align: right; }
td.number, .sorts td { white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
th button { font: inherit; color: inherit; text-align: inherit; background: none; border: 0; padding: 0; }
th button::after { content: "\\a0\\2195"; opacity: .4; }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; opacity: 1; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: light-dark(#666, #999); }
figure { margin: 1rem 0; }
.notice { border-left: 4px solid #d55e00; background: #d55e0018; padding: .5rem 1rem; }
.key > span { margin-right: 1rem; white-space: nowrap; }
.color { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; border: 1px solid #888; }
.row { display: flex; flex-wrap: wrap; gap: .75rem; }
.row figure { width: 9.5rem; margin: 0 0 .75rem; font-size: .875rem; line-height: 1.3; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #8882; padding: 1rem; }
"""

# A click on a head, or Enter on it, sorts its table's rows: numbers by value, what is no number below them.
_SORTING = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, table = head.closest("table"), heads = [...head.parentElement.children];
  const descending = head.getAttribute("aria-sort") !== "descending";
  const value = row => row.children[head.cellIndex].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    if (isNaN(p) || isNaN(q)) return isNaN(p) && isNaN(q) ? x.localeCompare(y) : isNaN(p) - isNaN(q);
    return descending ? q - p : p - q;
  };
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
});
"""


def write(path: Path, title: str, parts: Iterable[str], *, sorts: bool = False) -> None:
    """Writes a page of HTML `parts`; with `sorts`, its sortable tables' heads sort them."""
    script = f"<script>{_SORTING}</script>" if sorts else ""
    # The browser itself holds the page to it: whatever it would fetch is an error in its console.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{html.escape(title)}</title>'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}<style>{_STYLE}</style><body>{''.join(parts)}{script}</body></html>\n", encoding="utf-8")


def element(tag: str, words: str, kind: str = "") -> str:
    """An element of `words`, which are text and never markup, of the class `kind`, if any."""
    return f"<{tag}{f' class={kind!r}' if kind else ''}>{html.escape(words)}</{tag}>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, sortable: bool = False) -> str:
    """A table; its rows are as long as its head. A float has three decimals, None is a dash.

    The heads of a `sortable` one are buttons.
    """

    rows = list(rows)
    # A column of numbers, or of what begins as numbers do, stands to the right.
    aligns = [
        " class='number'" if all(re.match(r"[-+]?\d|–?$", _told(row[column])) for row in rows) else ""
        for column in range(len(head))
    ]

    def line(row: Sequence[Any]) -> str:
        keys = [f" data-value='{html.escape(str(value))}'" if sortable else "" for value in row]
        cells = zip(aligns, keys, row, strict=True)
        return (
            "<tr>" + "".join(f"<td{how}{key}>{html.escape(_told(value))}</td>" for how, key, value in cells) + "</tr>"
        )

    names = [f"<button>{html.escape(name)}</button>" if sortable else html.escape(name) for name in head]
    heads = "".join(f"<th scope='col'{how}>{name}</th>" for how, name in zip(aligns, names, strict=True))
    kind = " class='sorts'" if sortable else ""
    lines = "".join(map(line, rows))
    return f"<div class='scroll'><table{kind}><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"


def _told(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def picture(data: bytes, caption: str, kind: str = "png") -> str:
    """A picture ("png" or "svg+xml") inside the page, with its caption."""
    source, words = base64.b64encode(data).decode(), html.escape(caption)
    return (
        f"<figure><img alt='{words}' src='data:image/{kind};base64,{source}'><figcaption>{words}</figcaption></figure>"
    )


def key(legend: dict[str, Any]) -> str:
    """The colours of maps, of a legend as JSON types."""
    swatches = (
        f"<span><span class='color' style='background:rgb({r},{g},{b})'></span>{html.escape(name)}</span>"
        for name, (r, g, b) in zip(legend["names"], legend["colors"], strict=True)
    )
    return f"<p class='key'>{' '.join(swatches)}</p>"

"""An ablation's page in a real browser, which takes some ten seconds: scripts/test.sh -m browser

It needs Chromium (apt-get install chromium), and looks for it on the PATH.
"""

import html
import json
import re
import shutil
import subprocess

import ablations_for_tests as made_up
import pytest

from pcejax import ablation_report

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Runs after the page's own script: looks at what the browser made of the page, and clicks.
LOOK = """
const headed = name => [...document.querySelectorAll("th button")].find(one => one.textContent === name).parentElement;
const column = name => {
  const head = headed(name);
  return [...head.closest("table").tBodies[0].rows].map(row => row.cells[head.cellIndex].textContent);
};
const click = name => {
  headed(name).querySelector("button").click();
  return [column(name), column("points"), headed(name).getAttribute("aria-sort")];
};
addEventListener("load", () => {
  const button = document.querySelector("th button");
  button.focus();
  const seen = {
    widths: [...document.images].map(image => image.naturalWidth),
    focused: document.activeElement === button,
    before: [column("mIoU"), column("points")],
    once: click("mIoU"),
    twice: click("mIoU"),
    levels: click("points"),
  };
  const told = document.createElement("script");
  told.type = "application/json";
  told.id = "seen";
  told.textContent = JSON.stringify(seen);
  document.body.append(told);
});
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return made_up.point_sparsity(tmp_path_factory.mktemp("browser"), (1, 3, 10), tiles=3, pictured=2)


def open_page(path, profile):
    """What `LOOK` saw of the page, and the lines of the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    copy = path.with_name("looked_at.html")
    copy.write_text(path.read_text().replace("</body>", f"<script>{LOOK}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = re.search('<script type="application/json" id="seen">(.*?)</script>', done.stdout, re.S)
    assert seen, done.stderr
    return json.loads(html.unescape(seen[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def opened(workdir, tmp_path_factory):
    return open_page(ablation_report.write_report(workdir), tmp_path_factory.mktemp("profile"))


def test_the_console_tells_of_no_error(opened):
    assert opened[1] == []


def test_an_error_would_be_seen(tmp_path):
    page = "<html><body><table><thead><tr><th><button>mIoU</button></th><th><button>points</button></th></tr></thead>"
    (tmp_path / "page.html").write_text(f"{page}<tbody></tbody></table><script>nothing.at.all</script></body></html>")
    _, console = open_page(tmp_path / "page.html", tmp_path / "profile")
    assert "nothing is not defined" in console[0]


def test_figures_and_maps_are_there(opened, workdir):
    widths = opened[0]["widths"]
    assert len(widths) == len(list((workdir / "figures").glob("*.svg"))) + 2 * (2 + 5)
    assert min(widths) > 0


def test_a_click_on_a_head_sorts_by_value_and_again_the_other_way(opened):
    seen = opened[0]
    scores, points = seen["before"]
    pairs = sorted(zip(map(float, scores), points, strict=True), reverse=True)
    assert points == ["1", "3", "10", "dense", "dense_balanced"]
    for key, expected, direction in (("once", pairs, "descending"), ("twice", pairs[::-1], "ascending")):
        sorted_scores, sorted_points, told = seen[key]
        assert list(zip(map(float, sorted_scores), sorted_points, strict=True)) == expected
        assert told == direction


def test_levels_sort_as_numbers_with_words_below_them(opened):
    assert opened[0]["levels"][1] == ["10", "3", "1", "dense", "dense_balanced"]


def test_heads_are_reached_by_the_keyboard(opened):
    assert opened[0]["focused"]

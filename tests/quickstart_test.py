"""What a newcomer gets from scripts/quickstart.sh: run it first, then scripts/test.sh -m quickstart."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcejax import baselines
from pcejax.legend import DEEPGLOBE, decode_mask

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs" / "quickstart"
COLOUR, TEXTURE, LINEAR = baselines.BASELINES

pytestmark = pytest.mark.quickstart


def result_file(name):
    path = RUN / name
    if not path.exists():
        pytest.fail(f"{path} is not there; run scripts/quickstart.sh first, which takes minutes", pytrace=False)
    return path


def result(name):
    return json.loads(result_file(f"report/{name}_test.json").read_text())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_map_of_unseen_scenes_is_good():
    scores = result("evaluation")
    assert scores["protocol"] == "across"
    assert scores["num_tiles"] >= 4
    assert scores["miou"] >= 0.55


@pytest.mark.parametrize(("name", "margin"), [(COLOUR, 0.20), (TEXTURE, 0.10)], ids=["colour", "texture"])
def test_the_network_beats_what_the_same_points_teach_trees(name, margin):
    assert result("evaluation")["miou"] >= result("baselines")[name]["miou"] + margin


def test_every_image_has_its_three_maps():
    images = sorted((ROOT / "data" / "images" / "unlabelled").iterdir())
    assert len(images) == 4
    for image in images:
        classes, mask, overlay = (
            pixels(result_file(f"maps/{image.stem}_{name}")) for name in ("classes.png", "mask.png", "overlay.jpg")
        )
        assert mask.shape == overlay.shape == pixels(image).shape
        np.testing.assert_array_equal(decode_mask(mask, DEEPGLOBE, image.stem), classes)
        assert overlay.max() > 0


def test_the_page_shows_scores_baselines_and_maps():
    page = result_file("report/report.html").read_text(encoding="utf-8")
    for scores in (result("evaluation"), *result("baselines").values()):
        assert f"{scores['miou']:.3f}" in page
    assert page.count("data:image/png;base64,") >= 4


def test_a_second_start_says_that_the_work_is_done():
    done = result_file("maps/.done").stat().st_mtime_ns
    again = subprocess.run(
        ["bash", ROOT / "scripts" / "quickstart.sh"], capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "done already" in again.stdout
    assert "train: steps" not in again.stdout
    assert result_file("maps/.done").stat().st_mtime_ns == done

import re

import ablations_for_tests as made_up
import numpy as np
import pytest
from pages_for_tests import Page
from PIL import Image

from pcejax import ablation_examples, ablation_results, metrics, pages, pictures, runs


@pytest.fixture
def workdir(tmp_path):
    return made_up.point_sparsity(
        tmp_path / "made", (1, 3), seeds=3, draws=1, tiles=5, pictured=5, references=("dense",)
    )


def page_of(tmp_path, results):
    pages.write(tmp_path / "page.html", "", ablation_examples.grid(results))
    return Page(tmp_path / "page.html")


def sheet_of(workdir, arm, tile):
    return Image.open(runs.pictures_folder(workdir / "arms" / arm, "validation") / f"{tile}.png")


def test_the_same_tile_is_shown_for_every_setting_by_its_median_run(tmp_path, workdir):
    results = ablation_results.read(workdir)
    page = page_of(tmp_path, results)
    tiles = ["tile_00", "tile_01", "tile_02"]
    assert re.findall(r"tile_\d+", page.text) == tiles
    assert len(page.captions) == len(page.images) == 3 * 5
    medians = [sorted(results.arms[i : i + 3], key=lambda arm: arm.miou)[1] for i in (0, 3, 6)]
    for place, tile in enumerate(tiles):
        shown = page.images[5 * place : 5 * place + 5]
        expected = [pictures.panel(sheet_of(workdir, medians[0].name, tile), index) for index in (0, 1)]
        expected += [pictures.panel(sheet_of(workdir, arm.name, tile), 2) for arm in medians]
        for one, other in zip(shown, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(one.convert("RGB")), np.asarray(other))
        scores = [f"{metrics.miou(arm.run.matrices[tile], 3):.2f}" for arm in medians]
        maps = [f"{level}: {score}" for level, score in zip(("1", "3", "dense"), scores, strict=True)]
        assert page.captions[5 * place : 5 * place + 5] == ["image", "truth", *maps]


def test_only_tiles_that_all_settings_have_are_shown(tmp_path, workdir):
    for arm in ablation_results.read(workdir).arms[:3]:
        for name in ("tile_00", "tile_03"):
            (runs.pictures_folder(arm.workdir, "validation") / f"{name}.png").unlink()
    text = page_of(tmp_path, ablation_results.read(workdir)).text
    assert re.findall(r"tile_\d+", text) == ["tile_01", "tile_02", "tile_04"]


def test_without_pictures_there_is_no_chapter(workdir):
    for path in workdir.glob("arms/*/report/maps_*/*.png"):
        path.unlink()
    assert ablation_examples.grid(ablation_results.read(workdir)) == []


def test_maps_of_a_fit_are_marked(tmp_path, workdir):
    for arm in ablation_results.read(workdir).arms[6:]:
        made_up.edit(runs.evaluation_path(arm.workdir, "validation"), protocol="fit")
    page = page_of(tmp_path, ablation_results.read(workdir))
    marked = [caption.split(":")[0] for caption in page.captions if caption.endswith(", taught by these pixels")]
    assert marked == ["dense"] * 3

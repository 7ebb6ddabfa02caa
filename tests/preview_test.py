import numpy as np
import pytest
from cached_features_test import recipe
from PIL import Image
from runs_for_tests import config_of, prepare

from pcejax import datasets, point_files, preview, tiles
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    prepare(folder)
    return folder


def test_the_sheet_shows_each_crop_with_its_labels_and_its_view(data_dir, tmp_path):
    config = config_of(data_dir, **{"data.anchored_share": 1.0})
    preview.draw_sheet(config, tmp_path / "a.png")
    preview.draw_sheet(config, tmp_path / "b.png")
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(sheet, np.asarray(Image.open(tmp_path / "b.png")))
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert len(colors & set(DEEPGLOBE.colors[: DEEPGLOBE.num_known])) >= 3
    preview.draw_sheet(config_of(data_dir, **{"augment.brightness": 2.0}), tmp_path / "c.png")
    assert (sheet != np.asarray(Image.open(tmp_path / "c.png"))).mean() > 0.1


@pytest.mark.parametrize("crop", [48, 128])
def test_where_pixels_are_seen_through_windows_the_sheet_shows_these(data_dir, tmp_path, monkeypatch, crop):
    """Windows of half of a tile, and one that is larger than a tile."""
    cut, drawn = tiles.cut_on_host, []
    monkeypatch.setattr(tiles, "cut_on_host", lambda *args: drawn.append((args[1], cut(*args))) or drawn[-1][1])
    config = recipe(data_dir, **{"data.crop": crop})
    preview.draw_sheet(config, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    (plan, batch), run = drawn[0], tiles.load(config)
    assert len(plan) == preview.CROPS
    assert (batch.label != IGNORE).any((1, 2)).all()
    if crop == 128:  # of a tile of 96 pixels
        assert (plan[:, 1:3] == 0).all()
        for (tile, *_), image, label in zip(plan, batch.image, batch.label, strict=True):
            np.testing.assert_array_equal(image[:96, :96], run.images[tile])
            np.testing.assert_array_equal(image[96:, :96], run.images[tile][:-33:-1])
            np.testing.assert_array_equal(label[:96, :96], run.labels[tile])
            assert (label[96:] == IGNORE).all()
    else:
        assert {*plan[:, 1:3].flat} == {0, 24, 48}


def test_what_a_run_of_pixels_would_be_refused_for_is_told(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"model.frozen_stages=1 with data.cached_views=3; expected 2"):
        preview.draw_sheet(recipe(data_dir, **{"model.frozen_stages": 1}), tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["csv", "geojson", "gpkg"])
def test_the_points_on_file_are_those_that_teach_the_run(data_dir, tmp_path, suffix):
    config, path = config_of(data_dir), tmp_path / f"points.{suffix}"
    count = preview.write_points(config, path)
    builder = datasets.open_dataset(config.data.name, config.data.data_dir)
    drawn = point_files.read_points(path, datasets.frames_of(builder), DEEPGLOBE, config.points.seed)
    assert count == sum(len(points.row) for points in drawn.values())
    by_file = config_of(data_dir, **{"points.annotator": "file", "points.file": str(path)})
    assert tiles.load(by_file).hash() == tiles.load(config).hash()


def test_annotators_without_points_have_none_to_write(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"points.annotator='scribble' clicks no points"):
        preview.write_points(config_of(data_dir, **{"points.annotator": "scribble"}), tmp_path / "points.csv")

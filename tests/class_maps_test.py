import math
import re

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from pcejax import class_maps
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import DEEPGLOBE, IGNORE, encode_mask

UTM = (10.0, 0.0, 342170.0, 0.0, -10.0, 3836350.0)
LEGEND = """
classes:
  - {name: building, id: 10, color: [255, 0, 0]}
  - {name: other, id: 100, color: [0, 0, 0]}
  - {name: field, id: 50, color: [255, 255, 0]}
unknown: other
ignore: [0]
"""


def random_ids(num=7, shape=(37, 23), seed=0):
    return np.random.default_rng(seed).integers(0, num, shape, np.uint8)


def write_tiff(path, ids, palette=None, **profile):
    profile = {"crs": "EPSG:32652", "transform": Affine(*UTM), **profile}
    bands = ids[None] if ids.ndim == 2 else np.moveaxis(ids, -1, 0)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=ids.dtype, **profile
    ) as file:
        file.write(bands)
        if palette:
            file.write_colormap(1, palette)
    return path


def read(path, legend=None):
    found = class_maps.open_map(path, legend)
    rows = list(class_maps.strips(found))
    assert [first for first, _ in rows] == np.cumsum([0, *(len(ids) for _, ids in rows[:-1])]).tolist()
    ids = np.concatenate([ids for _, ids in rows])
    assert ids.dtype == np.uint8
    assert ids.shape == (found.frame.height, found.frame.width)
    return ids


def known(ids):
    return np.where(ids == 6, IGNORE, ids)


def save(image, path, palette=None):
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(path)
    return path


@pytest.fixture
def legend(tmp_path):
    (tmp_path / "legend.yaml").write_text(LEGEND)
    return tmp_path / "legend.yaml"


# What a map says


@pytest.mark.parametrize("strip_pixels", [1, 200, 10**6])
def test_a_map_is_read_alike_in_every_form_and_strip(tmp_path, monkeypatch, strip_pixels):
    monkeypatch.setattr(class_maps, "_STRIP_PIXELS", strip_pixels)
    ids = random_ids()
    colors = encode_mask(ids, DEEPGLOBE)
    palette = {i: (*color, 255) for i, color in enumerate(DEEPGLOBE.colors)}
    for path in (
        save(Image.fromarray(ids), tmp_path / "ids.png"),
        save(Image.fromarray(ids), tmp_path / "palette.png", DEEPGLOBE.palette),
        save(Image.fromarray(colors), tmp_path / "colors.png"),
        write_tiff(tmp_path / "ids.tif", ids),
        write_tiff(tmp_path / "wide.tif", ids.astype(np.int16)),
        write_tiff(tmp_path / "colors.tif", colors),
        write_tiff(tmp_path / "palette.tif", ids, palette),
    ):
        np.testing.assert_array_equal(read(path), known(ids), err_msg=path.name)


def test_where_a_map_lies_is_its_files(tmp_path):
    found = class_maps.open_map(write_tiff(tmp_path / "a.b.tif", random_ids()), None)
    assert found.frame == Frame(37, 23, UTM, "EPSG:32652")
    assert found.name == "a.b"
    found = class_maps.open_map(save(Image.fromarray(random_ids()), tmp_path / "plain.png"), None)
    assert found.frame == Frame(37, 23)


def test_numbers_are_those_of_the_legend_file_and_colours_come_before_them(tmp_path, legend):
    ids = random_ids(3)
    expected = np.array([0, 1, IGNORE], np.uint8)[ids]
    numbers = np.array([10, 50, 100], np.uint8)[ids]
    np.testing.assert_array_equal(read(write_tiff(tmp_path / "ids.tif", numbers), legend), expected)
    colors = np.array([(255, 0, 0), (255, 255, 0), (0, 0, 0)], np.uint8)
    # As `predict` writes it: the numbers are not those of the file.
    np.testing.assert_array_equal(read(save(Image.fromarray(ids), tmp_path / "map.png", colors), legend), expected)
    palette = {i: (*map(int, color), 255) for i, color in enumerate(colors)}
    np.testing.assert_array_equal(read(write_tiff(tmp_path / "map.tif", ids, palette), legend), expected)


def test_where_there_are_no_data_there_is_no_class(tmp_path, legend):
    ids = random_ids(2)
    numbers = np.array([10, 50], np.uint8)[ids]
    numbers[3:9, 4:8] = 200
    numbers[20, 3] = 0  # `ignore`
    expected = np.where(numbers == 200, IGNORE, ids)
    expected[20, 3] = IGNORE
    np.testing.assert_array_equal(read(write_tiff(tmp_path / "a.tif", numbers, nodata=200), legend), expected)
    numbers[20, 3], expected[20, 3] = 10, 0
    palette = {10: (255, 0, 0, 255), 50: (255, 255, 0, 255), 200: (1, 2, 3, 255)}
    np.testing.assert_array_equal(read(write_tiff(tmp_path / "b.tif", numbers, palette, nodata=200), legend), expected)
    colors = np.array([(255, 0, 0, 255), (255, 255, 0, 255), (1, 2, 3, 0)], np.uint8)
    clear = colors[np.where(expected == IGNORE, 2, expected)]
    np.testing.assert_array_equal(read(save(Image.fromarray(clear), tmp_path / "b.png"), legend), expected)


# Areas


@pytest.mark.parametrize(
    ("crs", "transform", "hectares"),
    [
        ("EPSG:32652", UTM, 0.01),
        ("EPSG:32652", (3.0, 4.0, 342170.0, 4.0, -3.0, 3836350.0), 0.0025),  # turned
        ("EPSG:6933", (30.0, 0.0, 1e6, 0.0, -30.0, 6e6), 0.09),
        ("EPSG:5070", (30.0, 0.0, 1e6, 0.0, -30.0, 2e6), 0.09),
        ("EPSG:2263", (10.0, 0.0, 9.9e5, 0.0, -10.0, 2e5), 100 * (1200 / 3937) ** 2 / 1e4),  # feet
        ("EPSG:3857", (10.0, 0.0, 0.0, 0.0, -10.0, 500.0), 0.01),  # at the equator
    ],
)
def test_a_pixel_has_the_area_of_its_sides(crs, transform, hectares):
    got, why_not = class_maps.hectares_of_a_pixel(Frame(500, 400, transform, crs))
    assert got == pytest.approx(hectares, rel=1e-9)
    assert why_not == ""


def test_the_true_area_is_that_of_equal_area_projections():
    for crs, x, y in (("EPSG:6933", 1e6, 6e6), ("EPSG:6933", -9e6, -2e6), ("EPSG:3035", 4.5e6, 3.1e6)):
        area = class_maps._true_area(rasterio.crs.CRS.from_user_input(crs), x, y)
        assert area == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (Frame(50, 40), "the map is not georeferenced"),
        (Frame(50, 40, UTM), "the map is not georeferenced"),
        (Frame(50, 40, (1e-4, 0.0, 127.3, 0.0, -1e-4, 34.65), "EPSG:4326"), "EPSG:4326 is not metric; reproject"),
        # 60 degrees north: the scale is 2, that of areas 4.
        (
            Frame(50, 40, (10.0, 0.0, 0.0, 0.0, -10.0, 8399737.0), "EPSG:3857"),
            r"EPSG:3857 shows areas (3.9\d|4.0\d) times",
        ),
        (Frame(50, 40, (10.0, 0.0, 1.4e6, 0.0, -10.0, 3836350.0), "EPSG:32652"), r"EPSG:32652 shows areas 1.0\d times"),
    ],
)
def test_coordinates_that_do_not_tell_areas_give_none_and_the_reason(frame, told):
    hectares, why_not = class_maps.hectares_of_a_pixel(frame)
    assert math.isnan(hectares)
    assert re.match(told, why_not), why_not


# What is refused


def test_a_value_that_is_no_class_is_told(tmp_path, legend):
    ids = random_ids()
    with pytest.raises(UserError, match=r"ids.tif: ids that are no class: 1 at .*expected only: 10 building, 50 field"):
        read(write_tiff(tmp_path / "ids.tif", ids), legend)
    palette = {i: (i, i, i, 255) for i in range(7)}
    with pytest.raises(UserError, match=r"map.tif: 6 colour\(s\) are no class: .*expected only: urban \(0, 255, 255\)"):
        read(write_tiff(tmp_path / "map.tif", ids, palette))
    with pytest.raises(UserError, match=r"two.tif: 2 bands of uint8; expected one band of class ids"):
        read(write_tiff(tmp_path / "two.tif", np.stack([ids, ids], -1)))


@pytest.mark.parametrize("name", ["gone.tif", "gone.png", "cut.tif", "text.tif", "text.png"])
def test_a_file_that_is_no_map_is_told(tmp_path, name):
    if name == "cut.tif":
        data = write_tiff(
            tmp_path / "whole.tif", random_ids(shape=(300, 300)), tiled=True, compress="deflate"
        ).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    elif name.startswith("text"):
        (tmp_path / name).write_text("no raster")
    with pytest.raises(UserError, match=f"{name}: cannot be read: .*"):
        read(tmp_path / name)

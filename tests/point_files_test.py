import sys

import numpy as np
import pytest
from points_on_file import DEGREES, PLACED, PLAIN, draw, listed, one, read, refused, write_csv

from pcejax import keys
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import DEEPGLOBE, Legend
from pcejax.point_files import write_points
from pcejax.points import Points

# There and back


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".json", ".gpkg", ".CSV", ".GeoJSON"])
@pytest.mark.parametrize("frames", [PLAIN, PLACED, DEGREES], ids=["plain", "placed", "degrees"])
def test_what_was_written_is_read_back_rank_for_rank(tmp_path, suffix, frames):
    for seed in range(4):
        drawn = draw(frames, seed)
        path = tmp_path / f"points{suffix}"
        write_points(path, drawn, frames, DEEPGLOBE)
        got = read(path, frames, seed=seed)
        assert listed(got) == listed(drawn)
        assert all(values.dtype == np.int32 for tile in got.values() for values in tile)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".gpkg"])
def test_corners_of_tiles_and_awkward_names_come_back(tmp_path, suffix):
    legend = Legend(('low, "scrub"', "l'été", "2", "0"), ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)), False)
    frames = {"a,b": Frame(3, 5), "007": Frame(1, 1), "ダム": Frame(2, 2), "none clicked": Frame(9, 9)}
    drawn = {
        "a,b": Points(*np.array([[0, 0, 2, 2], [0, 4, 0, 4], [0, 1, 2, 3], [0, 0, 0, 0]], np.int32)),
        "007": one(0, 0, 3),
        "ダム": one(1, 1, 2),
    }
    write_points(tmp_path / f"points{suffix}", drawn, frames, legend)
    assert listed(read(tmp_path / f"points{suffix}", frames, legend)) == listed(drawn)


# What a person may write


def test_columns_in_any_order_fractions_of_pixels_and_ids_for_names(tmp_path):
    path = write_csv(
        tmp_path,
        '3.99, 855, "a, b", water, 0',
        "",
        ",,,,",
        "0,119,,3,30.5",
        header="\ufeffrow, tile_id,note,class,col",
    )
    assert listed(read(path)) == {"119": [[0], [30], [3], [0]], "855": [[3], [0], [4], [0]]}


def test_a_name_of_the_legend_comes_before_an_id(tmp_path):
    legend = Legend(("10", "0", "field"), ((0, 0, 0), (1, 0, 0), (2, 0, 0)), False)
    path = write_csv(tmp_path, "119,0,0,0", "119,0,1,10", "119,0,2,2")
    assert listed(read(path, legend=legend))["119"] == [[0, 0, 0], [1, 0, 2], [0, 1, 2], [0, 0, 0]]


# Ranks


@pytest.mark.parametrize("seed", range(3))
def test_a_rank_is_the_place_of_the_pixels_key_in_its_tile_and_class(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frame = PLAIN["119"]
    pixels = rng.choice(frame.height * frame.width, 60, replace=False)
    classes = rng.integers(0, 3, 60)
    lines = [f"119,{p // 31},{p % 31},{c}" for p, c in zip(pixels, classes, strict=True)]
    got = read(write_csv(tmp_path, *lines), seed=seed)["119"]
    assert (np.diff(got.rank) >= 0).all()
    for class_id in range(3):
        expected = pixels[classes == class_id]
        expected = expected[np.argsort(keys.pixel_keys(seed, "119", expected))]
        of_class = got.class_id == class_id
        np.testing.assert_array_equal((got.row * 31 + got.col)[of_class], expected)
        np.testing.assert_array_equal(got.rank[of_class], np.arange(len(expected)))


def test_the_order_of_the_file_makes_no_difference(tmp_path):
    drawn = draw(PLAIN)
    path = tmp_path / "points.csv"
    write_points(path, drawn, PLAIN, DEEPGLOBE)
    header, *lines = path.read_text().splitlines()
    for seed in range(5):
        mixed = [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))]
        got = read(write_csv(tmp_path, *mixed, header=header))
        assert list(got) == list(PLAIN)
        assert listed(got) == listed(drawn)


def test_a_pixel_clicked_twice_as_one_class_is_one_point(tmp_path):
    path = write_csv(tmp_path, "119,3,5,water", "119,3.7,5.1,4", "855,3,5,forest")
    assert listed(read(path)) == {"119": [[3], [5], [4], [0]], "855": [[3], [5], [3], [0]]}


# What is refused: points


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("119,24,0,water", r"line 3: row 24, col 0 is outside tile '119'; expected 0 <= row < 24 and 0 <= col < 31"),
        ("119,0,31.0,water", "line 3: row 0, col 31 is outside"),
        ("119,-0.1,0,water", "line 3: row -0.1, col 0 is outside"),
        ("119,0,0,forst", r"line 3: class 'forst' is not in the legend; expected a name or an id of: urban \(0\), .*"),
        ("119,0,0,7", "line 3: class '7' is not in the legend"),
        ("119,0,0,", "line 3: class '' is not filled in"),
        ("119,0,0,-1", "line 3: class '-1' is not in the legend"),
        ("119,0,0,unknown", "line 3: class 'unknown' is the legend's unknown, which teaches nothing"),
        ("119,0,0,6", "line 3: class '6' is the legend's unknown"),
        ("855,5,5,water", r"line 3: row 5, col 5 of tile '855' is 'water' here and 'urban' in .*points.csv, line 2"),
        ("118,0,0,water", r"line 3: tile_id '118' is none of the 2 tiles .*; expected one such as '119'"),
        (",0,0,water", "line 3: tile_id '' is none of the 2 tiles"),
        ("119,abc,0,water", "line 3: row is 'abc'; expected a number"),
        ("119,0,nan,water", "line 3: col is 'nan'; expected a number"),
        ("119,0,1e999,water", "line 3: col is '1e999'; expected a number"),
        ("119,0,,water", "line 3: col is ''; expected a number"),
        ("119,0,water", r"line 3: 3 values, .*; expected 4"),
        ("119,0,0,water,wet, cold", r"line 3: 6 values, .*; expected 4"),
        ('119,0,0,"water', r"line 3: unexpected end of data; expected CSV"),
    ],
)
def test_a_wrong_line_is_named_with_its_value(tmp_path, line, told):
    path = write_csv(tmp_path, "855,5,5,urban", line)
    assert refused(path, told).startswith(f"{path}, line 3: ")


def test_the_unknown_class_is_not_among_those_expected(tmp_path):
    told = refused(write_csv(tmp_path, "119,0,0,sea"), "is not in the legend")
    assert "barren (5); correct" in told
    assert "unknown" not in told.partition(":")[2]


# What is refused: files


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("points.csv", b"", ": the file is empty"),
        ("points.csv", b"\xef\xbb\xbf\n \n", ": the file is empty"),
        ("points.csv", b"tile_id,row,col,class\n", ": no point in it; expected at least one"),
        (
            "points.csv",
            b"tile_id,row,col\n",
            r", line 1: column 'class' is there 0 times among \['tile_id', 'row', 'col'",
        ),
        (
            "points.csv",
            b"tile_id;row;col;class\n",
            ", line 1: column 'tile_id' is there 0 times .* with commas between",
        ),
        ("points.csv", b"tile_id,row,col,class,row\n", ", line 1: column 'row' is there 2 times"),
        ("points.csv", b"tile_id,row,col,class\n119,0,0,for\xeat\n", ", line 2: byte 0xea is not UTF-8"),
        ("points.csv", "tile_id,row,col,class\n".encode("utf-16"), ", line 1: byte 0xff is not UTF-8"),
        ("points.geojson", b"", ": the file is empty"),
        (
            "points.geojson",
            b'{"type": "FeatureCollection",\n"features": [',
            ", line 2, column 14: .*is the file cut off",
        ),
        ("points.geojson", b'{"type": "FeatureCollection", "features": []}', ": no point in it"),
        ("points.geojson", b'{"type": "Point", "coordinates": [1, 2]}', ': holds {"type": "Point".*FeatureCollection'),
        ("points.geojson", b"[1]", r": holds \[1\]; expected"),
        ("points.geojson", b'{"type": "FeatureCollection", "features": [3]}', ", feature 1: 3; expected a Feature"),
        ("points.geojson", b'{"type": "FeatureCollection", "features": [], "crs": 4}', ": crs is 4; expected"),
        ("points.gpkg", b"SQLite format 3\0 no more", ": .*; expected a GeoPackage"),
        ("points.gpkg", b"", ": .*; expected a GeoPackage"),
        ("points.shp", b"", r": points in a '.shp' file; expected .csv, .geojson or .gpkg"),
    ],
)
def test_a_file_that_is_none_of_points_is_refused(tmp_path, name, data, told):
    path = tmp_path / name
    path.write_bytes(data)
    refused(path, told)


@pytest.mark.parametrize("name", ["points.csv", "points.geojson", "points.gpkg"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    refused(tmp_path / name, "No such file")


def test_points_are_not_written_to_an_unknown_ending(tmp_path):
    with pytest.raises(UserError, match=r"points.shp: points to a '.shp' file; expected .csv, .geojson or .gpkg"):
        write_points(tmp_path / "points.shp", draw(PLAIN), PLAIN, DEEPGLOBE)
    assert not list(tmp_path.iterdir())


# Without the extra


@pytest.fixture
def no_geo(monkeypatch):
    for module in ("rasterio", "pyogrio", "shapely"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("no_geo")
@pytest.mark.parametrize("suffix", [".csv", ".geojson"])
def test_csv_and_geojson_work_without_the_extra(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    for frames in (PLAIN, {"west": PLACED["west"]}, DEGREES):
        write_points(path, draw(frames), frames, DEEPGLOBE)
        assert listed(read(path, frames)) == listed(draw(frames))

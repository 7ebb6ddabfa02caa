import json
import sys

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.enums import WktVersion

from configs import default
from pcejax import keys, points
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.label_options import label_options
from pcejax.legend import DEEPGLOBE, Legend
from pcejax.point_files import read_points, write_points
from pcejax.points import Points

UNKNOWN = DEEPGLOBE.num_known
UTM = "EPSG:32652"
UTM_URN = "urn:ogc:def:crs:EPSG::32652"
CRS84 = "urn:ogc:def:crs:OGC:1.3:CRS84"

PLAIN = {"119": Frame(24, 31), "855": Frame(40, 17)}
"""Two images without georeference."""
PLACED = {
    "west": Frame(24, 31, (10.0, 0.0, 342170.0, 0.0, -10.0, 3836350.0), UTM),
    "east": Frame(24, 31, (10.0, 0.0, 342480.0, 0.0, -10.0, 3836350.0), CRS.from_epsg(32652).to_wkt()),
    "turned": Frame(30, 30, (0.6, 0.8, 350000.0, 0.8, -0.6, 3836350.0), UTM),
}
"""Three tiles of one CRS: two side by side, one rotated."""
DEGREES = {"lonlat": Frame(24, 31, (1e-4, 0.0, 127.3, 0.0, -1e-4, 34.65), "EPSG:4326")}


def draw(frames, seed=0, budget=3):
    """Points of a random mask for each tile."""
    rng = np.random.default_rng(seed)
    options = label_options(default.get_config().points.to_dict() | {"budget": budget, "seed": seed})
    masks = {tile_id: rng.integers(0, 7, (frame.height, frame.width), np.uint8) for tile_id, frame in frames.items()}
    return {tile_id: points.draw(mask, tile_id, options, DEEPGLOBE).points for tile_id, mask in masks.items()}


def listed(drawn):
    return {tile_id: [values.tolist() for values in points] for tile_id, points in drawn.items()}


def one(row, col, class_id=0):
    return Points(*np.array([[row], [col], [class_id], [0]], np.int32))


def write_csv(folder, *lines, header="tile_id,row,col,class"):
    path = folder / "points.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def feature(x, y, kind="Point", **properties):
    coordinates = [x, y] if kind == "Point" else [[x, y]]
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def write_geojson(folder, *features, crs=None):
    """As QGIS exports it; without `crs` in degrees."""
    path = folder / "points.geojson"
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.write_text(json.dumps({"type": "FeatureCollection", **member, "features": features}))
    return path


def write_geopackage(folder, geometries, crs=UTM, layer="points", append=False, **fields):
    path = folder / "points.gpkg"
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(geometries, object)),
        [np.array(values) for values in fields.values()],
        list(fields),
        layer=layer,
        append=append,
        driver="GPKG",
        geometry_type="Unknown",
        crs=crs,
    )
    return path


def read(path, frames=PLAIN, legend=DEEPGLOBE, seed=0):
    return read_points(path, frames, legend, seed)


def refused(path, told, frames=PLAIN):
    """The whole message: it starts with the file, and matches."""
    with pytest.raises(UserError, match=told) as caught:
        read(path, frames)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


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


def test_a_file_of_geojson_opens_over_its_tile(tmp_path):
    path = tmp_path / "points.geojson"
    write_points(path, {"119": one(3, 5)}, PLAIN, DEEPGLOBE)
    document = json.loads(path.read_text())
    assert document["features"][0]["geometry"] == {"type": "Point", "coordinates": [5.5, -3.5]}
    assert document["features"][0]["properties"] == {"tile_id": "119", "class": "urban"}
    assert "crs" not in document
    write_points(path, {"west": one(3, 5), "east": one(0, 0)}, PLACED, DEEPGLOBE)
    document = json.loads(path.read_text())
    assert document["features"][0]["geometry"]["coordinates"] == [342170 + 55, 3836350 - 35]
    assert document["crs"] == {"type": "name", "properties": {"name": UTM_URN}}
    # GDAL, which QGIS reads files with, takes it for what it is.
    assert pyogrio.read_info(path)["crs"] == UTM
    write_points(path, {"lonlat": one(3, 5)}, DEGREES, DEEPGLOBE)
    assert json.loads(path.read_text())["crs"]["properties"]["name"] == CRS84


def test_a_geopackage_has_the_crs_of_its_tiles(tmp_path):
    for frames, crs in ((PLAIN, None), (PLACED, UTM), (DEGREES, "EPSG:4326")):
        write_points(tmp_path / "drawn.gpkg", draw(frames), frames, DEEPGLOBE)
        info = pyogrio.read_info(tmp_path / "drawn.gpkg")
        assert (info["crs"], info["layer_name"], info["geometry_type"]) == (crs, "drawn", "Point")


def test_tiles_of_several_crss_do_not_go_into_one_layer(tmp_path):
    frames = PLACED | DEGREES
    for suffix in (".geojson", ".gpkg"):
        with pytest.raises(UserError, match=r"tiles in EPSG:32652 and EPSG:4326; expected one CRS a file"):
            write_points(tmp_path / f"points{suffix}", {"west": one(0, 0), "lonlat": one(0, 0)}, frames, DEEPGLOBE)
    path = tmp_path / "points.csv"
    write_points(path, draw(frames), frames, DEEPGLOBE)
    assert listed(read(path, frames)) == listed(draw(frames))


def test_a_crs_without_a_code_goes_into_a_geopackage_only(tmp_path):
    local = CRS.from_user_input("+proj=tmerc +lat_0=33.21 +lon_0=126.5 +k=1 +x_0=0 +y_0=0 +ellps=GRS80")
    frames = {"a": PLACED["west"]._replace(crs=local.to_wkt())}
    with pytest.raises(UserError, match=r"has no EPSG code, which GeoJSON needs; write .gpkg"):
        write_points(tmp_path / "points.geojson", {"a": one(0, 0)}, frames, DEEPGLOBE)
    write_points(tmp_path / "points.gpkg", {"a": one(1, 2)}, frames, DEEPGLOBE)
    for version in (WktVersion.WKT1, WktVersion.WKT2):
        frames = {"a": PLACED["west"]._replace(crs=local.to_wkt(version=version))}
        assert listed(read(tmp_path / "points.gpkg", frames)) == {"a": [[1], [2], [0], [0]]}


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


@pytest.mark.parametrize("kind", ["Point", "MultiPoint"])
@pytest.mark.parametrize("tile_id", ["119", 119, 119.0])
@pytest.mark.parametrize("class_", ["water", "4", 4, 4.0])
@pytest.mark.parametrize("crs", [None, CRS84, UTM_URN])
def test_geojson_as_qgis_exports_it_from_a_plain_image(tmp_path, kind, tile_id, class_, crs):
    path = write_geojson(tmp_path, feature(5.2, -3.9, kind, tile_id=tile_id, **{"class": class_}), crs=crs)
    assert listed(read(path)) == {"119": [[3], [5], [4], [0]]}


def test_geojson_with_heights_is_read(tmp_path):
    item = feature(5.2, -3.9, tile_id="119", **{"class": "water"})
    item["geometry"]["coordinates"].append(12.0)
    assert listed(read(write_geojson(tmp_path, item))) == {"119": [[3], [5], [4], [0]]}


@pytest.mark.parametrize("missing", [{}, {"tile_id": None}, {"tile_id": ""}])
def test_without_a_tile_id_the_point_lies_in_the_tile_that_covers_it(tmp_path, missing):
    rng = np.random.default_rng(0)
    for tile_id, frame in (PLACED | DEGREES).items():
        row, col = rng.uniform((0, 0), (frame.height, frame.width), (20, 2)).T
        items = [feature(*frame.to_map(r, c), **{"class": "forest"}, **missing) for r, c in zip(row, col, strict=True)]
        path = write_geojson(tmp_path, *items, crs=CRS84 if tile_id == "lonlat" else UTM_URN)
        got = read(path, PLACED | DEGREES)
        assert list(got) == [tile_id]
        pixels = set(zip(np.floor(row), np.floor(col), strict=True))
        assert set(zip(*(values.tolist() for values in got[tile_id][:2]), strict=True)) == pixels


def test_without_a_tile_id_the_only_tile_is_meant(tmp_path):
    path = write_geojson(tmp_path, feature(5.2, -3.9, **{"class": "water"}))
    assert listed(read(path, {"119": PLAIN["119"]})) == {"119": [[3], [5], [4], [0]]}


def test_pixel_coordinates_and_map_coordinates_are_rasterios():
    from rasterio.transform import Affine, rowcol, xy

    rng = np.random.default_rng(0)
    for frame in PLACED.values():
        for row, col in rng.integers(0, 24, (10, 2)).tolist():
            x, y = frame.to_map(row + 0.5, col + 0.5)
            np.testing.assert_allclose((x, y), xy(Affine(*frame.transform), row, col), rtol=1e-12)
            assert rowcol(Affine(*frame.transform), x, y) == (row, col)
            np.testing.assert_allclose(frame.to_pixel(x, y), (row + 0.5, col + 0.5), atol=1e-6)


def test_a_geopackage_whose_ids_are_numbers_is_read(tmp_path):
    # Whole numbers with a gap come as real ones.
    shapes = [shapely.Point(5.2, -3.9), shapely.MultiPoint([(0.5, -0.5)]), shapely.Point(1, -1, 12.5)]
    path = write_geopackage(
        tmp_path, shapes, tile_id=[119.0, 855.0, 119.0], **{"class": [4, 0, 1]}, when=["a", "b", "c"]
    )
    assert listed(read(path)) == {"119": [[1, 3], [1, 5], [1, 4], [0, 0]], "855": [[0], [0], [0], [0]]}


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
        ("119,0,0,", "line 3: class '' is not in the legend"),
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


@pytest.mark.parametrize(
    ("properties", "x", "told"),
    [
        ({"tile_id": "119", "class": "sea"}, 1, "feature 2: class 'sea' is not in the legend"),
        ({"tile_id": "119", "class": None}, 1, "feature 2: class '' is not in the legend"),
        ({"tile_id": "119", "class": "unknown"}, 1, "feature 2: class 'unknown' is the legend's unknown"),
        ({"tile_id": "119", "class": 2.5}, 1, r"feature 2: class '2\.5' is not in the legend"),
        ({"tile_id": "119", "cover": "water"}, 1, r"feature 2: no field 'class' among \['tile_id', 'cover'\]"),
        ({"tile_id": "19", "class": "water"}, 1, "feature 2: tile_id '19' is none of the 2 tiles .* as '119'"),
        ({"class": "water"}, 1, "feature 2: no tile_id, and none of the 2 tiles is georeferenced"),
        ({"tile_id": "119", "class": "water"}, 31.25, r"feature 2: row 2\.5, col 31\.25 is outside tile '119'"),
        ({"tile_id": "119", "class": "water"}, float("nan"), r"feature 2: coordinates are \(nan, -2\.5\)"),
        ({"tile_id": "119", "class": "water"}, 10**400, "feature 2: coordinates are"),
        ({"tile_id": "119", "class": "water"}, "1", r"feature 2: geometry is .*\[\"1\", -2\.5\]"),
        (
            {"tile_id": "855", "class": "water"},
            1,
            "feature 2: row 2, col 1 .* is 'water' here and 'urban' in .*feature 1",
        ),
    ],
)
def test_a_wrong_feature_is_named_with_its_value(tmp_path, properties, x, told):
    path = write_geojson(tmp_path, feature(1.5, -2.5, tile_id="855", **{"class": 0}), feature(x, -2.5, **properties))
    refused(path, told)


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        {"type": "MultiPoint", "coordinates": [[0, 0], [1, 1]]},
        {"type": "Point", "coordinates": []},
        {"type": "Point"},
    ],
)
def test_a_geometry_that_is_no_point_is_refused(tmp_path, geometry):
    item = {"type": "Feature", "properties": {"tile_id": "119", "class": "water"}, "geometry": geometry}
    told = refused(write_geojson(tmp_path, item), "feature 1: geometry is .*; expected a Point")
    assert json.dumps(geometry)[:80] in told


def test_a_wrong_row_of_a_geopackage_is_named_by_its_fid(tmp_path):
    inside, line = shapely.Point(1.5, -2.5), shapely.LineString([(0, 0), (1, 1)])
    for shapes, classes, told in [
        ([inside, line], ["urban", "water"], "fid 2: geometry is .*LineString"),
        ([inside, shapely.Point()], ["urban", "water"], "fid 2: geometry is .*Point"),
        ([inside, None], ["urban", "water"], "fid 2: geometry is null"),
        ([inside, inside], ["urban", "sea"], "fid 2: class 'sea' is not in the legend"),
        ([inside, inside], ["urban", "water"], r"fid 2: .* is 'water' here and 'urban' in .*points.gpkg, fid 1;"),
        ([inside, shapely.Point(1, 1)], ["urban", "sea"], "fid 2: row -1, col 1 is outside tile '119'"),
    ]:
        path = write_geopackage(tmp_path, shapes, tile_id=["119", "119"], **{"class": classes})
        refused(path, told)
    refused(write_geopackage(tmp_path, [inside], name=["urban"]), r"fid 1: no field 'class' among \['name'\]")


# What is refused: coordinate reference systems


@pytest.mark.parametrize("tile_id", [{"tile_id": "east"}, {}])
@pytest.mark.parametrize(
    ("crs", "told"),
    [(None, "EPSG:4326"), (CRS84, "EPSG:4326"), ("urn:ogc:def:crs:EPSG::32651", "EPSG:32651")],
)
def test_another_crs_than_the_tiles_is_refused_with_both(tmp_path, tile_id, crs, told):
    path = write_geojson(tmp_path, feature(342485, 3836345, **{"class": "water"}, **tile_id), crs=crs)
    refused(
        path,
        f"feature 1: coordinates in {told}, but tile '(east|west)' is in EPSG:32652; .*not reprojected; "
        r"in QGIS: Export > Save Features As\.\.\. with CRS EPSG:32652",
        PLACED,
    )


def test_a_geopackage_of_another_crs_or_none_is_refused(tmp_path):
    frames = {"only": PLACED["west"]}
    for crs in ("EPSG:5186", "EPSG:4326"):
        path = write_geopackage(tmp_path, [shapely.Point(342485, 3836345)], crs, **{"class": ["water"]})
        refused(path, f"fid 1: coordinates in {crs}, but tile 'only' is in EPSG:32652", frames)
    write_points(path, {"only": one(0, 0)}, {"only": Frame(9, 9)}, DEEPGLOBE)
    refused(path, "fid 1: coordinates in no CRS, but tile 'only' is in EPSG:32652", frames)


def test_one_crs_by_code_and_by_wkt_is_the_same(tmp_path):
    path = write_geojson(tmp_path, feature(342485, 3836345, **{"class": "water"}), crs=UTM_URN)
    for crs in (UTM, CRS.from_epsg(32652).to_wkt(), UTM_URN, CRS.from_epsg(32652).to_wkt(version=WktVersion.WKT2)):
        assert list(read(path, {"a": PLACED["east"]._replace(crs=crs), "b": PLACED["west"]})) == ["a"]


def test_a_crs_that_is_none_is_refused(tmp_path):
    path = write_geojson(tmp_path, feature(342485, 3836345, **{"class": "water"}), crs="EPSG:nonsense")
    refused(path, ": CRS 'EPSG:nonsense': .*; expected an EPSG code or WKT", PLACED)


def test_a_point_in_no_tile_or_in_two_is_refused(tmp_path):
    path = write_geojson(tmp_path, feature(342475, 3836345, **{"class": "water"}), crs=UTM_URN)
    assert list(read(path, PLACED)) == ["west"]
    refused(
        path,
        "feature 1: no tile_id, .*x 342475, y 3836345 lies in 'west', 'also'; .*name it in the field",
        {
            **PLACED,
            "also": PLACED["west"],
        },
    )
    path = write_geojson(tmp_path, feature(0, 0, **{"class": "water"}), crs=UTM_URN)
    refused(path, "feature 1: no tile_id, and x 0, y 0 lies in none of 3 tiles", PLACED)


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


def test_a_geopackage_of_several_layers_or_no_point_is_refused(tmp_path):
    fields = {"tile_id": ["119"], "class": ["water"]}
    write_geopackage(tmp_path, [shapely.Point(1, -1)], layer="one", **fields)
    path = write_geopackage(tmp_path, [shapely.Point(1, -1)], layer="two", append=True, **fields)
    refused(path, r": 2 layers with a geometry, \['one', 'two'\]; expected one")
    write_points(tmp_path / "none.gpkg", {}, PLAIN, DEEPGLOBE)
    refused(tmp_path / "none.gpkg", ": no point in it")


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


@pytest.mark.usefixtures("no_geo")
@pytest.mark.parametrize("crs", ["EPSG:nonsense", 'LOCAL_CS["Undefined Cartesian SRS",UNIT["Meter",1]]'])
def test_over_a_plain_image_no_crs_is_looked_at(tmp_path, crs):
    path = write_geojson(tmp_path, feature(5.2, -3.9, tile_id="119", **{"class": "water"}), crs=crs)
    assert listed(read(path)) == {"119": [[3], [5], [4], [0]]}


@pytest.mark.usefixtures("no_geo")
def test_a_geopackage_without_the_extra_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match=r"pyogrio is not installed; .*: pip install -e \.\[geo\]"):
        read(tmp_path / "points.gpkg")
    with pytest.raises(UserError, match=r"pip install -e \.\[geo\]"):
        write_points(tmp_path / "points.gpkg", draw(PLAIN), PLAIN, DEEPGLOBE)

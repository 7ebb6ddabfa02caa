import json
import sys

import numpy as np
import pyogrio
import pytest
import shapely
from points_on_file import (
    CRS84,
    DEGREES,
    PLACED,
    PLAIN,
    UTM,
    UTM_URN,
    draw,
    feature,
    listed,
    one,
    read,
    refused,
    write_geojson,
    write_geopackage,
)
from rasterio.crs import CRS
from rasterio.enums import WktVersion

from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import DEEPGLOBE
from pcejax.point_files import write_points

# There and back


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


# What is refused: points


@pytest.mark.parametrize(
    ("properties", "x", "told"),
    [
        ({"tile_id": "119", "class": "sea"}, 1, "feature 2: class 'sea' is not in the legend"),
        ({"tile_id": "119", "class": None}, 1, "feature 2: class '' is not filled in"),
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


def test_a_geopackage_of_several_layers_or_no_point_is_refused(tmp_path):
    fields = {"tile_id": ["119"], "class": ["water"]}
    write_geopackage(tmp_path, [shapely.Point(1, -1)], layer="one", **fields)
    path = write_geopackage(tmp_path, [shapely.Point(1, -1)], layer="two", append=True, **fields)
    refused(path, r": 2 layers with a geometry, \['one', 'two'\]; expected one")
    write_points(tmp_path / "none.gpkg", {}, PLAIN, DEEPGLOBE)
    refused(tmp_path / "none.gpkg", ": no point in it")


# Without the extra


@pytest.fixture
def no_geo(monkeypatch):
    for module in ("rasterio", "pyogrio", "shapely"):
        monkeypatch.setitem(sys.modules, module, None)


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

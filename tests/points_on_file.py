"""Tiles, points and files of them, for the tests of files of points."""

import json

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS

from configs import default
from pcejax import points
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.label_options import label_options
from pcejax.legend import DEEPGLOBE
from pcejax.point_files import read_points
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

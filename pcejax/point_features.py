"""Points as features of GeoJSON and GeoPackages, as QGIS reads and writes them; `point_files` says what they hold."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcejax.errors import UserError
from pcejax.frames import Click, Frame, check_crs, crs_code, fits, frame_of, import_geo


class Feature(NamedTuple):
    """What a file holds of a point."""

    where: str  # the file and the feature or fid, for messages
    properties: Mapping[str, Any]
    geometry: Any  # as GeoJSON has it


# Reading


def read_geojson(path: Path, text: str) -> tuple[str | None, list[Feature]]:
    """The CRS and the features of GeoJSON.

    Raises:
      UserError: `text`, which `path` holds, is no GeoJSON.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}; expected GeoJSON; is the file cut off?"
        ) from error
    match document:
        case {"type": "FeatureCollection", "features": list(features)}:
            pass
        case _:
            raise UserError(
                f"{path}: holds {json.dumps(document)[:80]}; expected a GeoJSON FeatureCollection, as QGIS exports it"
            )
    match document.get("crs"):
        case None:
            crs = "EPSG:4326"
        case {"properties": {"name": str(crs)}}:
            pass
        case other:
            raise UserError(f"{path}: crs is {json.dumps(other)[:80]}; expected it by name, as QGIS exports it")
    read = []
    for number, feature in enumerate(features, 1):
        where = f"{path}, feature {number}"
        match feature:
            case {"type": "Feature", "properties": dict(properties), "geometry": geometry}:
                read.append(Feature(where, properties, geometry))
            case _:
                raise UserError(
                    f"{where}: {json.dumps(feature)[:80]}; expected a Feature with properties and a geometry"
                )
    return crs, read


def read_geopackage(path: Path) -> tuple[str | None, list[Feature]]:
    """The CRS, None where the layer has none, and the features.

    Raises:
      UserError: no such file, no GeoPackage of one layer, or the extra `geo` is missing.
    """
    pyogrio, shapely = import_geo("pyogrio"), import_geo("shapely")
    if not path.is_file():
        raise UserError(f"{path}: No such file; expected a file of points")
    try:
        layers = [name for name, geometry_type in pyogrio.list_layers(path) if geometry_type]
        if len(layers) != 1:
            raise UserError(
                f"{path}: {len(layers)} layers with a geometry, {layers}; expected one, of points; in QGIS: "
                "Export > Save Features As... into a new file"
            )
        meta, fids, shapes, columns = pyogrio.raw.read(path, layer=layers[0], return_fids=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise UserError(f"{path}: {error}; expected a GeoPackage") from error
    # What shapely cannot read, such as a curve, is no point either.
    geometries = [
        None if shape is None else shape.__geo_interface__ for shape in shapely.from_wkb(shapes, on_invalid="ignore")
    ]
    rows = zip(*(column.tolist() for column in columns), strict=True) if columns else ((),) * len(fids)
    read = [
        Feature(f"{path}, fid {fid}", dict(zip(meta["fields"], row, strict=True)), geometry)
        for fid, row, geometry in zip(fids, rows, geometries, strict=True)
    ]
    return meta["crs"], read


def feature_clicks(
    path: Path, crs: str | None, features: list[Feature], frames: Mapping[str, Frame]
) -> Iterator[Click]:
    """The clicks that the features of a file are, on the tiles of `frames`.

    Raises:
      UserError: a feature is no point with a class, lies in no tile or in several, or in another CRS than its tile.
    """
    if crs and any(frame.crs for frame in frames.values()):
        try:
            crs = crs_code(crs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    placed = {tile_id: frame for tile_id, frame in frames.items() if frame.transform}
    fitting = {tile_id: frame for tile_id, frame in placed.items() if fits(crs, frame)}
    for feature in features:
        where, properties, geometry = feature
        if "class" not in properties:
            raise UserError(f"{where}: no field 'class' among {list(properties)}; expected the class by name or id")
        match geometry:
            case {"type": "Point", "coordinates": [float() | int() as x, float() | int() as y, *_]}:
                pass
            case {"type": "MultiPoint", "coordinates": [[float() | int() as x, float() | int() as y, *_]]}:
                pass
            case _:
                raise UserError(
                    f"{where}: geometry is {json.dumps(geometry)[:80]}; expected a Point, or a MultiPoint of one; "
                    "remove the feature, or in QGIS: Multipart to Singleparts"
                )
        if not (abs(x) < 1e300 and abs(y) < 1e300):
            raise UserError(f"{where}: coordinates are ({x}, {y}); expected finite numbers; remove the point")
        tile_id = _text(properties.get("tile_id"))
        if not tile_id and len(frames) == 1:
            tile_id = next(iter(frames))
        elif not tile_id and not placed:
            raise UserError(
                f"{where}: no tile_id, and none of the {len(frames)} tiles is georeferenced; "
                "expected the field 'tile_id'"
            )
        elif not tile_id:
            if not fitting:
                check_crs(where, crs, *next(iter(placed.items())))
            tile_id = _tile_at(where, x, y, fitting)
        frame = frame_of(where, tile_id, frames)
        check_crs(where, crs, tile_id, frame)
        stratum = _text(properties.get("stratum"))
        yield Click(where, tile_id, *frame.to_pixel(x, y), _text(properties["class"]), stratum)


def _tile_at(where: str, x: float, y: float, frames: Mapping[str, Frame]) -> str:
    """The id of the one tile that map coordinates lie in."""
    there = [tile_id for tile_id, frame in frames.items() if frame.covers(*frame.to_pixel(x, y))]
    if len(there) != 1:
        told = f"in {', '.join(map(repr, there[:4]))}" if there else f"in none of {len(frames)} tiles"
        what_to_do = "name it in the field 'tile_id'" if there else "move or remove the point"
        raise UserError(
            f"{where}: no tile_id, and x {x:.10g}, y {y:.10g} lies {told}; expected in one tile; {what_to_do}"
        )
    return there[0]


def _text(value: Any) -> str:
    """A field's value as CSV would have it; a whole column of ids is often stored as real numbers."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


# Writing


def to_geojson(
    path: Path, fields: Mapping[str, Sequence[str]], places: list[tuple[float, float]], crs: str | None
) -> str:
    """The text of a GeoJSON file.

    Args:
      path: of the file, for messages.
      fields: the values of each field, one a point.
      places: (x, y) of each point.
      crs: of the places; None for plain images.

    Raises:
      UserError: the CRS has no EPSG code.
    """
    features = [
        {
            "type": "Feature",
            "properties": dict(zip(fields, values, strict=True)),
            "geometry": {"type": "Point", "coordinates": place},
        }
        for place, *values in zip(places, *fields.values(), strict=True)
    ]
    member = f'"crs": {json.dumps(_crs_member(path, crs))},\n' if crs else ""
    lines = ",\n".join(json.dumps(feature) for feature in features)
    return f'{{\n"type": "FeatureCollection",\n{member}"features": [\n{lines}\n]\n}}\n'


def _crs_member(path: Path, crs: str) -> dict[str, Any]:
    if not crs.startswith("EPSG:"):
        raise UserError(f"{path}: CRS {crs[:80]!r} has no EPSG code, which GeoJSON needs; write .gpkg")
    urn = "OGC:1.3:CRS84" if crs == "EPSG:4326" else crs.replace(":", "::")
    return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{urn}"}}


def write_geopackage(
    path: Path, fields: Mapping[str, Sequence[str]], places: list[tuple[float, float]], crs: str | None, layer: str
) -> None:
    """Writes a GeoPackage of one layer; arguments as `to_geojson`'s.

    Raises:
      UserError: the extra `geo` is missing.
    """
    pyogrio, shapely = import_geo("pyogrio"), import_geo("shapely")
    with warnings.catch_warnings():
        # pyogrio warns of a layer without CRS; a plain image has none.
        warnings.filterwarnings("ignore", ".*crs.* was not provided", UserWarning)
        pyogrio.raw.write(
            path,
            shapely.to_wkb(shapely.points(np.array(places, float).reshape(-1, 2))),
            [np.array(values, object) for values in fields.values()],
            list(fields),
            layer=layer,
            driver="GPKG",
            geometry_type="Point",
            crs=crs,
        )

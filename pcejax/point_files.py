"""Files of real points: CSV, GeoJSON or GeoPackage <-> the points of each tile.

CSV has the columns `tile_id,row,col,class`, in any order and among others: pixel coordinates, counted from 0 at
the top left; 3.7 lies in pixel 3.

GeoJSON and GeoPackage hold one point a feature, as QGIS exports them, with the fields `class` and `tile_id`.
Their coordinates are a georeferenced tile's own, in its CRS; nothing is reprojected. For an image without
georeference they are those at which QGIS shows it, x = column and y = -row: the pixel (row, col) has its centre at
(col + 0.5, -row - 0.5), and the CRS says nothing. Without a `tile_id` the point lies in the only tile, or in the
only georeferenced tile that covers it.

`class` is a name of the legend or else, where no class has that name, an id. The unknown class teaches nothing, so
clicking it is an error.

CSV and GeoJSON in the tile's own EPSG code need nothing but the standard library; the rest needs the extra `geo`.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib
import io
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcejax import keys
from pcejax.errors import UserError
from pcejax.legend import Legend
from pcejax.points import Points

_COLUMNS = ("tile_id", "row", "col", "class")
_PLAIN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""The transform that QGIS gives an image which has none."""


class Frame(NamedTuple):
    """Where a tile lies: native pixels and, of a georeferenced tile, how they map to coordinates.

    `transform` is (a, b, c, d, e, f) of x = a * col + b * row + c, y = d * col + e * row + f, as rasterio orders it;
    `crs` is what rasterio understands: an EPSG code or WKT. Both are None for a plain image.
    """

    height: int
    width: int
    transform: tuple[float, float, float, float, float, float] | None = None
    crs: str | None = None

    def to_map(self, row: float, col: float) -> tuple[float, float]:
        """(x, y) of pixel coordinates; a pixel's centre is at a half."""
        a, b, c, d, e, f = self.transform or _PLAIN
        return a * col + b * row + c, d * col + e * row + f

    def to_pixel(self, x: float, y: float) -> tuple[float, float]:
        """(row, col) of map coordinates: the way back of `to_map`."""
        a, b, c, d, e, f = self.transform or _PLAIN
        x, y, area = x - c, y - f, a * e - b * d
        return (a * y - d * x) / area, (e * x - b * y) / area

    def covers(self, row: float, col: float) -> bool:
        """Whether pixel coordinates lie in the tile."""
        return 0 <= row < self.height and 0 <= col < self.width


class _Click(NamedTuple):
    where: str
    """The file and the line, feature or fid, for messages."""
    tile_id: str
    row: float
    col: float
    class_text: str


class _Feature(NamedTuple):
    where: str
    properties: Mapping[str, Any]
    geometry: Any
    """As GeoJSON has it."""


def read_points(path: str | Path, frames: Mapping[str, Frame], legend: Legend, seed: int) -> dict[str, Points]:
    """The points of every tile that the file has points of, by tile id in the order of `frames`.

    A person's order of clicking is not random, so a point's rank is not its place in the file but that of its
    pixel's key among the points of its tile and class: budget k per class and tile is `rank < k`, nested as in
    `points.balanced`. The order of the file makes no difference. A pixel clicked twice as the same class is one point.

    Args:
      path: a `.csv`, `.geojson`, `.json` or `.gpkg` file.
      frames: each tile that may be clicked, by its id.
      legend: the classes.
      seed: `points.seed`.

    Raises:
      UserError: the file, a point or a class is not as the module says; the message has the file, the line
        (CSV), feature (GeoJSON, counted from 1) or fid (GeoPackage), and the value.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        clicks = _csv_clicks(path)
    elif suffix in (".geojson", ".json"):
        clicks = _feature_clicks(path, *_read_geojson(path), frames)
    elif suffix == ".gpkg":
        clicks = _feature_clicks(path, *_read_geopackage(path), frames)
    else:
        raise UserError(f"{path}: points in a {suffix!r} file; expected .csv, .geojson or .gpkg")
    found: dict[str, dict[tuple[int, int], tuple[int, str]]] = {}
    for click in clicks:
        pixel = _pixel(click, frames)
        class_id = _class_id(click, legend)
        class_before, where_before = found.setdefault(click.tile_id, {}).setdefault(pixel, (class_id, click.where))
        if class_before != class_id:
            raise UserError(
                f"{click.where}: row {pixel[0]}, col {pixel[1]} of tile {click.tile_id!r} is "
                f"{legend.names[class_id]!r} here and {legend.names[class_before]!r} in {where_before}; "
                "expected one class a pixel; remove one of the two"
            )
    if not found:
        raise UserError(f"{path}: no point in it; expected at least one")
    return {
        tile_id: ranked({pixel: class_id for pixel, (class_id, _) in found[tile_id].items()}, tile_id, frame, seed)
        for tile_id, frame in frames.items()
        if tile_id in found
    }


def ranked(classes: Mapping[tuple[int, int], int], tile_id: str, frame: Frame, seed: int) -> Points:
    """The points of a tile from the class of each clicked (row, col), ranked as `read_points` says."""
    row, col, class_id = np.array([(*pixel, class_id) for pixel, class_id in classes.items()]).T
    pixels = row * frame.width + col
    order = np.lexsort((keys.pixel_keys(seed, tile_id, pixels), class_id))
    row, col, class_id = row[order], col[order], class_id[order]
    rank = np.arange(len(order)) - np.searchsorted(class_id, class_id)
    order = np.argsort(rank, kind="stable")
    return Points(*(values[order].astype(np.int32) for values in (row, col, class_id, rank)))


# What a click says


def _pixel(click: _Click, frames: Mapping[str, Frame]) -> tuple[int, int]:
    frame = _frame(click.where, click.tile_id, frames)
    if not frame.covers(click.row, click.col):
        raise UserError(
            f"{click.where}: row {click.row:.10g}, col {click.col:.10g} is outside tile {click.tile_id!r}; expected "
            f"0 <= row < {frame.height} and 0 <= col < {frame.width}; move or remove the point"
        )
    return math.floor(click.row), math.floor(click.col)


def _frame(where: str, tile_id: str, frames: Mapping[str, Frame]) -> Frame:
    if tile_id not in frames:
        near = difflib.get_close_matches(tile_id, frames, cutoff=0.5) or list(frames)[:3]
        raise UserError(
            f"{where}: tile_id {tile_id!r} is none of the {len(frames)} tiles that may be clicked; "
            f"expected one such as {', '.join(map(repr, near))}"
        )
    return frames[tile_id]


def _class_id(click: _Click, legend: Legend) -> int:
    text = click.class_text
    if text in legend.names:
        class_id = legend.names.index(text)
    elif re.fullmatch("[0-9]{1,3}", text):
        class_id = int(text)
    else:
        class_id = legend.num_classes
    if class_id >= legend.num_known:
        what = "the legend's unknown, which teaches nothing" if class_id < legend.num_classes else "not in the legend"
        known = ", ".join(f"{name} ({i})" for i, name in enumerate(legend.names[: legend.num_known]))
        raise UserError(
            f"{click.where}: class {text!r} is {what}; expected a name or an id of: {known}; "
            "correct or remove the point"
        )
    return class_id


def _text(value: Any) -> str:
    """A field's value as CSV would have it; a whole column of ids is often stored as real numbers."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


# CSV


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of points") from error
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty; expected points")
    return text


def _csv_clicks(path: Path) -> Iterator[_Click]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        wrong = [name for name in _COLUMNS if header.count(name) != 1]
        if wrong:
            raise UserError(
                f"{path}, line 1: column {wrong[0]!r} is there {header.count(wrong[0])} times among {header}; expected "
                f"each of {', '.join(_COLUMNS)} once, with commas between"
            )
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} values, {cells}; expected {len(header)}, one for each of {header}; "
                    "put quotes around a value with a comma"
                )
            values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            row, col = (_number(where, name, values[name]) for name in ("row", "col"))
            yield _Click(where, values["tile_id"], row, col, values["class"])
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; expected CSV, quotes in pairs") from error


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is {text!r}; expected a number, a pixel coordinate")
    return value


# GeoJSON and GeoPackage


def _read_geojson(path: Path) -> tuple[str | None, list[_Feature]]:
    """The CRS and the features."""
    try:
        document = json.loads(_read_text(path))
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
                read.append(_Feature(where, properties, geometry))
            case _:
                raise UserError(
                    f"{where}: {json.dumps(feature)[:80]}; expected a Feature with properties and a geometry"
                )
    return crs, read


def _read_geopackage(path: Path) -> tuple[str | None, list[_Feature]]:
    """The CRS, None where the layer has none, and the features."""
    pyogrio, shapely = _geo("pyogrio"), _geo("shapely")
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
        _Feature(f"{path}, fid {fid}", dict(zip(meta["fields"], row, strict=True)), geometry)
        for fid, row, geometry in zip(fids, rows, geometries, strict=True)
    ]
    return meta["crs"], read


def _feature_clicks(
    path: Path, crs: str | None, features: list[_Feature], frames: Mapping[str, Frame]
) -> Iterator[_Click]:
    if crs and any(frame.crs for frame in frames.values()):
        try:
            crs = _code(crs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    placed = {tile_id: frame for tile_id, frame in frames.items() if frame.transform}
    fitting = {tile_id: frame for tile_id, frame in placed.items() if _fits(crs, frame)}
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
                _check_crs(where, crs, *next(iter(placed.items())))
            tile_id = _tile_at(where, x, y, fitting)
        frame = _frame(where, tile_id, frames)
        _check_crs(where, crs, tile_id, frame)
        yield _Click(where, tile_id, *frame.to_pixel(x, y), _text(properties["class"]))


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


# Coordinate reference systems


def _geo(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is not installed; expected the extra geo: pip install -e .[geo]") from error


def _parse(crs: str) -> Any:
    rasterio = _geo("rasterio")
    try:
        return rasterio.crs.CRS.from_user_input(crs)
    except ValueError as error:
        raise UserError(f"CRS {crs[:80]!r}: {error}; expected an EPSG code or WKT") from error


@functools.lru_cache(maxsize=64)
def _code(crs: str) -> str:
    """`EPSG:n` of a CRS that has a code, whichever way it is written; of another, what it was given."""
    # GDAL takes CRS84 for EPSG:4326, whose x it has as the longitude.
    if re.fullmatch(r"(urn:ogc:def:crs:)?OGC:([\d.]*:)?CRS84", crs):
        return "EPSG:4326"
    crs = re.sub(r"^urn:ogc:def:crs:EPSG:[^:]*:(\d+)$", r"EPSG:\1", crs)
    if re.fullmatch(r"EPSG:\d+", crs):
        return crs
    code = _parse(crs).to_epsg()
    return f"EPSG:{code}" if code else crs


@functools.lru_cache(maxsize=64)
def _same(one: str, other: str) -> bool:
    one, other = _code(one), _code(other)
    coded = one.startswith("EPSG:") or other.startswith("EPSG:")
    return one == other if coded else _parse(one) == _parse(other)


def _fits(crs: str | None, frame: Frame) -> bool:
    """Whether coordinates in `crs` are the tile's own."""
    return frame.crs is None or (crs is not None and _same(crs, frame.crs))


def _check_crs(where: str, crs: str | None, tile_id: str, frame: Frame) -> None:
    if not _fits(crs, frame):
        told, expected = (_code(c)[:80] if c else "no CRS" for c in (crs, frame.crs))
        raise UserError(
            f"{where}: coordinates in {told}, but tile {tile_id!r} is in {expected}; expected the tile's own, points "
            f"are not reprojected; in QGIS: Export > Save Features As... with CRS {expected}"
        )


# Writing


def write_points(path: str | Path, points: Mapping[str, Points], frames: Mapping[str, Frame], legend: Legend) -> None:
    """Writes the points of each tile, classes by name, in the form that `path` ends with: .csv, .geojson or .gpkg.

    `read_points` gives the same pixels and classes back, and for points drawn as `points.balanced` with its seed the
    same ranks. GeoJSON and GeoPackage open in QGIS over their tile, points at the centres of their pixels. Plain
    images all lie at the same place there, so that a file for each is easier on the eye.

    Raises:
      UserError: another ending; tiles in several CRSs, which one layer cannot hold; GeoJSON of a CRS without EPSG code.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".geojson", ".json", ".gpkg"):
        raise UserError(f"{path}: points to a {suffix!r} file; expected .csv, .geojson or .gpkg")
    rows = [
        (tile_id, int(row), int(col), legend.names[class_id])
        for tile_id, drawn in points.items()
        for row, col, class_id in zip(drawn.row, drawn.col, drawn.class_id, strict=True)
    ]
    partial = path.with_name(f"{path.stem}.partial{suffix}")
    partial.unlink(missing_ok=True)
    if suffix == ".csv":
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
    else:
        systems = {_code(crs) if (crs := frames[t].crs) else None for t in points}
        if len(systems) > 1:
            told = " and ".join(sorted("no CRS" if crs is None else crs[:80] for crs in systems))
            raise UserError(f"{path}: tiles in {told}; expected one CRS a file; write .csv, or a file for each")
        crs = next(iter(systems), None)
        places = [frames[tile_id].to_map(row + 0.5, col + 0.5) for tile_id, row, col, _ in rows]
        if suffix == ".gpkg":
            _write_geopackage(partial, rows, places, crs, layer=path.stem)
        else:
            partial.write_text(_geojson(path, rows, places, crs), encoding="utf-8")
    partial.replace(path)


def _geojson(
    path: Path, rows: list[tuple[str, int, int, str]], places: list[tuple[float, float]], crs: str | None
) -> str:
    features = [
        {
            "type": "Feature",
            "properties": {"tile_id": tile_id, "class": name},
            "geometry": {"type": "Point", "coordinates": place},
        }
        for (tile_id, _, _, name), place in zip(rows, places, strict=True)
    ]
    member = f'"crs": {json.dumps(_crs_member(path, crs))},\n' if crs else ""
    lines = ",\n".join(json.dumps(feature) for feature in features)
    return f'{{\n"type": "FeatureCollection",\n{member}"features": [\n{lines}\n]\n}}\n'


def _crs_member(path: Path, crs: str) -> dict[str, Any]:
    if not crs.startswith("EPSG:"):
        raise UserError(f"{path}: CRS {crs[:80]!r} has no EPSG code, which GeoJSON needs; write .gpkg")
    urn = "OGC:1.3:CRS84" if crs == "EPSG:4326" else crs.replace(":", "::")
    return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{urn}"}}


def _write_geopackage(
    path: Path, rows: list[tuple[str, int, int, str]], places: list[tuple[float, float]], crs: str | None, layer: str
) -> None:
    pyogrio, shapely = _geo("pyogrio"), _geo("shapely")
    fields = {"tile_id": [tile_id for tile_id, *_ in rows], "class": [name for *_, name in rows]}
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

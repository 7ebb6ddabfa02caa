"""Files of real points: CSV, GeoJSON or GeoPackage <-> the points of each tile.

CSV has the columns `tile_id,row,col,class`, in any order and among others: pixel coordinates, counted from 0 at
the top left; 3.7 lies in pixel 3.

GeoJSON and GeoPackage hold one point a feature, as QGIS exports them, with the fields `class` and `tile_id`.
Their coordinates are a georeferenced tile's own, in its CRS; nothing is reprojected. For an image without
georeference they are those at which QGIS shows it, x = column and y = -row: the pixel (row, col) has its centre at
(col + 0.5, -row - 0.5), and the CRS says nothing. Without a `tile_id` the point lies in the only tile, or in the
only georeferenced tile that covers it.

`class` is a name of the legend or else, where no class has that name, an id, the one that the masks of the dataset
have for it. The unknown class teaches nothing, so clicking it is an error.

A sample of reference points, as `reference_points` draws it, has the column or field `stratum` as well.

CSV and GeoJSON in the tile's own EPSG code need nothing but the standard library; the rest needs the extra `geo`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcejax import keys, point_features
from pcejax.errors import UserError
from pcejax.frames import Click, Frame, crs_code
from pcejax.legend import Legend
from pcejax.points import Points

_COLUMNS = ("tile_id", "row", "col", "class")


def read_points(
    path: str | Path, frames: Mapping[str, Frame], legend: Legend, seed: int, ids: Sequence[int] | None = None
) -> dict[str, Points]:
    """The points of every tile that the file has points of, by tile id in the order of `frames`.

    A person's order of clicking is not random, so a point's rank is not its place in the file but that of its
    pixel's key among the points of its tile and class: budget k per class and tile is `rank < k`, nested as in
    `balanced`. The order of the file makes no difference. A pixel clicked twice as the same class is one point.

    Args:
      path: a `.csv`, `.geojson`, `.json` or `.gpkg` file.
      frames: each tile that may be clicked, by its id.
      legend: the classes.
      seed: `points.seed`.
      ids: what the file calls each class of the legend by number; None for the legend's own order.

    Raises:
      UserError: the file, a point or a class is not as the module says; the message has the file, the line
        (CSV), feature (GeoJSON, counted from 1) or fid (GeoPackage), and the value.
    """
    known = range(legend.num_classes) if ids is None else ids
    found = clicked_classes(read_clicks(Path(path), frames), frames, legend, known)
    return {
        tile_id: ranked(found[tile_id], tile_id, frame, seed) for tile_id, frame in frames.items() if tile_id in found
    }


def read_clicks(path: Path, frames: Mapping[str, Frame]) -> list[Click]:
    """The clicks that a file holds, one or more, as it tells them.

    Raises:
      UserError: as `read_points`, but of what lies outside its tile or is no class.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        clicks = list(_csv_clicks(path, _read_text(path)))
    elif suffix in (".geojson", ".json"):
        clicks = list(point_features.feature_clicks(path, *point_features.read_geojson(path, _read_text(path)), frames))
    elif suffix == ".gpkg":
        clicks = list(point_features.feature_clicks(path, *point_features.read_geopackage(path), frames))
    else:
        raise UserError(f"{path}: points in a {suffix!r} file; expected .csv, .geojson or .gpkg")
    if not clicks:
        raise UserError(f"{path}: no point in it; expected at least one")
    return clicks


def clicked_classes(
    clicks: Sequence[Click], frames: Mapping[str, Frame], legend: Legend, ids: Sequence[int]
) -> dict[str, dict[tuple[int, int], int]]:
    """The class of each clicked (row, col), by tile id.

    Raises:
      UserError: a click is outside its tile or of no class, or two differ about a pixel.
    """
    found: dict[str, dict[tuple[int, int], tuple[int, str]]] = {}
    for click in clicks:
        pixel = click.pixel(frames)
        class_id = _class_id(click, legend, ids)
        class_before, where_before = found.setdefault(click.tile_id, {}).setdefault(pixel, (class_id, click.where))
        if class_before != class_id:
            raise UserError(
                f"{click.where}: row {pixel[0]}, col {pixel[1]} of tile {click.tile_id!r} is "
                f"{legend.names[class_id]!r} here and {legend.names[class_before]!r} in {where_before}; "
                "expected one class a pixel; remove one of the two"
            )
    return {tile: {pixel: class_id for pixel, (class_id, _) in of.items()} for tile, of in found.items()}


def ranked(classes: Mapping[tuple[int, int], int], tile_id: str, frame: Frame, seed: int) -> Points:
    """The points of a tile from the class of each clicked (row, col), ranked as `read_points` says."""
    row, col, class_id = np.array([(*pixel, class_id) for pixel, class_id in classes.items()]).T
    pixels = row * frame.width + col
    order = np.lexsort((keys.pixel_keys(seed, tile_id, pixels), class_id))
    row, col, class_id = row[order], col[order], class_id[order]
    rank = np.arange(len(order)) - np.searchsorted(class_id, class_id)
    order = np.argsort(rank, kind="stable")
    return Points(*(values[order].astype(np.int32) for values in (row, col, class_id, rank)))


def write_points(path: str | Path, points: Mapping[str, Points], frames: Mapping[str, Frame], legend: Legend) -> None:
    """Writes the points of each tile, classes by name, in the form that `path` ends with: .csv, .geojson or .gpkg.

    `read_points` gives the same pixels and classes back, and for points drawn as `balanced` with its seed the
    same ranks. GeoJSON and GeoPackage open in QGIS over their tile, points at the centres of their pixels. Plain
    images all lie at the same place there, so that a file for each is easier on the eye.

    Raises:
      UserError: another ending; tiles in several CRSs, which one layer cannot hold; GeoJSON of a CRS without EPSG code.
    """
    rows = [
        (tile_id, int(row), int(col), legend.names[class_id])
        for tile_id, drawn in points.items()
        for row, col, class_id in zip(drawn.row, drawn.col, drawn.class_id, strict=True)
    ]
    columns: Mapping[str, list[Any]] = {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}
    write_columns(Path(path), columns, frames)


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]], frames: Mapping[str, Frame]) -> None:
    """Writes points as `write_points`: `columns` has tile_id, row, col, class and any others, one value a point.

    Raises:
      UserError: as `write_points`.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".geojson", ".json", ".gpkg"):
        raise UserError(f"{path}: points to a {suffix!r} file; expected .csv, .geojson or .gpkg")
    partial = path.with_name(f"{path.stem}.partial{suffix}")
    partial.unlink(missing_ok=True)
    if suffix == ".csv":
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    else:
        systems = {crs_code(crs) if (crs := frames[t].crs) else None for t in columns["tile_id"]}
        if len(systems) > 1:
            told = " and ".join(sorted("no CRS" if crs is None else crs[:80] for crs in systems))
            raise UserError(f"{path}: tiles in {told}; expected one CRS a file; write .csv, or a file for each")
        crs = next(iter(systems), None)
        pixels = zip(*(columns[name] for name in ("tile_id", "row", "col")), strict=True)
        places = [frames[tile_id].to_map(row + 0.5, col + 0.5) for tile_id, row, col in pixels]
        fields = {name: values for name, values in columns.items() if name not in ("row", "col")}
        if suffix == ".gpkg":
            point_features.write_geopackage(partial, fields, places, crs, layer=path.stem)
        else:
            partial.write_text(point_features.to_geojson(path, fields, places, crs), encoding="utf-8")
    partial.replace(path)


# CSV


def _csv_clicks(path: Path, text: str) -> Iterator[Click]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
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
            yield Click(where, values["tile_id"], row, col, values["class"], values.get("stratum", ""))
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


# What a file and a click say


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


def _class_id(click: Click, legend: Legend, ids: Sequence[int]) -> int:
    text = click.class_text
    if text in legend.names:
        class_id = legend.names.index(text)
    elif re.fullmatch("[0-9]{1,9}", text) and int(text) in ids:
        class_id = ids.index(int(text))
    else:
        class_id = legend.num_classes
    if class_id >= legend.num_known:
        what = "the legend's unknown, which teaches nothing" if class_id < legend.num_classes else "not in the legend"
        what = what if text else "not filled in"
        known = ", ".join(f"{legend.names[i]} ({ids[i]})" for i in range(legend.num_known))
        raise UserError(
            f"{click.where}: class {text!r} is {what}; expected a name or an id of: {known}; "
            "correct or remove the point"
        )
    return class_id

"""Maps of classes, read strip by strip: a GeoTIFF of any size, or a PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcejax.datasets.legend_file import LegendFile, read_legend
from pcejax.datasets.rasters import is_tiff, open_tiff, read_raster
from pcejax.frames import Frame, import_geo
from pcejax.legend import DEEPGLOBE, IGNORE

_STRIP_PIXELS = 1 << 22
_MOST_DISTORTION = 0.01


class ClassMap(NamedTuple):
    """A map's file, where it lies, and what its values mean."""

    path: Path
    frame: Frame
    legend_file: LegendFile

    @property
    def name(self) -> str:
        """The `tile_id` of its points."""
        return self.path.stem


def open_map(path: Path, legend: Path | None) -> ClassMap:
    """The map in a file.

    Args:
      path: a GeoTIFF or PNG. Where it has colours or a colour table, they tell the classes, and else its numbers do.
      legend: a `legend.yaml` of the colours and numbers; None for DeepGlobe's.

    Raises:
      UserError: a file cannot be read.
    """
    legend_file = read_legend(legend) if legend else LegendFile(DEEPGLOBE, tuple(range(DEEPGLOBE.num_classes)), ())
    if is_tiff(path):
        with open_tiff(path) as file:
            frame = file.frame
    else:
        frame = Frame(*read_raster(path).valid.shape)
    return ClassMap(path, frame, legend_file)


def strips(class_map: ClassMap) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, class ids uint8 `[h, W]`) of each strip of the map; IGNORE where it has no class or the unknown one.

    Raises:
      UserError: a value is no class, or the file cannot be read.
    """
    path, _, legend_file = class_map
    for row, values, valid in _read_strips(path):
        ids = np.full(valid.shape, IGNORE, np.uint8)
        ids[valid] = legend_file.class_ids(values[valid], str(path))
        ids[ids >= legend_file.legend.num_known] = IGNORE
        yield row, ids


def hectares_of_a_pixel(frame: Frame) -> tuple[float, str]:
    """The area of a pixel, NaN where the map's coordinates do not tell it, and the reason.

    A CRS in degrees does not, nor one that distorts areas by more than 1 %, as Web Mercator does away from the equator.
    """
    if not frame.transform or not frame.crs:
        return math.nan, "the map is not georeferenced"
    crs = import_geo("rasterio").crs.CRS.from_user_input(frame.crs)
    if not crs.is_projected:
        return math.nan, f"{frame.crs[:40]} is not metric; reproject the map to an equal-area CRS"
    metres = crs.linear_units_factor[1]
    a, b, _, d, e, _ = frame.transform
    places = [frame.to_map(frame.height * v, frame.width * u) for u, v in _PLACES]
    worst = max((_true_area(crs, x, y) / metres**2 for x, y in places), key=lambda ratio: abs(1 - ratio))
    if not abs(1 - worst) <= _MOST_DISTORTION:
        return math.nan, f"{frame.crs[:40]} shows areas {1 / worst:.2f} times as large; reproject to an equal-area CRS"
    return abs(a * e - b * d) * metres**2 / 1e4, ""


_PLACES = ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))


def _true_area(crs: Any, x: float, y: float) -> float:
    """Square metres on the WGS 84 ellipsoid of a square of one unit around (x, y)."""
    half = 50.0
    xs, ys = [x - half, x + half, x, x], [y, y, y - half, y + half]
    lon, lat = (np.radians(v) for v in import_geo("rasterio.warp").transform(crs, "EPSG:4326", xs, ys))
    squared = 0.00669438  # of the eccentricity
    curved = 1 - squared * np.sin(lat.mean()) ** 2
    north = 6378137.0 * (1 - squared) / curved**1.5  # metres a radian of latitude
    east = 6378137.0 / curved**0.5 * np.cos(lat.mean())
    turned = (lon[1] - lon[0]) * (lat[3] - lat[2]) - (lon[3] - lon[2]) * (lat[1] - lat[0])
    return float(abs(turned) * north * east / (2 * half) ** 2)


def _read_strips(path: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, values `[h, W, 1]` or colours uint8 `[h, W, 3]`, and bool `[h, W]`: where they are."""
    if not is_tiff(path):
        raster = read_raster(path)
        yield 0, raster.pixels, raster.valid
        return
    with open_tiff(path) as file:
        height, width = file.frame[:2]
        rows = max(1, _STRIP_PIXELS // width)
        for row in range(0, height, rows):
            values, valid = file.read(row, min(row + rows, height))
            yield row, values if file.palette is None else file.palette[values[..., 0]], valid

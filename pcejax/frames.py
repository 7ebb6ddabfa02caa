"""Where tiles lie: native pixels, map coordinates and their reference systems; and a click on a tile."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pcejax.errors import UserError

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


class Click(NamedTuple):
    """A point as a file has it: pixel coordinates, counted from 0 at the top left, and what its class is called."""

    where: str  # the file and the line, feature or fid, for messages
    tile_id: str
    row: float
    col: float
    class_text: str
    stratum: str = ""  # of a point drawn by `reference_points`

    def pixel(self, frames: Mapping[str, Frame]) -> tuple[int, int]:
        """(row, col) of the pixel that was clicked.

        Raises:
          UserError: no such tile, or the click is outside of it.
        """
        frame = frame_of(self.where, self.tile_id, frames)
        if not frame.covers(self.row, self.col):
            raise UserError(
                f"{self.where}: row {self.row:.10g}, col {self.col:.10g} is outside tile {self.tile_id!r}; expected "
                f"0 <= row < {frame.height} and 0 <= col < {frame.width}; move or remove the point"
            )
        return math.floor(self.row), math.floor(self.col)


def frame_of(where: str, tile_id: str, frames: Mapping[str, Frame]) -> Frame:
    """The frame of a tile that `where` names.

    Raises:
      UserError: no such tile.
    """
    if tile_id not in frames:
        near = difflib.get_close_matches(tile_id, frames, cutoff=0.5) or list(frames)[:3]
        raise UserError(
            f"{where}: tile_id {tile_id!r} is none of the {len(frames)} tiles that may be clicked; "
            f"expected one such as {', '.join(map(repr, near))}"
        )
    return frames[tile_id]


def metres(frames: Sequence[Frame]) -> float:
    """The side of a pixel on the ground, the median of frames; 0 where some lie nowhere, or in no unit of length."""
    sides = []
    for frame in frames:
        if frame.transform is None or frame.crs is None:
            return 0.0
        crs = import_geo("rasterio").crs.CRS.from_user_input(frame.crs)
        if not crs.is_projected:
            return 0.0
        a, b, _, d, e, _ = frame.transform
        sides.append(math.sqrt(abs(a * e - b * d)) * crs.linear_units_factor[1])
    return statistics.median(sides)


def import_geo(module: str) -> Any:
    """A module of the extra `geo`.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is not installed; expected the extra geo: pip install -e .[geo]") from error


def _parse(crs: str) -> Any:
    rasterio = import_geo("rasterio")
    try:
        return rasterio.crs.CRS.from_user_input(crs)
    except ValueError as error:
        raise UserError(f"CRS {crs[:80]!r}: {error}; expected an EPSG code or WKT") from error


@functools.lru_cache(maxsize=64)
def crs_code(crs: str) -> str:
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
    one, other = crs_code(one), crs_code(other)
    coded = one.startswith("EPSG:") or other.startswith("EPSG:")
    return one == other if coded else _parse(one) == _parse(other)


def fits(crs: str | None, frame: Frame) -> bool:
    """Whether coordinates in `crs` are the tile's own."""
    return frame.crs is None or (crs is not None and _same(crs, frame.crs))


def check_crs(where: str, crs: str | None, tile_id: str, frame: Frame) -> None:
    """Checks that coordinates in `crs` are the tile's own.

    Raises:
      UserError: they are not; the message starts with `where`.
    """
    if not fits(crs, frame):
        told, expected = (crs_code(c)[:80] if c else "no CRS" for c in (crs, frame.crs))
        raise UserError(
            f"{where}: coordinates in {told}, but tile {tile_id!r} is in {expected}; expected the tile's own, points "
            f"are not reprojected; in QGIS: Export > Save Features As... with CRS {expected}"
        )

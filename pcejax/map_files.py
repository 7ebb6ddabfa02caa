"""Maps as GeoTIFFs, row by row: tiled, compressed, with overviews, laid out for the cloud (COG); whole or not there.

Rows and their overviews go into hidden files beside the map as they come, and GDAL makes the map of these in another
one, which is renamed at the end. A cut run leaves at most the hidden ones, which the next run overwrites.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax import saxutils

import numpy as np

from pcejax import interrupts
from pcejax.errors import UserError
from pcejax.frames import Frame, import_geo
from pcejax.legend import IGNORE, Legend

BLOCK = 512
"""Side of a file's blocks, pixels."""

SHARES = 250
"""What a probability of 1 is in a file; the file's scale tells so."""

WriteRows = Callable[[np.ndarray], None]
"""Takes the next rows uint8 `[bands, h, W]` of a file."""


class Content(NamedTuple):
    """What a file holds: bands of probabilities by name, or class ids of a legend; IGNORE is no data."""

    band_names: Sequence[str]
    legend: Legend | None = None


@contextlib.contextmanager
def map_file(path: Path, frame: Frame, content: Content) -> Iterator[WriteRows]:
    """A GeoTIFF of uint8 at `path` where `frame` lies; it is there once the block has ended without an error.

    A legend's colours are the colour table; its names are GDAL's category names, in `<path>.aux.xml` as GDAL keeps
    them, and tags `class_<id>` of the file.

    Raises:
      UserError: it cannot be written, or the disk is full.
    """
    rasterio = import_geo("rasterio")
    rows_file, cog_file = (path.with_name(f".{path.name}.{name}") for name in ("rows", "cog"))
    _remove(rows_file, cog_file)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": len(content.band_names),
        "crs": frame.crs,
        "transform": rasterio.Affine(*frame.transform) if frame.transform else None,
        "nodata": IGNORE,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "band",
        "bigtiff": "if_safer",
    }
    halved = _means if content.legend is None else _commonest
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, rows_file, cog_file)
        with _told(path):
            files = []
            for number in range(_num_levels(frame)):
                name = f"{rows_file}{'.ovr' * number}"  # GDAL takes <file>.ovr for the overview of <file>, and so on
                height, width = (-(-side // 2**number) for side in (frame.height, frame.width))
                file = rasterio.open(name, "w", height=height, width=width, **profile)
                files.append(stack.enter_context(file))
            file, level = files[0], _Level(files, halved)
            for band, name in enumerate(content.band_names, 1):
                file.set_band_description(band, name)
            if content.legend is not None:
                file.write_colormap(1, dict(enumerate(content.legend.colors)))
                file.update_tags(**{f"class_{n}": name for n, name in enumerate(content.legend.names)})
            else:
                file.scales = [1 / SHARES] * len(content.band_names)

        def write(rows: np.ndarray) -> None:
            with _told(path):
                level.write(rows)

        yield write
        with _told(path):
            level.close()
            options = {"overviews": "force_use_existing", "blocksize": BLOCK, "bigtiff": "if_safer"}
            options |= {"compress": "deflate", "level": 1, "num_threads": "all_cpus"}
            import_geo("rasterio.shutil").copy(rows_file, cog_file, driver="COG", **options)
            level.check(cog_file)
            with open(cog_file, "rb") as finished:
                os.fsync(finished)  # some disks and quotas tell that they are full only now
            if content.legend is not None:
                _categories_path(path).write_text(_categories(content.legend), encoding="utf-8")
            cog_file.replace(path)


def files_of(path: Path) -> list[Path]:
    """The files that a map of classes is made of."""
    return [path, _categories_path(path)]


def needed_bytes(frame: Frame, num_bands: int) -> int:
    """Upper bound of what writing a map takes on the disk: its rows and the map, with overviews, uncompressed."""
    blocks = -(-frame.height // BLOCK) * -(-frame.width // BLOCK)
    return blocks * BLOCK**2 * num_bands * 8 // 3 + 1_000_000


class _Level:
    """A map, or an overview of it: writes rows to a file once they fill a row of blocks, and half of them to the next.

    So no block is written twice. It keeps their check sums.
    """

    def __init__(self, files: list[Any], halved: Callable[[np.ndarray], np.ndarray]):
        self._file, self._halved = files[0], halved
        self._smaller = _Level(files[1:], halved) if files[1:] else None
        self._waiting: list[np.ndarray] = []
        self._digests: dict[tuple[int, int], int] = {}
        self._written = 0

    def write(self, rows: np.ndarray) -> None:
        """Takes the next rows uint8 `[bands, h, W]`."""
        self._waiting.append(rows)
        if sum(part.shape[1] for part in self._waiting) >= BLOCK:
            rows = np.concatenate(self._waiting, 1)
            whole = rows.shape[1] // BLOCK * BLOCK
            self._flush(rows[:, :whole])
            self._waiting = [rows[:, whole:]]

    def close(self) -> None:
        """Writes what waits."""
        self._flush(np.concatenate(self._waiting, 1))
        self._file.close()
        if self._smaller is not None:
            self._smaller.close()

    def check(self, path: Path, overview: int = -1) -> None:
        """Reads a copy back: on a full disk GDAL may close a file of which it could not write all, and say nothing."""
        with import_geo("rasterio").open(path, **{"overview_level": overview} if overview >= 0 else {}) as file:
            for place, digest in self._digests.items():
                if zlib.crc32(file.read(window=(place, (0, file.width)))) != digest:
                    raise OSError("what was written does not read back")
        if self._smaller is not None:
            self._smaller.check(path, overview + 1)

    def _flush(self, rows: np.ndarray) -> None:
        if not rows.shape[1]:
            return
        place = self._written, self._written + rows.shape[1]
        self._file.write(rows, window=(place, (0, rows.shape[2])))
        self._digests[place] = zlib.crc32(rows.tobytes())
        self._written = place[1]
        if self._smaller is not None:
            self._smaller.write(self._halved(rows))


def _num_levels(frame: Frame) -> int:
    """With the overviews, the last of which is a block or less."""
    return 1 + max(0, math.ceil(math.log2(max(frame.height, frame.width) / BLOCK)))


def _quarters(rows: np.ndarray) -> list[np.ndarray]:
    """The four pixels of each square of two by two in rows `[bands, h, W]`, which are filled up by their edge."""
    _, height, width = rows.shape
    even = np.pad(rows, [(0, 0), (0, height % 2), (0, width % 2)], mode="edge")
    return [np.ascontiguousarray(even[:, row::2, col::2]) for row in (0, 1) for col in (0, 1)]


def _commonest(rows: np.ndarray) -> np.ndarray:
    """Class ids at half the resolution: of each four pixels the commonest one, of two that are twice there either."""
    a, b, c, d = _quarters(rows)
    return np.where((b == c) | (b == d), b, np.where(c == d, c, a))


def _means(rows: np.ndarray) -> np.ndarray:
    """Numbers at half the resolution: of each four pixels the mean of those with data, rounded."""
    quarters = _quarters(rows)
    counts = sum((part != IGNORE).astype(np.uint16) for part in quarters)
    sums = sum(np.where(part == IGNORE, np.uint16(0), part) for part in quarters)
    means = (sums + counts // 2) // np.maximum(counts, 1)
    return np.where(counts > 0, means, IGNORE).astype(np.uint8)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except interrupts.Interrupted:
        raise
    except Exception as error:  # GDAL has many, and rasterio passes some of them on as they are
        free = shutil.disk_usage(path.parent).free / 1e6
        raise UserError(
            f"{path}: cannot be written: {' '.join(str(error).split())[:200]}; {free:,.0f} MB are free there now; "
            "expected room in a folder of yours; the unfinished map was removed"
        ) from error


def _categories_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.aux.xml")


def _categories(legend: Legend) -> str:
    """GDAL's own form, which QGIS reads as well."""
    names = "".join(f"      <Category>{saxutils.escape(name)}</Category>\n" for name in legend.names)
    return (
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{names}    </CategoryNames>\n'
        "  </PAMRasterBand>\n</PAMDataset>\n"
    )


def _remove(*paths: Path) -> None:
    for path in paths:
        for leftover in path.parent.glob(f"{glob.escape(path.name)}*"):
            leftover.unlink()

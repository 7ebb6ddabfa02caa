"""Maps as GeoTIFFs, row by row: tiled, compressed, with overviews, laid out for the cloud (COG); whole or not there.

Rows go into a hidden file beside the map, and GDAL makes the map of it in a second one, which is renamed at the end.
A cut run leaves at most the hidden ones, which the next run overwrites.
"""

from __future__ import annotations

import contextlib
import glob
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
    """What a file holds: bands of probabilities by name, and whether they are calibrated, or class ids of a legend;
    IGNORE is no data."""

    band_names: Sequence[str]
    legend: Legend | None = None
    calibration: str = ""  # in words, which are a tag of the file


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
        "height": frame.height,
        "width": frame.width,
        "crs": frame.crs,
        "transform": rasterio.Affine(*frame.transform) if frame.transform else None,
        "nodata": IGNORE,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "band",
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, rows_file, cog_file)
        with _told(path):
            file = stack.enter_context(rasterio.open(rows_file, "w", **profile))
            for band, name in enumerate(content.band_names, 1):
                file.set_band_description(band, name)
            if content.legend is not None:
                file.write_colormap(1, dict(enumerate(content.legend.colors)))
                file.update_tags(**{f"class_{n}": name for n, name in enumerate(content.legend.names)})
            else:
                file.scales = [1 / SHARES] * len(content.band_names)
                file.update_tags(calibration=content.calibration)
        blocks = _WholeBlocks(path, file)
        yield blocks.write
        blocks.close()
        with _told(path):
            options = {"overview_resampling": "mode" if content.legend is not None else "average", "blocksize": BLOCK}
            options |= {"compress": "deflate", "num_threads": "all_cpus", "bigtiff": "if_safer"}
            import_geo("rasterio.shutil").copy(rows_file, cog_file, driver="COG", **options)
            blocks.check(cog_file)
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
    return frame.height * frame.width * num_bands * 7 // 3 + 1_000_000


class _WholeBlocks:
    """Writes rows once they fill a row of blocks, so that none is compressed twice; keeps their check sums."""

    def __init__(self, path: Path, file: Any):
        self._path, self._file = path, file
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
        with _told(self._path):
            self._file.close()

    def check(self, path: Path) -> None:
        """Reads a copy back: on a full disk GDAL may close a file of which it could not write all, and say nothing."""
        with import_geo("rasterio").open(path) as file:
            for place, digest in self._digests.items():
                if zlib.crc32(file.read(window=(place, (0, file.width))).tobytes()) != digest:
                    raise OSError("what was written does not read back")

    def _flush(self, rows: np.ndarray) -> None:
        place = self._written, self._written + rows.shape[1]
        if rows.shape[1]:
            with _told(self._path):
                self._file.write(rows, window=(place, (0, rows.shape[2])))
            self._digests[place] = zlib.crc32(rows.tobytes())
        self._written = place[1]


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

"""Image and mask files of one's own: PNG and JPEG by Pillow, TIFF and GeoTIFF by rasterio (extra `geo`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pcejax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_DTYPES = ("uint8", "uint16", "int16", "float32")


class Raster(NamedTuple):
    """A file's bands and where on the ground they lie.

    `pixels` is `[H, W, bands]`; `valid` bool `[H, W]`, False where the file has no data; `transform` is the affine
    map a, b, c, d, e, f with x = a col + b row + c and y = d col + e row + f, and `crs` its reference system, both
    None for a file that lies nowhere.
    """

    pixels: np.ndarray
    valid: np.ndarray
    transform: tuple[float, float, float, float, float, float] | None
    crs: str | None


def read_raster(path: Path, *, indices: bool = False) -> Raster:
    """The raster in a PNG, JPEG or TIFF file; an alpha band is not among the bands, but says where data are.

    Args:
      path: of the file.
      indices: whether a palette's indices are the pixels, as in masks, or its colours.

    Raises:
      UserError: the file cannot be read, has another type of number, or is a TIFF and the extra `geo` is missing.
    """
    raster = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_picture(path, indices)
    if raster.pixels.dtype.name not in _DTYPES:
        raise UserError(f"{path}: numbers are {raster.pixels.dtype}; expected one of {', '.join(_DTYPES)}; convert it")
    return raster


def _read_picture(path: Path, indices: bool) -> Raster:
    try:
        image: Image.Image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow tells of a broken PNG by SyntaxError
        raise UserError(f"{path}: cannot be read: {error}; expected a whole PNG or JPEG; get the file anew") from error
    if image.mode == "P" and not indices:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pixels = np.asarray(image)
    valid = np.ones(pixels.shape[:2], bool)
    if image.mode in ("RGBA", "LA"):
        pixels, valid = pixels[..., :-1], pixels[..., -1] > 0
    if pixels.dtype == np.int32:  # Pillow's mode of a 16-bit grey PNG
        pixels = pixels.astype(np.uint16)
    return Raster(pixels if pixels.ndim == 3 else pixels[..., None], valid, None, None)


def import_rasterio(path: Path) -> Any:
    """rasterio, which opens `path`.

    Raises:
      UserError: it is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise UserError(f"{path}: TIFF files need the extra `geo`: pip install -e .[geo]") from error
    return rasterio


def _read_tiff(path: Path) -> Raster:
    rasterio = import_rasterio(path)
    try:
        with rasterio.open(path) as file:
            alpha = [kind == rasterio.enums.ColorInterp.alpha for kind in file.colorinterp]
            pixels = file.read([band for band, is_alpha in enumerate(alpha, 1) if not is_alpha])
            valid = file.dataset_mask() > 0
            transform, crs = tuple(file.transform)[:6], file.crs.to_string() if file.crs else None
    except rasterio.errors.RasterioError as error:
        raise UserError(f"{path}: cannot be read: {error}; expected a whole TIFF; get the file anew") from error
    pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if np.issubdtype(pixels.dtype, np.floating):
        valid &= np.isfinite(pixels).all(-1)
    return Raster(pixels, valid, transform if crs else None, crs)

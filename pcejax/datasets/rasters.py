"""Image and mask files of one's own: PNG and JPEG by Pillow, TIFF and GeoTIFF by rasterio (extra `geo`)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pcejax.errors import UserError
from pcejax.frames import Frame, import_geo

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_DTYPES = ("uint8", "uint16", "int16", "float32")

_OPAQUE = (255, 32767, 65535)  # in an alpha band, as GDAL writes it into types of 8 and 16 bits

_ENOUGH = 1_000_000  # pixels above 0 that tell whether a band is alpha


class Raster(NamedTuple):
    """A file's bands, all or chosen ones of `num_bands`, and where on the ground they lie.

    `pixels` is `[H, W, bands]`, 0 where there are no data; `valid` bool `[H, W]`, False there; `transform` is the
    affine map a, b, c, d, e, f with x = a col + b row + c and y = d col + e row + f, and `crs` its reference system,
    both None for a file that lies nowhere.
    """

    pixels: np.ndarray
    valid: np.ndarray
    transform: tuple[float, float, float, float, float, float] | None
    crs: str | None
    num_bands: int


def read_raster(path: Path, *, indices: bool = False, bands: Sequence[int] = ()) -> Raster:
    """The raster in a PNG, JPEG or TIFF file; an alpha band is not among the bands, but says where data are.

    Args:
      path: of the file.
      indices: whether a palette's indices are the pixels, as in masks, or its colours.
      bands: counted from 1, in the order wanted; () for all. A band of a TIFF that is named is not taken for alpha.

    Raises:
      UserError: the file cannot be read, has another type of number, lacks one of the bands, or is a TIFF and the extra
        `geo` is missing.
    """
    raster = _read_tiff(path, indices, bands) if is_tiff(path) else _read_picture(path, indices, bands)
    if raster.pixels.dtype.name not in _DTYPES:
        raise UserError(f"{path}: numbers are {raster.pixels.dtype}; expected one of {', '.join(_DTYPES)}; convert it")
    pixels = np.where(raster.valid[..., None], raster.pixels, raster.pixels.dtype.type(0))
    return raster._replace(pixels=pixels)


def _check_chosen(path: Path, bands: Sequence[int], num_bands: int) -> None:
    if any(not 1 <= band <= num_bands for band in bands):
        raise UserError(
            f"{path}: bands {', '.join(map(str, bands))} of {num_bands}; expected numbers from 1 to as many"
        )


def _read_picture(path: Path, indices: bool, bands: Sequence[int]) -> Raster:
    try:
        with Image.open(path) as image:
            encoding = str(image.tile)  # gone once it is loaded
            image.load()
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: cannot be read: {error}; cut it into tiles") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow tells of a broken PNG by SyntaxError
        raise UserError(f"{path}: cannot be read: {error}; expected a whole PNG or JPEG; get the file anew") from error
    if ";16B" in encoding and image.mode != "I;16":
        raise UserError(f"{path}: colours of 16 bits, of which Pillow keeps 8; expected a TIFF of them; convert it")
    if image.mode == "I;16" or (indices and image.mode in ("1", "P")):
        pixels = np.atleast_3d(np.asarray(image))
        pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
        valid = np.ones(pixels.shape[:2], bool)
    else:
        # One way for all others, palettes, CMYK and transparent colours among them.
        pixels = np.asarray(image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA"))
        pixels, valid = pixels[..., :-1], pixels[..., -1] > 0
    num_bands = pixels.shape[-1]
    _check_chosen(path, bands, num_bands)
    return Raster(pixels[..., [band - 1 for band in bands]] if bands else pixels, valid, None, None, num_bands)


def _read_tiff(path: Path, indices: bool, bands: Sequence[int]) -> Raster:
    with open_tiff(path, bands) as file:
        _check_chosen(path, bands, file.file.count)
        if not indices:
            file.check_bands()
        pixels, valid = file.read(0, file.frame.height)
        return Raster(pixels, valid, file.frame.transform, file.frame.crs, file.num_bands)


class Tiff(NamedTuple):
    """An open TIFF. Bands are counted without an alpha band; `palette` uint8 `[n, 3]` holds the colours of a table.

    `bands` are those that `read` gives, counted from 1; `masks` those whose masks tell where data are, None for all.
    """

    path: Path
    frame: Frame
    num_bands: int
    bands: list[int]
    masks: list[int] | None
    dtype: str  # that `read` gives: float32 of float64
    palette: np.ndarray | None
    file: Any  # of rasterio

    def check_bands(self) -> None:
        """Checks that the pixels are bands.

        Raises:
          UserError: they are a palette's indices.
        """
        if self.palette is not None:
            raise UserError(f"{self.path}: holds a palette's indices; expected bands; in QGIS: PCT to RGB")

    def read(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[first, stop)`: pixels `[rows, W, bands]`, and bool `[rows, W]`, False where there are no data.

        Raises:
          UserError: the file is damaged.
        """
        window = ((first, stop), (0, self.frame.width))
        with _told(self.path):
            pixels = np.moveaxis(self.file.read(self.bands, window=window), 0, -1)
            if self.masks is None:
                valid = self.file.dataset_mask(window=window) > 0
            else:
                valid = (self.file.read_masks(self.masks, window=window) > 0).any(0)
        pixels = pixels.astype(self.dtype, copy=False)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(-1)
        return pixels, valid


@contextlib.contextmanager
def open_tiff(path: Path, bands: Sequence[int] = ()) -> Iterator[Tiff]:
    """A TIFF or GeoTIFF of any size, to be read by rows.

    Args:
      path: of the file.
      bands: to be read, counted from 1; () for all but alpha. One that is named is not taken for alpha.

    Raises:
      UserError: it cannot be read, or the extra `geo` is missing.
    """
    try:
        rasterio = import_geo("rasterio")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with _told(path), warnings.catch_warnings():
        # A TIFF may well lie nowhere.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(path)
    with file:
        transform = None if file.transform.is_identity else tuple(file.transform)[:6]
        frame = Frame(file.height, file.width, transform, file.crs.to_string() if file.crs else None)
        palette = None
        if file.colorinterp[0] == rasterio.enums.ColorInterp.palette:
            palette = np.array([color[:3] for _, color in sorted(file.colormap(1).items())], np.uint8)
        dtype = file.dtypes[0] if file.dtypes[0] != "float64" else "float32"
        tagged = [n for n, kind in enumerate(file.colorinterp, 1) if kind.name == "alpha"]
        with _told(path):
            alpha = [n for n in tagged if n not in bands and _is_alpha(file, n)]
        colors = [n for n in file.indexes if n not in alpha]
        masks = None
        if alpha != tagged:  # what GDAL has as the mask of other bands is a band
            flags = rasterio.enums.MaskFlags
            masks = [n for n, kinds in enumerate(file.mask_flag_enums, 1) if flags.alpha not in kinds]
        yield Tiff(path, frame, len(colors), list(bands) or colors, masks, dtype, palette, file)


def is_tiff(path: Path) -> bool:
    """Whether a file's name is a TIFF's."""
    return path.suffix.lower() in (".tif", ".tiff")


def _is_alpha(file: Any, band: int) -> bool:
    """Whether a band tagged as alpha is: most of its pixels above 0 are opaque, as they are with soft edges too.

    GDAL tags the last of four bands of 8 bits so unless it is told otherwise, be it near infrared. Blocks are read in a
    random order, always the same, until they tell.
    """
    blocks = [window for _, window in file.block_windows(band)]
    above = opaque = 0
    for index in np.random.default_rng(0).permutation(len(blocks)):
        values = file.read(band, window=blocks[index])
        above += int(np.count_nonzero(values))
        opaque += int(np.isin(values, _OPAQUE).sum())
        if above >= _ENOUGH:
            break
    return 2 * opaque >= above


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except import_geo("rasterio").errors.RasterioError as error:
        raise UserError(f"{path}: cannot be read: {error}; expected a whole TIFF; get the file anew") from error

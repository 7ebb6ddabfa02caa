import struct
import sys
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from pcejax.datasets import rasters
from pcejax.datasets.rasters import read_raster
from pcejax.errors import UserError

TRANSFORM = (10.0, 0.0, 342170.0, 0.0, -10.0, 3836350.0)


def random_pixels(bands, dtype="uint8", shape=(11, 13), seed=0):
    values = np.random.default_rng(seed).integers(1, 200, (*shape, bands))
    return values.astype(dtype)


def write_tiff(path, pixels, **profile):
    """Pixels `[H, W, bands]` as a GeoTIFF."""
    height, width, count = pixels.shape
    profile = {"crs": "EPSG:32652", "transform": Affine(*TRANSFORM), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype, **profile
    ) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def write_png16(path, colors):
    """Colours uint16 `[H, W, 3]` as a PNG of 16 bits, which Pillow does not write."""
    height, width, _ = colors.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def read_picture(folder, image, indices=False, name="a.png", **options):
    image.save(folder / name, **options)
    return read_raster(folder / name, indices=indices)


# Pictures


def test_pictures_are_read_as_stored(tmp_path):
    for bands in (1, 3):
        pixels = random_pixels(bands)
        got = read_picture(tmp_path, Image.fromarray(pixels.squeeze()))
        np.testing.assert_array_equal(got.pixels, pixels)
        assert got.pixels.dtype == np.uint8
        assert got.valid.all()
        assert (got.transform, got.crs) == (None, None)
    deep = random_pixels(1, "uint16") * 300
    got = read_picture(tmp_path, Image.fromarray(deep[..., 0]))
    np.testing.assert_array_equal(got.pixels, deep)
    assert got.pixels.dtype == np.uint16


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_no_band_but_says_where_data_are(tmp_path, mode):
    bands = len(mode) - 1
    pixels = random_pixels(bands + 1)
    pixels[2:5, 3:7, -1] = 0
    got = read_picture(tmp_path, Image.fromarray(pixels))
    np.testing.assert_array_equal(got.valid, pixels[..., -1] > 0)
    np.testing.assert_array_equal(got.pixels[got.valid], pixels[..., :-1][got.valid])
    assert got.pixels.shape == (11, 13, bands)
    assert (got.pixels[~got.valid] == 0).all()


@pytest.mark.parametrize("transparent", [None, 1], ids=["opaque", "transparent"])
def test_a_palette_gives_its_colours_or_its_indices(tmp_path, transparent):
    ids = np.random.default_rng(0).integers(0, 3, (11, 13)).astype(np.uint8)
    colors = np.array([[9, 8, 7], [50, 60, 70], [255, 0, 1]], np.uint8)
    image = Image.fromarray(ids).convert("P")
    image.putpalette(colors.tobytes())
    options = {} if transparent is None else {"transparency": transparent}
    got = read_picture(tmp_path, image, **options)
    np.testing.assert_array_equal(got.valid, ids != transparent if transparent is not None else np.ones_like(ids))
    np.testing.assert_array_equal(got.pixels[got.valid], colors[ids][got.valid])
    got = read_picture(tmp_path, image, indices=True, **options)
    np.testing.assert_array_equal(got.pixels[..., 0], ids)
    assert got.valid.all()


def test_a_mask_of_one_bit_has_the_ids_zero_and_one(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2, (11, 13)).astype(bool)
    got = read_picture(tmp_path, Image.fromarray(ids), indices=True)
    assert got.pixels.dtype == np.uint8
    np.testing.assert_array_equal(got.pixels[..., 0], ids)


def test_a_cmyk_jpeg_has_three_bands(tmp_path):
    image = Image.new("RGB", (13, 11), (200, 30, 60)).convert("CMYK")
    got = read_picture(tmp_path, image, name="a.jpg")
    assert got.pixels.shape == (11, 13, 3)
    assert np.abs(got.pixels.astype(int) - (200, 30, 60)).max() < 12


def test_colours_of_16_bits_are_not_cut_to_8(tmp_path):
    path = write_png16(tmp_path / "deep.png", random_pixels(3, "uint16") * 300)
    with pytest.raises(UserError, match=r"deep.png: colours of 16 bits, .*; expected a TIFF of them; convert it"):
        read_raster(path)


def test_a_picture_too_large_to_open_is_told(tmp_path, monkeypatch):
    Image.fromarray(random_pixels(3)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"large.png: cannot be read: Image size \(143 pixels\).*; cut it into tiles"):
        read_raster(tmp_path / "large.png")


# TIFFs


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 5])
def test_a_geotiff_is_read_with_where_it_lies(tmp_path, bands, dtype):
    pixels = random_pixels(bands, dtype)
    got = read_raster(write_tiff(tmp_path / "a.tif", pixels))
    assert got.pixels.dtype == dtype
    np.testing.assert_array_equal(got.pixels, pixels)
    assert got.valid.all()
    assert (got.transform, got.crs) == (TRANSFORM, "EPSG:32652")


@pytest.mark.filterwarnings("error")
def test_a_tiff_that_lies_nowhere_is_read_without_a_warning(tmp_path):
    Image.fromarray(random_pixels(3)).save(tmp_path / "a.tif")
    got = read_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(got.pixels, random_pixels(3))
    assert (got.transform, got.crs) == (None, None)


def test_nodata_alpha_and_nan_are_not_valid_and_read_zero(tmp_path):
    hole = np.s_[2:5, 3:7]
    expected = np.ones((11, 13), bool)
    expected[hole] = False
    deep, real, alpha = random_pixels(5, "uint16"), random_pixels(5, "float32"), random_pixels(4)
    alpha[..., 3] = 255
    alpha[1:6, 2:8, 3] = 128  # a soft edge
    deep[hole], real[hole], alpha[(*hole, 3)] = 7777, np.nan, 0
    rgba = {"photometric": "RGB", "alpha": "YES"}
    for pixels, bands, profile in ((deep, 5, {"nodata": 7777}), (real, 5, {}), (alpha, 3, rgba)):
        got = read_raster(write_tiff(tmp_path / "a.tif", pixels, **profile))
        np.testing.assert_array_equal(got.valid, expected)
        np.testing.assert_array_equal(got.pixels[expected], pixels[expected][:, :bands])
        assert (got.pixels[hole] == 0).all()
    # A number that is not finite in one band alone is no data either.
    real[..., 1:] = random_pixels(4, "float32")
    assert not read_raster(write_tiff(tmp_path / "a.tif", real)).valid[hole].any()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NodataShadowWarning")  # a true one: no data are where nodata is
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"nodata": 0}])
def test_a_fourth_band_that_gdal_tags_as_alpha_is_a_band_where_it_is_not_opaque(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(rasters, "_ENOUGH", 100)
    pixels = random_pixels(4, shape=(60, 70))
    pixels[:20, :, 3], pixels[20:25, :, 3] = 0, 255
    pixels[30:33, 5:9] = 0  # no data only where that is declared: in all bands
    expected = np.ones((60, 70), bool)
    expected[30:33, 5:9] = "nodata" not in layout
    path = write_tiff(tmp_path / "a.tif", pixels, **layout)
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    for bands in ((), (4, 1, 2), (1, 2)):
        got = read_raster(path, bands=bands)
        np.testing.assert_array_equal(got.pixels, pixels[..., [n - 1 for n in bands or (1, 2, 3, 4)]])
        np.testing.assert_array_equal(got.valid, expected)
        assert got.num_bands == 4


def test_an_alpha_band_is_a_band_where_it_is_named(tmp_path):
    pixels = random_pixels(4)
    pixels[..., 3] = 255
    pixels[2:5, 3:7, 3] = 0
    path = write_tiff(tmp_path / "a.tif", pixels)
    named, others = read_raster(path, bands=(4, 1)), read_raster(path, bands=(2, 1))
    np.testing.assert_array_equal(named.pixels, pixels[..., [3, 0]])
    assert named.valid.all()
    np.testing.assert_array_equal(others.valid, pixels[..., 3] > 0)
    assert (named.num_bands, others.num_bands) == (4, 3)
    with pytest.raises(UserError, match=r"a.tif: bands 5 of 4; expected numbers from 1 to as many"):
        read_raster(path, bands=(5,))


def test_real_numbers_of_64_bits_become_32(tmp_path):
    assert read_raster(write_tiff(tmp_path / "a.tif", random_pixels(2, "float64"))).pixels.dtype == np.float32


def test_a_palette_tiff_is_a_mask_but_no_image(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_pixels(1), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {index: (index, 0, 0, 255) for index in range(256)})
    np.testing.assert_array_equal(read_raster(path, indices=True).pixels, random_pixels(1))
    with pytest.raises(UserError, match=r"a.tif: holds a palette's indices; expected bands"):
        read_raster(path)


# What is refused


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"no image" * 20])
def test_what_is_no_whole_file_is_told_by_its_name(tmp_path, suffix, damage):
    path = tmp_path / f"bad.{suffix}"
    if suffix == "tif":
        write_tiff(path, random_pixels(5, "uint16", (60, 60)))
    else:
        Image.fromarray(random_pixels(3, shape=(60, 60))).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"bad.{suffix}: cannot be read: .*; expected a whole .*; get the file anew"):
        read_raster(path)


def test_other_types_of_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a.tif: numbers are int32; expected one of uint8, uint16, int16, float32"):
        read_raster(write_tiff(tmp_path / "a.tif", random_pixels(1, "int32")))


def test_a_tiff_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", random_pixels(1))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"a.tif: rasterio is not installed; .*pip install -e \.\[geo\]"):
        read_raster(path)

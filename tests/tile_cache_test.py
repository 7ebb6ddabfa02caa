import numpy as np
import pytest
from datasets_folder_test import SHAPE, config_of, own_folder, prepare
from datasets_rasters_test import random_pixels, write_tiff

from pcejax import tile_cache, tiles
from pcejax.errors import UserError


def test_an_array_is_made_once_and_mapped_read_only(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(12, dtype=np.uint16).reshape(3, 4)

    path = tile_cache.path_of(tmp_path / "set", "tile", b"encoded", 2)
    for _ in range(2):
        array = tile_cache.mapped(path, make)
        np.testing.assert_array_equal(array, make())
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert len(made) == 3  # once for the file, twice for the comparison
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def stored(value, shape=(2, 3, 4)):
    """An image that is no picture, as TFDS gives it."""
    return {"shape": np.array(shape, np.int32), "value": value}


@pytest.mark.parametrize(("image", "other"), [(b"x", b"y"), (stored(b"x"), stored(b"y"))], ids=["picture", "array"])
def test_another_image_tile_or_reduction_is_another_file(tmp_path, image, other):
    paths = {
        tile_cache.path_of(tmp_path, *key)
        for key in (("a", image, 1), ("b", image, 1), ("a", other, 1), ("a", image, 2), ("a", image, 1))
    }
    assert len(paths) == 4


def test_another_shape_is_another_image(tmp_path):
    paths = [tile_cache.path_of(tmp_path, "a", stored(b"x", shape), 1) for shape in ((2, 3, 4), (3, 2, 4))]
    assert paths[0] != paths[1]


def test_what_fails_to_be_made_leaves_no_file(tmp_path):
    def fail():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (the test's own)
        tile_cache.mapped(tmp_path / "set" / "a.npy", fail)
    assert not list((tmp_path / "set").iterdir())


def test_too_little_space_is_told_with_both_numbers(tmp_path):
    tile_cache.check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError, match=r"decoded tiles take 1000000000\.00 GB more, the disk has .* GB free"):
        tile_cache.check_space(tmp_path, 10**18)


def test_tiles_of_other_bands_than_a_pictures_are_the_same_from_the_cache_as_on_the_device(tmp_path):
    root = own_folder(tmp_path, points=("a,1,1,40", "b,2,9,7"))
    for seed, tile in enumerate(("a", "b")):
        write_tiff(root / "images" / f"{tile}.tif", random_pixels(4, "uint16", SHAPE, seed) * 300)
    prepare(root)
    expected = tiles.load(config_of(root)).images
    host = {"data.tiles": "host", "data.cache_dir": str(tmp_path / "cache")}
    for _ in range(2):  # written, and found
        for image, on_device in zip(tiles.load(config_of(root, **host)).images, expected, strict=True):
            assert isinstance(image, np.memmap)
            assert image.dtype == np.uint16
            np.testing.assert_array_equal(image, on_device)

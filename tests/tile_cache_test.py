import numpy as np
import pytest

from pcejax import tile_cache
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


def test_another_image_tile_or_reduction_is_another_file(tmp_path):
    paths = {
        tile_cache.path_of(tmp_path, *key)
        for key in (("a", b"x", 1), ("b", b"x", 1), ("a", b"y", 1), ("a", b"x", 2), ("a", b"x", 1))
    }
    assert len(paths) == 4


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

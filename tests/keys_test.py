import hashlib
import itertools

import numpy as np

from pcejax.keys import first_tiles, pixel_keys, unit


def test_the_keys_are_splitmix64():
    # Written again in Python's integers; the start for (0, "119") is the first 8 bytes of blake2b("0:119").
    wrap = (1 << 64) - 1
    start = int.from_bytes(hashlib.blake2b(b"0:119", digest_size=8).digest(), "little")
    expected = []
    for pixel in range(1, 50):
        z = (start + pixel * 0x9E3779B97F4A7C15) & wrap
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & wrap
        expected.append(z ^ z >> 31)
    assert pixel_keys(0, "119", np.arange(49)).tolist() == expected


def test_a_pixels_key_does_not_depend_on_the_other_pixels():
    keys = pixel_keys(3, "a", np.arange(100))
    for pixels in ([7], [99, 0, 7], [[5, 6], [7, 8]]):
        np.testing.assert_array_equal(pixel_keys(3, "a", np.array(pixels)), keys[np.array(pixels)])


def test_the_seed_and_the_tile_are_told_apart():
    # Seed 1 of tile "23" is not seed 12 of tile "3".
    assert pixel_keys(1, "23", np.arange(4)).tolist() != pixel_keys(12, "3", np.arange(4)).tolist()


def test_streams_are_independent():
    pixels = np.arange(20_000)
    draws = [unit(pixel_keys(0, "119", pixels, stream)) for stream in ("", "jitter", "noise")]
    correlation = np.abs(np.corrcoef(draws) - np.eye(3)).max()
    # Five standard deviations; half a stream taken over from another one is far beyond.
    assert correlation < 5 / np.sqrt(len(pixels))
    mixed = np.where(pixels % 2 == 0, draws[0], draws[1])
    assert np.corrcoef(mixed, draws[0])[0, 1] > 5 / np.sqrt(len(pixels))


def test_unit_draws_lie_evenly_below_one_in_the_keys_order():
    keys = pixel_keys(0, "119", np.arange(16_000))
    draws = unit(keys)
    assert draws.dtype == np.float64
    assert unit(np.array([0, 2**64 - 1], np.uint64)).tolist() == [0.0, 1.0 - 2.0**-53]
    np.testing.assert_array_equal(np.argsort(draws), np.argsort(keys))
    counts = np.bincount((draws * 16).astype(int), minlength=16)
    # Chi-square with 15 degrees of freedom: above 45 once in 10,000 times.
    assert ((counts - 1000) ** 2 / 1000).sum() < 45


def test_fewer_tiles_are_among_more_whatever_split_they_come_from():
    tile_ids = [str(100 + index) for index in range(30)]
    chosen = [{tile_ids[index] for index in first_tiles(tile_ids, count, 5)} for count in range(31)]
    for count, (fewer, more) in enumerate(itertools.pairwise(chosen)):
        assert fewer < more
        assert len(fewer) == count
    # In another order of the split, or with a tile left out, the same tiles are first.
    assert {tile_ids[::-1][index] for index in first_tiles(tile_ids[::-1], 7, 5)} == chosen[7]
    spared = sorted(chosen[30] - chosen[7])[0]
    rest = [tile_id for tile_id in tile_ids if tile_id != spared]
    assert {rest[index] for index in first_tiles(rest, 7, 5)} == chosen[7]
    assert first_tiles(tile_ids, 7, 5) == sorted(first_tiles(tile_ids, 7, 5))


def test_these_tiles_come_first_for_ever():
    assert first_tiles([str(index) for index in range(12)], 4, 0) == [2, 9, 10, 11]


def test_every_tile_comes_first_as_often():
    tile_ids = [str(index) for index in range(10)]
    counts = np.bincount(np.concatenate([first_tiles(tile_ids, 3, seed) for seed in range(1000)]), minlength=10)
    # Binomial with p = 0.3; the first three of the list would be at 1000.
    assert np.abs(counts - 300).max() < 4.5 * np.sqrt(1000 * 0.3 * 0.7)

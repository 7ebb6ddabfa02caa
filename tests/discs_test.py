import numpy as np
import pytest

from pcejax.discs import disc, stamp


@pytest.mark.parametrize("radius", [0, 1, 2.5, 7])
def test_a_disc_holds_the_pixels_within_its_radius(radius):
    got = disc(radius)
    reach = int(radius)
    assert got.shape == (2 * reach + 1, 2 * reach + 1)
    for row, col in np.ndindex(*got.shape):
        assert got[row, col] == (np.hypot(row - reach, col - reach) <= radius)


def test_a_stamp_sets_what_of_it_lies_on_the_target():
    shape = disc(3)
    for row, col in [(0, 0), (5, 4), (9, 6), (0, 6), (9, 0)]:
        target = np.zeros((10, 7), bool)
        target[5, 0] = True
        stamp(target, shape, row, col)
        rows, cols = np.indices(target.shape)
        expected = np.hypot(rows - row, cols - col) <= 3
        expected[5, 0] = True
        np.testing.assert_array_equal(target, expected)

import itertools

import numpy as np
import pytest
import scipy.ndimage

from configs import default
from pcejax.label_options import label_options
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.points import balanced, component, draw
from pcejax.scribbles import block, scribble

UNKNOWN = DEEPGLOBE.num_known
EIGHT = np.ones((3, 3))


def options_of(**fields):
    return label_options(default.get_config().points.to_dict() | {"annotator": "scribble", "min_area": 1} | fields)


def scribbled(mask, tile_id="119", **fields):
    return scribble(mask, tile_id, options_of(**fields), DEEPGLOBE)


def land(seed, shape=(90, 110)):
    """Smooth random regions of all classes, unknown and IGNORE."""
    noise = np.random.default_rng(seed).normal(size=(8, *shape))
    regions = scipy.ndimage.gaussian_filter(noise, (0, 5, 5)).argmax(0)
    return np.where(regions == 7, IGNORE, regions).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_each_component_has_a_stroke_of_its_class_and_nothing_else_has(seed):
    mask = land(seed)
    label = scribbled(mask, min_area=20)
    assert label.dtype == np.uint8
    taught = label != IGNORE
    np.testing.assert_array_equal(label[taught], mask[taught])
    assert label[taught].max() < UNKNOWN
    large = component(mask, 20, DEEPGLOBE)
    for pixels in large:
        assert (label.ravel()[pixels] != IGNORE).any()
        taught.ravel()[pixels] = False
    assert not taught.any()
    assert len(large) > 10


@pytest.mark.parametrize("seed", range(3))
def test_a_stroke_is_in_one_piece(seed):
    mask = land(seed)
    for share in (0.3, 1.0):
        label = scribbled(mask, min_area=20, scribble_width=1, scribble_share=share)
        for pixels in component(mask, 20, DEEPGLOBE):
            stroke = np.zeros(mask.size, bool)
            stroke[pixels] = label.ravel()[pixels] != IGNORE
            assert scipy.ndimage.label(stroke.reshape(mask.shape), EIGHT)[1] == 1


def test_the_stroke_of_a_bar_is_its_middle_line():
    mask = np.full((60, 300), UNKNOWN, np.uint8)
    mask[20:41, 30:270] = 2
    row, col = np.nonzero(scribbled(mask, scribble_width=1, scribble_share=1.0) != IGNORE)
    inner = (col > 60) & (col < 240)
    assert np.abs(row[inner] - 30).max() <= 2
    assert set(col) >= set(range(32, 268))
    # A random walk from end to end would be nowhere near.
    assert np.abs(row[inner] - 30).mean() < 1


def test_a_large_component_has_its_centre_line_too():
    # More pixels than the graph has nodes: blocks of several.
    mask = np.full((300, 900), UNKNOWN, np.uint8)
    mask[50:251, 50:850] = 2
    row, col = np.nonzero(scribbled(mask, scribble_width=1, scribble_share=1.0) != IGNORE)
    inner = (col > 250) & (col < 650)
    assert np.abs(row[inner] - 150).max() < 20


def test_a_stroke_follows_a_bent_component_from_end_to_end():
    row, col = np.indices((200, 200))
    radius = np.hypot(row - 100, col - 100)
    mask = np.where((radius > 60) & (radius < 84) & ~((col > 100) & (np.abs(row - 100) < 20)), 3, UNKNOWN)
    label = scribbled(mask.astype(np.uint8), scribble_width=1, scribble_share=1.0)
    stroke = label != IGNORE
    assert np.abs(radius[stroke] - 72).mean() < 3
    angles = np.unique((np.degrees(np.arctan2(row - 100, col - 100))[stroke] // 10).astype(int))
    assert len(angles) >= 32


def test_a_line_through_a_whole_tile_does_not_run_along_its_edge():
    mask = np.zeros((80, 200), np.uint8)
    row, col = np.nonzero(scribbled(mask, scribble_width=1, scribble_share=1.0) != IGNORE)
    inner = (col > 60) & (col < 140)
    assert inner.any()
    assert np.abs(row[inner] - 39.5).max() < 10


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
def test_a_stroke_is_as_wide_as_asked(width):
    mask = np.full((61, 400), UNKNOWN, np.uint8)
    mask[:, 5:395] = 0
    label = scribbled(mask, scribble_width=width, scribble_share=1.0)
    across = (label != IGNORE).sum(0)[100:300]
    # A slope widens a cut along a column, never narrows it.
    assert across.min() >= width
    assert np.median(across) <= width + 1


def test_a_larger_share_covers_the_smaller_one_and_shares_are_of_the_length():
    for seed in range(3):
        mask = np.full((60, 400), UNKNOWN, np.uint8)
        mask[20:41, 10:390] = 2
        strokes = [scribbled(mask, str(seed), scribble_share=share) != IGNORE for share in (0.1, 0.3, 0.5, 0.8, 1.0)]
        for smaller, larger in itertools.pairwise(strokes):
            assert (larger | ~smaller).all()
        lengths = np.array([np.ptp(np.nonzero(stroke)[1]) for stroke in strokes])
        np.testing.assert_allclose(lengths / lengths[-1], [0.1, 0.3, 0.5, 0.8, 1.0], atol=0.05)


def test_a_stroke_lies_anywhere_along_its_line():
    mask = np.full((21, 120), UNKNOWN, np.uint8)
    mask[5:16, 10:110] = 2
    middles = []
    for tile in range(200):
        _, col = np.nonzero(scribbled(mask, str(tile), scribble_width=1, scribble_share=0.2) != IGNORE)
        middles.append((col.min() + col.max()) / 2)
    counts = np.histogram(middles, 4, (20, 100))[0]
    # Chi-square with 3 degrees of freedom: above 21 once in 10,000 times.
    assert ((counts - 50) ** 2 / 50).sum() < 21
    always_the_middle = np.histogram(np.full(200, 60.1), 4, (20, 100))[0]
    assert ((always_the_middle - 50) ** 2 / 50).sum() > 21


def test_the_same_strokes_for_ever():
    mask = np.full((9, 12), 1, np.uint8)
    mask[2:7, 2:10] = 4
    label = scribbled(mask, "855", seed=7, scribble_width=1, min_area=30)
    assert ["".join(".14"[int(value == 1) + 2 * int(value == 4)] for value in row) for row in label] == [
        "............",
        ".....11111..",
        "..........1.",
        "..........1.",
        ".....444..1.",
        "........4.1.",
        "..........1.",
        "............",
        "............",
    ]


def test_a_component_of_one_pixel_is_its_own_stroke():
    mask = np.full((5, 5), UNKNOWN, np.uint8)
    mask[2, 3] = 1
    np.testing.assert_array_equal(scribbled(mask) == 1, mask == 1)
    assert (scribbled(mask, min_area=2) == IGNORE).all()


# Patches


@pytest.mark.parametrize("seed", range(3))
def test_a_patch_is_a_square_around_a_pixel_of_each_class_with_all_its_known_pixels(seed):
    mask = land(seed)
    side = 16
    options = label_options(default.get_config().points.to_dict() | {"annotator": "block", "block_px": side})
    label = block(mask, "119", options, DEEPGLOBE)
    taught = label != IGNORE
    np.testing.assert_array_equal(label[taught], mask[taught])
    expected = np.zeros(mask.shape, bool)
    strata = balanced(mask, 1, DEEPGLOBE)
    assert len(strata) == UNKNOWN
    first = label_options(default.get_config().points.to_dict() | {"budget": 1})
    drawn = draw(mask, "119", first, DEEPGLOBE).points
    for row, col in zip(drawn.row, drawn.col, strict=True):
        top, left = np.clip(row - side // 2, 0, 90 - side), np.clip(col - side // 2, 0, 110 - side)
        expected[top : top + side, left : left + side] = True
    np.testing.assert_array_equal(taught, expected & (mask < UNKNOWN))


def test_a_patch_larger_than_the_tile_is_the_tile():
    mask = land(0, (20, 30))
    options = label_options(default.get_config().points.to_dict() | {"annotator": "block", "block_px": 50})
    label = block(mask, "119", options, DEEPGLOBE)
    np.testing.assert_array_equal(label, np.where(mask < UNKNOWN, mask, IGNORE))

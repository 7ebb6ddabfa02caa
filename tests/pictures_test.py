import numpy as np
import pytest

from pcejax import pictures
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.points import Points


def grey(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def test_every_class_has_its_colour_and_ignore_is_none_of_them():
    ids = np.array([[*range(7), IGNORE]], np.uint8)
    colored = pictures.color_map(ids, DEEPGLOBE)
    assert colored.dtype == np.uint8
    np.testing.assert_array_equal(colored[0, :7], DEEPGLOBE.palette)
    assert tuple(colored[0, 7]) not in DEEPGLOBE.colors
    assert len(set(colored[0, 7].tolist())) == 1  # grey


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_an_overlay_lies_between_image_and_colours(opacity):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    laid = pictures.overlay(grey(2, 3), ids, DEEPGLOBE, opacity)
    expected = (1 - opacity) * 100.0 + opacity * pictures.color_map(ids, DEEPGLOBE)
    assert np.abs(laid - expected).max() <= 1


def test_confidence_is_black_at_zero_and_white_at_one():
    shown = pictures.confidence(np.array([[0.0, 0.5, 1.0, 1.0000001]]))
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], [[0] * 3, [127] * 3, [255] * 3, [255] * 3])


@pytest.mark.parametrize("place", [(20, 30), (0, 0), (39, 59)])
def test_a_point_is_drawn_where_it_is_in_the_colour_of_its_class(place):
    image = grey(40, 60)
    row, col = (np.array([v], np.int32) for v in place)
    drawn = pictures.with_points(image, Points(row, col, np.array([4]), np.array([0])), DEEPGLOBE, radius=3)
    assert drawn.shape == image.shape
    assert tuple(drawn[place]) == DEEPGLOBE.colors[4]
    changed = np.argwhere((drawn != image).any(-1))
    assert np.abs(changed - place).max() == 3
    assert (drawn == 0).all(-1).any()  # the ring
    assert (image == 100).all()  # the image that came in is left as it was


def test_an_image_without_points_stays_the_same():
    none = Points(*(np.zeros(0, np.int32) for _ in range(4)))
    np.testing.assert_array_equal(pictures.with_points(grey(5, 6), none, DEEPGLOBE, 2), grey(5, 6))


def test_panels_lie_side_by_side_in_their_order():
    sheet = np.asarray(pictures.side_by_side([grey(10, 20, 0), grey(30, 5, 50), grey(8, 8, 90)], side=16))
    assert sheet.shape[0] == 16
    centres = [8, 8 + 22, 8 + 44]
    assert [int(sheet[8, col, 0]) for col in centres] == [0, 50, 90]
    assert sheet.shape[1] == 3 * 16 + 2 * 6
    assert (sheet[:, 16:22] == 255).all()

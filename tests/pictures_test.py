import numpy as np
import pytest

from pcejax import pictures
from pcejax.annotators import Annotation
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


def annotation(label, points=None):
    return Annotation(label, points, None, np.ones(7, np.float32), ())


def points_of(*rows):
    return Points(*np.array(rows, np.int32).reshape(-1, 4).T)


@pytest.mark.parametrize(
    ("shape", "place", "radius"),
    [((40, 60), (20, 30), 2), ((450, 600), (20, 30), 4), ((450, 600), (0, 0), 4), ((450, 600), (449, 599), 4)],
)
def test_a_point_is_drawn_where_it_is_in_the_colour_of_its_class(shape, place, radius):
    image = grey(*shape)
    label = np.full(shape, IGNORE, np.uint8)
    label[place] = 4
    drawn = pictures.with_annotation(image, annotation(label, points_of((*place, 4, 0))), DEEPGLOBE)
    assert drawn.shape == image.shape
    assert tuple(drawn[place]) == DEEPGLOBE.colors[4]
    changed = np.argwhere((drawn != image).any(-1))
    assert np.abs(changed - place).max() == radius
    assert (drawn == 0).all(-1).any()  # the ring
    assert (image == 100).all()  # the image that came in is left as it was


def test_strokes_and_patches_are_drawn_as_they_are():
    image = grey(5, 6)
    label = np.full((5, 6), IGNORE, np.uint8)
    label[1:3, 2:5], label[4, 0] = 3, 0
    drawn = pictures.with_annotation(image, annotation(label), DEEPGLOBE)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[1:3, 2:5], np.broadcast_to(DEEPGLOBE.colors[3], (2, 3, 3)))
    assert tuple(drawn[4, 0]) == DEEPGLOBE.colors[0]
    assert ((drawn == image).all(-1) == (label == IGNORE)).all()
    assert (image == 100).all()


@pytest.mark.parametrize("points", [None, points_of()], ids=["strokes", "points"])
def test_an_image_without_labels_stays_the_same(points):
    nothing = annotation(np.full((5, 6), IGNORE, np.uint8), points)
    np.testing.assert_array_equal(pictures.with_annotation(grey(5, 6), nothing, DEEPGLOBE), grey(5, 6))


def test_panels_lie_side_by_side_in_their_order():
    sheet = np.asarray(pictures.side_by_side([grey(10, 20, 0), grey(30, 5, 50), grey(8, 8, 90)], side=16))
    assert sheet.shape[0] == 16
    centres = [8, 8 + 22, 8 + 44]
    assert [int(sheet[8, col, 0]) for col in centres] == [0, 50, 90]
    assert sheet.shape[1] == 3 * 16 + 2 * 6
    assert (sheet[:, 16:22] == 255).all()


def test_a_panel_is_cut_out_of_its_sheet_whole():
    sheet = pictures.side_by_side([grey(16, 16, value) for value in (0, 50, 90)], side=16)
    for index, value in enumerate((0, 50, 90)):
        np.testing.assert_array_equal(np.asarray(pictures.panel(sheet, index)), grey(16, 16, value))

import numpy as np
import pytest

from pcejax import legend
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, Legend, decode_mask, encode_mask

TWO = ((0, 0, 0), (1, 2, 3))


def random_ids(shape, num_classes=7, seed=0):
    return np.random.default_rng(seed).integers(0, num_classes, shape, np.uint8)


def test_deepglobe_order_names_and_colours_are_the_contract():
    assert list(zip(DEEPGLOBE.names, DEEPGLOBE.colors, strict=True)) == [
        ("urban", (0, 255, 255)),
        ("agriculture", (255, 255, 0)),
        ("rangeland", (255, 0, 255)),
        ("forest", (0, 255, 0)),
        ("water", (0, 0, 255)),
        ("barren", (255, 255, 255)),
        ("unknown", (0, 0, 0)),
    ]
    assert (DEEPGLOBE.num_classes, DEEPGLOBE.num_known, DEEPGLOBE.has_unknown) == (7, 6, True)
    assert legend.IGNORE == 255


@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (64, 32)])
def test_decode_is_the_inverse_of_encode(shape):
    ids = random_ids(shape)
    rgb = encode_mask(ids, DEEPGLOBE)
    assert rgb.shape == (*shape, 3)
    assert rgb.dtype == np.uint8
    back = decode_mask(rgb, DEEPGLOBE, "tile")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, ids)
    np.testing.assert_array_equal(encode_mask(back, DEEPGLOBE), rgb)


def test_each_channel_of_a_colour_counts():
    # Three classes of the same three values, in other channels.
    colors = ((1, 2, 3), (3, 2, 1), (2, 1, 3))
    three = Legend(("a", "b", "c"), colors, False)
    np.testing.assert_array_equal(decode_mask(np.array([colors], np.uint8), three, "tile"), [[0, 1, 2]])


def test_legends_of_the_same_names_decode_by_their_own_colours():
    # The lookup table is kept between calls: it must be that of the legend asked for.
    rgb = np.array([[(0, 0, 0), (1, 2, 3)]], np.uint8)
    np.testing.assert_array_equal(decode_mask(rgb, Legend(("a", "b"), TWO, False), "tile"), [[0, 1]])
    np.testing.assert_array_equal(decode_mask(rgb, Legend(("a", "b"), TWO[::-1], False), "tile"), [[1, 0]])


def test_a_colour_that_is_no_class_is_told_with_the_name_of_the_mask_and_its_pixels():
    rgb = encode_mask(random_ids((8, 8)), DEEPGLOBE)
    rgb[0, :5] = (255, 0, 0)
    rgb[3, 2] = (0, 254, 255)
    with pytest.raises(UserError) as error:
        decode_mask(rgb, DEEPGLOBE, "119_mask.png")
    message = str(error.value)
    assert message.startswith("119_mask.png: 2 colour(s)")
    assert "(255, 0, 0) at 5 pixels" in message
    assert "(0, 254, 255) at 1 pixels" in message
    assert "urban (0, 255, 255)" in message


def test_a_legend_survives_json_types():
    assert Legend.from_dict(DEEPGLOBE.to_dict()) == DEEPGLOBE


@pytest.mark.parametrize(
    ("names", "colors", "has_unknown", "told"),
    [
        (("a", "b", "c"), TWO, False, "3 names and 2 colours"),
        (("a", "a"), TWO, False, "name 'a' stands for two classes"),
        (("a", "b"), (TWO[0], TWO[0]), False, r"colour \(0, 0, 0\) stands for two classes"),
        (("a", "b"), TWO, True, "1 known classes"),
        (("a",), TWO[:1], False, "1 known classes"),
        (tuple(map(str, range(255))), tuple((0, 0, i) for i in range(255)), False, "255 known classes"),
    ],
)
def test_a_bad_legend_raises(names, colors, has_unknown, told):
    with pytest.raises(UserError, match=told):
        Legend(names, colors, has_unknown)


def test_as_many_classes_as_ids_below_ignore_are_a_legend():
    colors = tuple((0, 0, i) for i in range(254))
    largest = Legend(tuple(map(str, range(254))), colors, False)
    ids = np.arange(254, dtype=np.uint8)[None]
    np.testing.assert_array_equal(decode_mask(encode_mask(ids, largest), largest, "tile"), ids)

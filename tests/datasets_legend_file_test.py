import re

import numpy as np
import pytest

from pcejax.datasets.legend_file import read_legend
from pcejax.errors import UserError
from pcejax.legend import IGNORE

LEGEND = """
classes:
  - {name: cloud, id: 0, color: [255, 255, 255]}
  - {name: water, id: 40, color: [0, 0, 255]}
  - {name: field, id: 7, color: [200, 200, 0]}
unknown: cloud
ignore: [250, 65535]
"""


def write(folder, text=LEGEND):
    path = folder / "legend.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_classes_keep_their_order_and_the_unknown_one_is_the_last(tmp_path):
    got = read_legend(write(tmp_path))
    assert got.legend.names == ("water", "field", "cloud")
    assert got.legend.colors == ((0, 0, 255), (200, 200, 0), (255, 255, 255))
    assert got.legend.has_unknown
    assert got.ids == (40, 7, 0)
    assert got.ignore == (250, 65535)
    without = read_legend(write(tmp_path, LEGEND.partition("unknown")[0]))
    assert without.legend.names == ("cloud", "water", "field")
    assert not without.legend.has_unknown
    assert without.ignore == ()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_ids_of_masks_become_classes(tmp_path, dtype):
    mask = np.array([[40, 7, 0], [250, 7, 7]], dtype)[..., None]
    got = read_legend(write(tmp_path)).class_ids(mask, "mask.tif")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [[0, 1, 2], [IGNORE, 1, 1]])


def test_colours_of_masks_become_classes(tmp_path):
    legend = read_legend(write(tmp_path))
    ids = np.array([[0, 1, 2, 1]], np.uint8)
    np.testing.assert_array_equal(legend.class_ids(legend.legend.palette[ids], "mask.png"), ids)
    with pytest.raises(UserError, match=r"mask.png: .*\(1, 2, 3\) at 4 pixels"):
        legend.class_ids(np.full((2, 2, 3), (1, 2, 3), np.uint8), "mask.png")


def test_an_id_that_is_no_class_is_told_with_its_pixel_count(tmp_path):
    mask = np.array([[[40]], [[9]], [[9]], [[-1]]], np.int16)
    told = r"mask.tif: ids that are no class: -1 at 1 pixels, 9 at 2 pixels; expected only: 40 water, 7 field, 0 cloud"
    with pytest.raises(UserError, match=told):
        read_legend(write(tmp_path)).class_ids(mask, "mask.tif")


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint16), np.zeros((2, 2, 1), np.float32)]
)
def test_a_mask_of_other_bands_is_refused(tmp_path, mask):
    with pytest.raises(UserError, match=f"mask.tif: {mask.shape[-1]} bands of {mask.dtype}; expected one band"):
        read_legend(write(tmp_path)).class_ids(mask, "mask.tif")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id: 40", "id: 7", "id 7 stands for two things"),
        ("[250, 65535]", "[250, 40]", "id 40 stands for two things"),
        ("[0, 0, 255]", "[0, 0, 256]", r"the colour of 'water' is \(0, 0, 256\); expected three numbers from 0 to 255"),
        ("[0, 0, 255]", "[0, 255]", "cannot be read .*; expected classes: a list of"),
        ("[0, 0, 255]", "blue", "cannot be read .*; expected classes: a list of"),
        ("[0, 0, 255]", "[0, 0, 0.5]", r"cannot be read .*0\.5 is no whole number"),
        ("[0, 0, 255]", "[200, 200, 0]", r"colour \(200, 200, 0\) stands for two classes"),
        ("name: water", "name: field", "name 'field' stands for two classes"),
        ("name: water", "name: no", "name False; put it in quotes"),
        ("id: 40", "id: 4.5", r"cannot be read .*4\.5 is no whole number"),
        ("id: 40", "number: 40", r"cannot be read \(KeyError: 'id'\)"),
        ("unknown: cloud", "unknown: haze", r"unknown is 'haze'; expected one of the classes \['cloud', 'water', "),
        ("name: field, id: 7", "name: field id: 7", "cannot be read"),
        (LEGEND, "", "cannot be read"),
        (LEGEND, "[1, 2]", "cannot be read"),
        (LEGEND, "classes: []", "0 known classes; expected 2 to"),
    ],
)
def test_a_legend_that_is_not_as_expected_is_refused_by_its_name(tmp_path, old, new, told):
    assert old in LEGEND
    path = write(tmp_path, LEGEND.replace(old, new, 1))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{told}"):
        read_legend(path)


def test_no_legend_and_one_in_another_encoding_are_told(tmp_path):
    with pytest.raises(UserError, match=r"legend.yaml: no such file; expected classes: a list of"):
        read_legend(tmp_path / "legend.yaml")
    with pytest.raises(UserError, match=r"legend.yaml: cannot be read \(UnicodeDecodeError"):
        read_legend(write(tmp_path, LEGEND.replace("water", "forêt").encode("latin-1")))

import re

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pcejax import drawing


def drawn(words=""):
    with matplotlib.rc_context(drawing.LOOK):
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        drawing.dots(axes, [1, 2], [3, 4], 1)
        axes.fill_between([1, 2], [3, 3], [4, 4], color=drawing.color(0))
        drawing.watermark(figure, words)
    return figure


def test_the_same_figure_gives_the_same_files(tmp_path):
    for name in ("first", "second"):
        drawing.save(drawn("a demonstration"), tmp_path / name)
    for kind in (".png", ".svg"):
        first, second = ((tmp_path / name).with_suffix(kind).read_bytes() for name in ("first", "second"))
        assert first == second


def test_ink_of_the_drawing_follows_a_light_or_dark_page_and_colours_do_not(tmp_path):
    drawing.save(drawn(), tmp_path / "figure")
    svg = (tmp_path / "figure.svg").read_text()
    style = re.search("<style>.*?</style>", svg)[0]
    assert "prefers-color-scheme:dark" in style
    rest = svg.replace(style, "")
    assert drawing.INK not in rest
    assert "currentColor" in rest
    assert drawing.color(0) in rest
    assert not re.search("fill: #ffffff(?!; opacity: 0)", rest)  # no background


def test_the_picture_lies_on_white(tmp_path):
    drawing.save(drawn(), tmp_path / "figure")
    assert Image.open(tmp_path / "figure.png").convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_watermark_lies_across_the_figure_and_within_it():
    figure = drawn("demonstration on synthetic scenes")
    (mark,) = figure.texts
    figure.canvas.draw()
    box, width = mark.get_window_extent(), figure.bbox.width
    assert box.x0 >= 0
    assert box.x1 <= width
    assert box.width > width / 2
    assert drawn("").texts == []


@pytest.mark.parametrize("background", [(255, 255, 255), (18, 18, 18)])
def test_colours_stand_off_from_a_light_and_a_dark_page(background):
    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for index in range(8):
        rgb = [255 * value for value in matplotlib.colors.to_rgb(drawing.color(index))]
        light, dark = sorted((luminance(rgb), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 2

import re

import pytest
from pages_for_tests import Page

from pcejax import pages

EVIL = "<script>alert('1')</script>&amp;\""


def page_of(tmp_path, *parts, **options):
    pages.write(tmp_path / "made" / "page.html", EVIL, parts, **options)
    return Page(tmp_path / "made" / "page.html")


@pytest.mark.parametrize("sortable", [False, True])
def test_words_are_text_and_never_markup(tmp_path, sortable):
    parts = [pages.element("p", EVIL, "note"), pages.table([EVIL], [[EVIL]], sortable=sortable)]
    parts += [pages.picture(b"<svg/>", EVIL, "svg+xml")]
    parts += [pages.key({"names": [EVIL], "colors": [[1, 2, 3]]})]
    page = page_of(tmp_path, *parts)
    assert "script" not in page.tags
    assert page.text.count(EVIL) == 6  # title, paragraph, head, cell, caption, legend


def test_a_page_fetches_nothing_and_forbids_it(tmp_path):
    page = page_of(tmp_path, pages.table(["a"], [[1]], sortable=True), sorts=True)
    assert page.outside == []
    source = (tmp_path / "made" / "page.html").read_text()
    assert "default-src 'none'" in source
    assert "http:" not in source
    assert "https:" not in source


def test_only_a_page_that_sorts_has_a_script(tmp_path):
    assert "script" not in page_of(tmp_path, "<p>x</p>").tags
    assert "script" in page_of(tmp_path, "<p>x</p>", sorts=True).tags


def test_cells_show_three_decimals_and_sort_by_the_whole_value():
    row = [0.12345, 7, None, float("nan"), "water"]
    cells = re.findall(r"<td.*? data-value='(.*?)'>(.*?)</td>", pages.table(list("abcde"), [row], sortable=True))
    assert [shown for _, shown in cells] == ["0.123", "7", "–", "–", "water"]
    assert [value for value, _ in cells] == ["0.12345", "7", "None", "nan", "water"]
    assert "data-value" not in pages.table(list("abcde"), [row])
    assert "button" not in pages.table(list("abcde"), [row])


def test_a_column_of_numbers_stands_to_the_right_and_one_with_a_word_does_not():
    rows = [[1, "3", "+0.1 to +0.2", None], [2, "dense", "-0.1 to +0.2", 0.5]]
    for column in re.findall(r"<t[dh].*?</t[dh]>", pages.table(list("abcd"), rows)):
        name = re.sub("<.*?>", "", column)
        assert ("number" in column) == (name not in ("b", "3", "dense")), column

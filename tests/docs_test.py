"""What the documentation shows works as it stands."""

import os
import re
from pathlib import Path

import pytest

from pcejax import terms

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


def test_the_blocks_of_the_page_about_code_run_one_after_the_other(monkeypatch):
    monkeypatch.setattr(terms, "TERMS", dict(terms.TERMS))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "code.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names = {"__name__": "docs.code"}
    for block in blocks:
        exec(compile(block, "docs/code.md", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_points_to_is_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    # Modules and files by their path, and scripts by their name.
    for path in re.findall(r"`((?:pcejax|configs|scripts|tests|docs)/[\w/]+\.(?:py|sh|md|sbatch))", text):
        assert (DOCS.parent / path).exists(), path


@pytest.mark.parametrize("script", sorted((DOCS.parent / "scripts").glob("*.py")), ids=lambda script: script.name)
def test_a_script_starts_as_pages_show_it(script):
    assert os.access(script, os.X_OK)
